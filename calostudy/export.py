"""Surrogates as ONNX files: from incident energies and noise to cells, the same showers elsewhere.

ONNX Runtime runs them without Python, PyTorch or this package: it is the engine that the
experiments' frameworks and Geant4's example Par04 embed
(https://gitlab.cern.ch/geant4/geant4/-/tree/master/examples/extended/parameterisations/Par04).
A file holds all from the incident energy to energies above the threshold: networks, splines, the
maps between numbers and energies. Noise goes in as numbers, so that the same noise makes the same
shower. Surrogates whose sampler is a fixed graph can be exported: `GRAPHS`.
"""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from nflows.transforms.permutations import Permutation
from torch import Tensor, nn

from calostudy import __version__
from calostudy import preprocessing as pre
from calostudy.errors import DataError, UsageError
from calostudy.files import atomic_path
from calostudy.models import calovae_inn
from calostudy.models.bologan import BoloGAN
from calostudy.models.calodiffusion import STEPS, CaloDiffusion
from calostudy.models.caloflow import LARGEST, LAYERS, SMALLEST_CELL, VOXELS
from calostudy.models.caloflow_student import CaloFlowStudent
from calostudy.models.calogan import CaloGAN
from calostudy.models.caloinn import FLOW, CaloINN
from calostudy.models.caloscore_distilled import CaloScoreDistilled, CaloScoreSingleShot
from calostudy.models.caloshowergan import CaloShowerGAN
from calostudy.models.calovae_inn import CaloVAEINN
from calostudy.models.diffusion import STREAMS, Diffusion
from calostudy.models.dnn_calosim import DNNCaloSim
from calostudy.models.flow_matching import FlowMatching
from calostudy.models.flow_matching_distilled import FlowMatchingDistilled
from calostudy.models.one_pass import OnePass
from calostudy.models.surrogate import Surrogate
from calostudy.networks.cubic_spline import CubicSettings, inverse_cubic_spline
from calostudy.networks.flows import spline_settings
from calostudy.networks.iaf import inverse_autoregressive_steps
from calostudy.networks.spline import SplineSettings
from calostudy.networks.spline_inverse import inverse_by_torch
from calostudy.normal import ndtr, ndtri
from calostudy.samplers.coupling import inverted
from calostudy.samplers.diffusion import SOLVERS
from calostudy.samplers.maf_torch import TriangularSampler
from calostudy.samplers.noise import Noise

INCIDENT, CELLS = "incident_energy", "cells"
OPSET = 20


class Graph(nn.Module, ABC):
    """incident energies (N,) in MeV and random numbers, float64, to cells (N, V) in MeV, float32.

    A subclass sets `inputs` and says in `cells` what comes before the threshold.
    """

    inputs: tuple[Noise, ...]

    def __init__(self, surrogate: Surrogate):
        super().__init__()
        self.surrogate = surrogate
        self.least = surrogate.dataset.threshold

    @abstractmethod
    def cells(self, incident: Tensor, *numbers: Tensor) -> Tensor:
        """Cells (N, V) in MeV, before the threshold."""

    def forward(self, incident: Tensor, *numbers: Tensor) -> Tensor:
        cells = self.cells(incident, *numbers).float()
        return torch.where(cells < self.least, 0.0, cells)


class _Student(Graph):
    """Flow-I in as many steps as there are layers, flow-II in one pass through each block."""

    def __init__(self, surrogate: CaloFlowStudent):
        super().__init__(surrogate)
        calorimeter = surrogate.dataset.calorimeter
        self.layers = len(calorimeter.layers)
        self.inputs = (Noise("noise", self.layers + calorimeter.cells),)
        self.least = max(self.least, SMALLEST_CELL)
        self.first = TriangularSampler(surrogate.networks[LAYERS], "float32")
        self.steps = []
        for step in reversed(inverse_autoregressive_steps(surrogate.networks[VOXELS])):
            if isinstance(step, Permutation):
                self.steps.append(step._inverse_permutation)
            else:
                self.steps.append((unmasked(step.autoregressive_net), spline_settings(step)))

    def cells(self, incident: Tensor, noise: Tensor) -> Tensor:
        model, noise = self.surrogate, noise.float()
        calorimeter, incident = model.dataset.calorimeter, pre.to_units(incident)
        told = model._incident_condition(incident).float()
        values = self.first.of_tensors(noise[:, : self.layers], told).double()
        fractions = pre.inverse_logit(model._unstandardised(LAYERS, values))
        energies = pre.energies_from_fractions(fractions, incident, model.preparation.response)
        told = model._voxel_condition(incident, energies).float()
        values = noise[:, self.layers :]
        for step in self.steps:
            if isinstance(step, Tensor):
                values = values[:, step]
            else:
                network, settings = step
                raw = network(values, told).t()
                values = inverse_by_torch(values.t(), raw, settings)[0].t()
        voxels = pre.inverse_logit(model._unstandardised(VOXELS, values.double()))
        if model.embedded:
            voxels = torch.minimum(voxels, model.constants[LARGEST].double())
        return pre.to_mev(pre.scale_layers(voxels, energies, calorimeter.slices))


