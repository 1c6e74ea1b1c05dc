"""A calorimeter is layers of cells; those of the study are read from data files.

The files ``calorimeters/<name>.json`` hold the binning only. A layer entry has its public number
``id`` and either ``alpha_bins`` (equal bins on [-pi, pi]) and ``r_edges`` (mm), or the range and
number of equal bins in ``eta`` and ``phi`` (mm), plus ``depth`` (mm from the front face) where it
is known; ``repeat`` stacks a layer that many times. Conventions are those of the CaloChallenge
evaluation (https://github.com/CaloChallenge/homepage): the centre of a cell is the arithmetic
middle of its bins, "eta" and "phi" are the Cartesian coordinates across the shower axis in mm.
"""

import json
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources

import numpy as np

from calostudy.errors import UsageError

_FOLDER = resources.files("calostudy") / "calorimeters"

CALORIMETERS: tuple[str, ...] = (
    "ds1-photons",
    "ds1-pions",
    "ds2",
    "ds3",
    "calogan",
    "ild",
    "segmentations",
)
"""Names of the calorimeters that :func:`calorimeter` knows."""

AXES = {"cylindrical": ("alpha", "r"), "cartesian": ("eta", "phi")}
"""The two axes of a layer, slow one first, by its view."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of cells, in the order of the public files (last axis fastest).

    Attributes:
        id: the layer's number in the public files (12 to 14 are ATLAS' hadronic layers).
        view: "cylindrical" (axes alpha in rad, r in mm) or "cartesian" (eta and phi, both mm).
        edges: bin edges of the two axes, slow axis first.
        depth: (near, far) in mm along the shower axis from the front face, or None if unknown.

    The centre arrays ``eta``, ``phi``, ``r`` (mm) and ``alpha`` (rad, within [-pi, pi]) and
    ``size`` (mm^2) have shape (cells,); every layer has all of them, whatever its view.
    """

    id: int
    view: str
    edges: tuple[np.ndarray, np.ndarray]
    depth: tuple[float, float] | None = None

    @property
    def axes(self) -> tuple[str, str]:
        """Names of the two axes, slow axis first."""
        return AXES[self.view]

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(n_alpha, n_r) or (n_eta, n_phi)."""
        return len(self.edges[0]) - 1, len(self.edges[1]) - 1

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.shape[0] * self.shape[1]

    @property
    def two_dimensional(self) -> bool:
        """Whether both axes are binned; a layer of rings only has no centre in eta or phi."""
        return min(self.shape) > 1

    @cached_property
    def _centres(self) -> tuple[np.ndarray, np.ndarray]:
        slow, fast = (0.5 * (edges[:-1] + edges[1:]) for edges in self.edges)
        return _constant(np.repeat(slow, len(fast))), _constant(np.tile(fast, len(slow)))

    @cached_property
    def eta(self) -> np.ndarray:
        """Centres in eta (mm)."""
        if self.view == "cartesian":
            return self._centres[0]
        return _constant(self.r * np.cos(self.alpha))

    @cached_property
    def phi(self) -> np.ndarray:
        """Centres in phi (mm)."""
        if self.view == "cartesian":
            return self._centres[1]
        return _constant(self.r * np.sin(self.alpha))

    @cached_property
    def r(self) -> np.ndarray:
        """Distances of the centres from the shower axis (mm)."""
        if self.view == "cylindrical":
            return self._centres[1]
        return _constant(np.hypot(self.eta, self.phi))

    @cached_property
    def alpha(self) -> np.ndarray:
        """Angles of the centres around the shower axis (rad)."""
        if self.view == "cylindrical":
            return self._centres[0]
        return _constant(np.arctan2(self.phi, self.eta))

    @cached_property
    def size(self) -> np.ndarray:
        """Areas of the cells across the shower axis (mm^2)."""
        slow, fast = self.edges
        if self.view == "cylindrical":
            fast = 0.5 * fast**2
        return _constant(np.outer(np.diff(slow), np.diff(fast)).ravel())


@dataclass(frozen=True, eq=False)
class Calorimeter:
    """Layers of cells, concatenated in the order of the public files.

    ``eta``, ``phi``, ``r`` (mm), ``alpha`` (rad), ``size`` (mm^2) and ``layer_index`` (position in
    ``layers``, not the public number) have shape (cells,).
    """

    name: str
    title: str
    file_format: str
    layers: tuple[Layer, ...]
    source: str = ""

    @cached_property
    def cells(self) -> int:
        """Number of cells in all layers."""
        return sum(layer.cells for layer in self.layers)

    @property
    def layer_ids(self) -> tuple[int, ...]:
        """Public numbers of the layers."""
        return tuple(layer.id for layer in self.layers)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """For each layer, where its cells lie in the flat order."""
        stops = np.cumsum([layer.cells for layer in self.layers])
        starts = np.concatenate([[0], stops[:-1]])
        return tuple(slice(int(a), int(b)) for a, b in zip(starts, stops, strict=True))

    @cached_property
    def shape(self) -> tuple[int, int, int] | None:
        """(layers, *layer shape) where all layers have one shape, else None."""
        shapes = {layer.shape for layer in self.layers}
        return (len(self.layers), *shapes.pop()) if len(shapes) == 1 else None

    @cached_property
    def eta(self) -> np.ndarray:
        """Centres in eta (mm)."""
        return self._joined("eta")

    @cached_property
    def phi(self) -> np.ndarray:
        """Centres in phi (mm)."""
        return self._joined("phi")

    @cached_property
    def r(self) -> np.ndarray:
        """Distances of the centres from the shower axis (mm)."""
        return self._joined("r")

    @cached_property
    def alpha(self) -> np.ndarray:
        """Angles of the centres around the shower axis (rad)."""
        return self._joined("alpha")

    @cached_property
    def size(self) -> np.ndarray:
        """Areas of the cells across the shower axis (mm^2)."""
        return self._joined("size")

    @cached_property
    def layer_index(self) -> np.ndarray:
        """Position of each cell's layer in ``layers``."""
        counts = [layer.cells for layer in self.layers]
        return _constant(np.repeat(np.arange(len(counts)), counts))

    @cached_property
    def rings(self) -> np.ndarray:
        """Of each cell its ring, counted through all layers: the cells of one layer and radius,
        which are alike; of Cartesian layers each cell is one by itself.

        >>> int(calorimeter("ds2").rings.max()) + 1 == 45 * 9
        True
        """
        rings, count = [], 0
        for layer in self.layers:
            slow, fast = np.indices(layer.shape).reshape(2, -1)
            ring = fast if layer.view == "cylindrical" else slow * layer.shape[1] + fast
            rings.append(ring + count)
            count += int(ring.max()) + 1
        return _constant(np.concatenate(rings))

    def layer_energies(self, cells: np.ndarray) -> np.ndarray:
        """Sum cell energies (N, cells) to layer energies (N, layers), accumulated in float64.

        >>> calorimeter("calogan").layer_energies(np.ones((1, 504), np.float32))
        array([[288., 144.,  72.]])
        """
        cells = np.asarray(cells)
        if cells.ndim != 2 or cells.shape[1] != self.cells:
            raise UsageError(f"{self.name} has (N, {self.cells}) cells, these are {cells.shape}")
        return np.stack([cells[:, s].sum(axis=1, dtype=np.float64) for s in self.slices], axis=1)

    def _joined(self, name: str) -> np.ndarray:
        return _constant(np.concatenate([getattr(layer, name) for layer in self.layers]))

    def __repr__(self) -> str:
        return f"Calorimeter({self.name!r}, {len(self.layers)} layers, {self.cells} cells)"