class _INN(Graph):
    def __init__(self, surrogate: CaloINN):
        super().__init__(surrogate)
        flow = surrogate.networks[FLOW]
        self.inputs = (Noise("noise", flow.features),)
        self.blocks = copy.deepcopy(flow.blocks).eval()

    def cells(self, incident: Tensor, noise: Tensor) -> Tensor:
        told = self.surrogate.condition(incident).float()
        values = inverted(self.blocks, noise.float(), told, _SPLINES)
        return self.surrogate.to_cells(values, incident)


_SPLINES = {
    SplineSettings: lambda *given: inverse_by_torch(*given)[0],
    CubicSettings: inverse_cubic_spline,
}


class _VAEINN(Graph):
    """The flow of the latent numbers, then the decoder."""

    def __init__(self, surrogate: CaloVAEINN):
        super().__init__(surrogate)
        flow = surrogate.networks[calovae_inn.FLOW]
        self.inputs = (
            Noise("noise", flow.features),
            Noise("latent_noise", surrogate.structure.latent, stream=1),
            Noise("hits", surrogate.dataset.calorimeter.cells, "uniform", stream=2),
        )
        self.blocks = copy.deepcopy(flow.blocks).eval()
        self.autoencoder = copy.deepcopy(surrogate.networks[calovae_inn.AUTOENCODER]).eval()

    def cells(self, incident: Tensor, noise: Tensor, latent_noise: Tensor, hits: Tensor) -> Tensor:
        told = self.surrogate.flow_condition(incident).float()
        values = inverted(self.blocks, noise.float(), told, _SPLINES)
        return self.surrogate.decoded(self.autoencoder, values, latent_noise, hits, incident)


class _OnePass(Graph):
    def __init__(self, surrogate: OnePass):
        super().__init__(surrogate)
        self.inputs, self.made = surrogate.noise, surrogate.decoders("float32")

    def cells(self, incident: Tensor, *numbers: Tensor) -> Tensor:
        return self.surrogate.cells_from(self.made, incident, *numbers)


class _Steps(Graph):
    """Of a diffusion of few steps, all of them.

    of_cells: the place of the network of the cells among the surrogate's; that of the layers is
    the first.
    """

    of_cells = 1

    def __init__(self, surrogate: Diffusion):
        super().__init__(surrogate)
        sampling, cells = surrogate.samplings[surrogate.VOXELS], surrogate.dataset.calorimeter.cells
        fresh = range(1, sampling.counted if SOLVERS[sampling.solver].fresh else 1)
        # Streams are those of `calostudy.models.diffusion.ShowerNoise`.
        self.inputs = (
            Noise("layer_noise", surrogate.numbers_of_layers),
            Noise("cell_noise", cells, stream=self.of_cells * STREAMS),
            *(
                Noise(f"cell_noise_{step}", cells, stream=self.of_cells * STREAMS + step)
                for step in fresh
            ),
        )
        self.made = {
            name: surrogate.SAMPLERS["eager"](network, "float32")
            for name, network in surrogate.networks.items()
        }

    def cells(self, incident: Tensor, *numbers: Tensor) -> Tensor:
        given = _Given({each.stream: n for each, n in zip(self.inputs, numbers, strict=True)})
        return self.surrogate.cells(incident, self.made, self.surrogate.samplings, given)