@cache
def calorimeter(name: str) -> Calorimeter:
    """Return a calorimeter by name; the same object every time.

    >>> calorimeter("ds2").shape
    (45, 16, 9)
    >>> calorimeter("ds1-photons").layer_ids
    (0, 1, 2, 3, 12)

    Raises:
        UsageError: no calorimeter has that name.
    """
    if name not in CALORIMETERS:
        raise UsageError(f"no calorimeter {name!r}; there are {', '.join(CALORIMETERS)}")
    card = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    layers = [layer for entry in card["layers"] for layer in _layers(entry, card["view"])]
    return Calorimeter(name, card["title"], card["file_format"], tuple(layers), card["source"])


def _layers(entry: dict, view: str) -> list[Layer]:
    """Build the layers that one entry of a data file stands for."""
    edges = tuple(_constant(_edges(entry, axis)) for axis in AXES[view])
    near, far = entry.get("depth", (None, None))
    thickness = 0.0 if near is None else far - near
    return [
        Layer(
            entry["id"] + i,
            view,
            edges,
            None if near is None else (near + i * thickness, near + (i + 1) * thickness),
        )
        for i in range(entry.get("repeat", 1))
    ]


def _edges(entry: dict, axis: str) -> np.ndarray:
    if f"{axis}_edges" in entry:
        return np.asarray(entry[f"{axis}_edges"], dtype=np.float64)
    low, high = entry.get(f"{axis}_range", (-np.pi, np.pi))
    return np.linspace(low, high, entry[f"{axis}_bins"] + 1)


def _constant(array: np.ndarray) -> np.ndarray:
    """Calorimeters are shared by everybody: nobody may write into their arrays."""
    array.setflags(write=False)
    return array