@dataclass(frozen=True)
class _Given:
    """Numbers from outside, by stream, in the place of `calostudy.models.diffusion.ShowerNoise`."""

    numbers: Mapping[int, Tensor]
    dtype: torch.dtype = torch.float32

    def of(self, network: int, shape: tuple[int, ...]) -> Callable[[int], Tensor]:
        return lambda step: self.numbers[network * STREAMS + step].to(self.dtype)


class _CaloDiffusion(_Steps):
    of_cells = 2

    def __init__(self, surrogate: CaloDiffusion):
        if not surrogate.embedded:
            raise UsageError(f"{surrogate} takes {STEPS} steps, too many for one graph")
        super().__init__(surrogate)
        for module in self.made[surrogate.VOXELS].modules():
            # Of a convolution without biases torch writes some of a wrong shape.
            if isinstance(module, nn.Conv3d) and module.bias is None:
                module.bias = nn.Parameter(torch.zeros(module.out_channels))


GRAPHS: dict[type[Surrogate], type[Graph]] = {
    CaloFlowStudent: _Student,
    CaloINN: _INN,
    CaloScoreDistilled: _Steps,
    CaloScoreSingleShot: _Steps,
    CaloDiffusion: _CaloDiffusion,
    FlowMatching: _Steps,
    FlowMatchingDistilled: _Steps,
    CaloVAEINN: _VAEINN,
    DNNCaloSim: _OnePass,
    CaloGAN: _OnePass,
    BoloGAN: _OnePass,
    CaloShowerGAN: _OnePass,
}
"""What can be exported. Others are no fixed graph (a cell or a point after the other), or ask their
networks hundreds of times."""


def unmasked(made: nn.Module) -> nn.Module:
    """A MADE whose masks are multiplied into its weights, in evaluation mode."""
    made = copy.deepcopy(made).eval()
    for module in made.modules():
        if hasattr(module, "mask"):
            module.weight.data *= module.mask
            module.forward = lambda x, m=module: nn.functional.linear(x, m.weight, m.bias)
    return made


def graph_of(surrogate: Surrogate) -> Graph:
    """The graph of a surrogate, in evaluation mode.

    Raises:
        UsageError: it is none of `GRAPHS`.
    """
    made = GRAPHS.get(type(surrogate))
    if made is None:
        known = ", ".join(family.name for family in GRAPHS)
        raise UsageError(f"{surrogate.name} cannot be exported as one graph; these can: {known}")
    return made(surrogate).eval()


def export(surrogate: Surrogate, out: str | Path) -> Path:
    """Write a surrogate as an ONNX file, whole or not at all.

    Its inputs are `incident_energy` (N,) in MeV and random numbers, float64, any N; its output
    `cells` (N, V) in MeV, float32. What they are stands in the file's metadata.

    Raises:
        UsageError: the surrogate is no fixed graph, or a package of the extra "onnx" is missing.
    """
    graph, out = graph_of(surrogate), Path(out)
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise UsageError(
            f"export needs the extra onnx: pip install calostudy[onnx] ({error})"
        ) from None
    count = 3
    example = [torch.full((count,), 1e4, dtype=torch.float64)]
    example += [torch.as_tensor(each.draw(0, 0, count)) for each in graph.inputs]
    with torch.no_grad():
        graph(*example)  # tables that are made at their first use are not to be made of traces
    names = [INCIDENT, *(each.name for each in graph.inputs)]
    showers = torch.export.Dim("showers", min=1)
    shapes = {0: showers}, tuple({0: showers} for _ in graph.inputs)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.export.export(graph, tuple(example), dynamic_shapes=shapes)
        program = torch.onnx.export(
            traced.run_decompositions(_BY_ARITHMETIC),
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            output_names=[CELLS],
            verbose=False,
            custom_translation_table={torch.ops.aten.sort.stable: _sorted()},
            optimize=False,
        )
    model = program.model_proto
    _make_lean(model.graph)
    onnx.helper.set_model_props(model, metadata(surrogate, graph))
    with atomic_path(out) as path:
        onnx.save(model, path)
    return out


def _make_lean(graph) -> None:
    """Keep equal weights once, which each step of a solver has brought along."""
    first, names = {}, {}
    for tensor in graph.initializer:
        content = tensor.data_type, tuple(tensor.dims), tensor.raw_data
        # Only what is kept as raw bytes can be told to be equal by them.
        names[tensor.name] = (
            first.setdefault(content, tensor.name) if tensor.raw_data else tensor.name
        )
    kept = [tensor for tensor in graph.initializer if names[tensor.name] == tensor.name]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    _rename(graph, names)


def _rename(graph, names: Mapping[str, str]) -> None:
    """Give the inputs of nodes new names and forget the exporter's remarks, in graphs inside of
    nodes, too."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        del node.metadata_props[:]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, names)


def _place_in(ordered: Tensor, values: Tensor, *, right: bool = False, **rest) -> Tensor:
    """`torch.searchsorted` by comparing everything: lines have a hundred numbers at most."""
    ordered, values = ordered.unsqueeze(-2), values.unsqueeze(-1)
    return (ordered <= values if right else ordered < values).sum(dim=-1)


def _softplus(values: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """ONNX Runtime has none in double precision."""
    return values.relu() + (-(beta * values).abs()).exp().log1p() / beta


_BY_ARITHMETIC = {
    torch.ops.aten.softplus.default: _softplus,
    torch.ops.aten.searchsorted.Tensor: _place_in,
    torch.ops.aten.special_ndtr.default: ndtr,
    torch.ops.aten.special_ndtri.default: ndtri,
}
"""Functions for which ONNX has no operator."""


def _sorted() -> Callable:
    """How a stable sort is written in ONNX: of equal numbers `TopK` takes the first one first."""
    from onnxscript import opset20 as op

    def sort(x, stable=True, dim: int = -1, descending: bool = False):
        size = op.Reshape(op.Gather(op.Shape(x), op.Constant(value_int=dim)), [1])
        return op.TopK(x, size, axis=dim, largest=int(descending), sorted=1)

    return sort


def metadata(surrogate: Surrogate, graph: Graph) -> dict[str, str]:
    """What a file says of itself."""
    about = {
        "model": surrogate.name,
        "dataset": surrogate.dataset.name,
        "size": surrogate.size,
        "weights_sha256": surrogate.weights_sha256 or "untrained",
        "calostudy": __version__,
        f"input {INCIDENT}": "(N,) incident energy in MeV",
        f"output {CELLS}": f"(N, {surrogate.dataset.calorimeter.cells}) energies of cells in MeV, "
        f"0 below {graph.least:g} MeV, in the order of the public files",
    }
    for each in graph.inputs:
        about[f"input {each.name}"] = f"(N, {each.size}) {each.distribution}, stream {each.stream}"
    return about


class Exported:
    """A file of `export`, run by ONNX Runtime on so many threads.

    Raises:
        DataError: the file is missing, or no such file.
        UsageError: ONNX Runtime is not installed.
    """

    def __init__(self, path: str | Path, threads: int = 1):
        try:
            import onnxruntime
        except ImportError as error:
            raise UsageError(f"ONNX Runtime is not installed ({error})") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            about = self.session.get_modelmeta().custom_metadata_map
            names = [each.name for each in self.session.get_inputs()[1:]]
            self.about, self.inputs = about, [_input_of(about, name) for name in names]
        except Exception as error:  # ONNX Runtime has a dozen of its own
            text = str(error).splitlines()[0]
            raise DataError(f"{path}: not an exported surrogate ({text})") from None

    def sample(self, incident_energy: np.ndarray, seed: int = 0, first: int = 0) -> np.ndarray:
        """Cells (N, V) in MeV, float32, for incident energies (N,) in MeV: those that the surrogate
        makes of the same seed, but for rounding."""
        energies = np.atleast_1d(np.asarray(incident_energy, np.float64))
        feed = {each.name: each.draw(seed, first, len(energies)) for each in self.inputs}
        return self.session.run([CELLS], {INCIDENT: energies, **feed})[0]


def _input_of(about: dict[str, str], name: str) -> Noise:
    shape, _, rest = about[f"input {name}"].partition(") ")
    distribution, _, stream = rest.partition(", stream ")
    return Noise(name, int(shape.partition(", ")[2]), distribution, int(stream))
