"""Showers in space that a reader can turn: figures of plotly, each with a picture of the same.

The book loads plotly.js and `book/_static/showers.js` on pages that show some; where they do not
run, the pictures stay.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np

from calostudy.plots.displays import cells_in_space
from calostudy.plots.style import ENERGY_MAP, log_norm
from calostudy.showers import Showers

#: Of a shower with more hits, so many of the largest are drawn.
MOST = 4000


@dataclass(frozen=True, repr=False)
class TurningShowers:
    """What a notebook shows: HTML with one figure and one picture per shower.

    figures: name -> plotly's Figure; pictures: name -> PNG; alt: name -> what it shows, in words.
    """

    figures: Mapping[str, object]
    pictures: Mapping[str, bytes]
    alt: Mapping[str, str]

    def _repr_html_(self) -> str:
        parts = []
        for name, figure in self.figures.items():
            picture = base64.b64encode(self.pictures[name]).decode()
            # "</" would end the element that the JSON stands in.
            data = figure.to_json().replace("</", "<\\/")
            parts.append(
                '<figure class="study-shower">'
                f'<img src="data:image/png;base64,{picture}" alt="{html.escape(self.alt[name])}">'
                f'<script type="application/json">{data}</script>'
                f"<figcaption>{html.escape(self.alt[name])}</figcaption></figure>"
            )
        return f'<div class="study-showers">{"".join(parts)}</div>'


def turning_showers(samples: Mapping[str, Showers], threshold: float = 0.0) -> TurningShowers:
    """The first shower of each sample in space, all on one scale of energies.

    threshold: cells with less, in MeV, are left out; so are all but the `MOST` largest.
    """
    norm = log_norm(np.concatenate([showers.cells[0] for showers in samples.values()]), 5)
    figures, pictures, alt = {}, {}, {}
    for name, showers in samples.items():
        cells = showers.cells[0]
        hit = np.flatnonzero((cells > 0) & (cells >= threshold))
        hit = hit[np.argsort(cells[hit])][-MOST:]
        alt[name] = (
            f"{name}: {showers.incident_energy[0] / 1e3:.1f} GeV, {len(hit):,} cells hit, "
            f"{cells[hit].sum(dtype=np.float64):,.0f} MeV in them."
        )
        figures[name] = _figure(showers, hit, norm)
        pictures[name] = _picture(showers, norm)
    return TurningShowers(figures, pictures, alt)


def _figure(showers: Showers, hit: np.ndarray, norm):
    import plotly.graph_objects as go

    calorimeter, energies = showers.calorimeter, showers.cells[0][hit]
    depths = np.array([np.mean(layer.depth) for layer in calorimeter.layers])
    log_energy = np.log10(np.maximum(energies, norm.vmin))
    low, high = np.log10(norm.vmin), np.log10(norm.vmax)
    decades = np.arange(np.ceil(low), np.floor(high) + 1)
    points = go.Scatter3d(
        x=depths[calorimeter.layer_index[hit]].astype(np.float32),
        y=calorimeter.eta[hit].astype(np.float32),
        z=calorimeter.phi[hit].astype(np.float32),
        customdata=energies.astype(np.float32),
        mode="markers",
        marker={
            "size": (2 + 9 * np.sqrt(energies / norm.vmax)).astype(np.float32),
            "color": log_energy.astype(np.float32),
            "cmin": low,
            "cmax": high,
            "colorscale": ENERGY_MAP,
            "reversescale": True,
            "opacity": 0.85,
            "line": {"width": 0},
            "colorbar": {
                "orientation": "h",
                "thickness": 8,
                "len": 0.8,
                "y": -0.02,
                "tickvals": decades,
                "ticktext": [f"{10.0**k:g}" for k in decades],
                "title": {"text": "MeV", "side": "right"},
            },
        },
        hovertemplate="%{customdata:.3g} MeV, %{x:.0f} mm deep<extra></extra>",
    )
    axes = {"xaxis": "depth [mm]", "yaxis": "η [mm]", "zaxis": "φ [mm]"}
    reach = float(max(np.abs(calorimeter.eta[hit]).max(), np.abs(calorimeter.phi[hit]).max(), 1.0))
    spans = ([depths[0], depths[-1]], [-reach, reach], [-reach, reach])
    scene = {
        axis: {"title": {"text": title, "font": {"size": 11}}, "range": span, "nticks": 5}
        for (axis, title), span in zip(axes.items(), spans, strict=True)
    }
    scene |= {
        "aspectmode": "manual",
        "aspectratio": {"x": 1.7, "y": 1, "z": 1},
        "camera": {"eye": {"x": -1.7, "y": -2.0, "z": 1.1}, "center": {"x": 0, "y": 0, "z": -0.2}},
    }
    layout = go.Layout(
        scene=scene,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        paper_bgcolor="white",
        template=go.layout.Template(),
    )
    return go.Figure(points, layout)


def _picture(showers: Showers, norm) -> bytes:
    figure = plt.figure(figsize=(4.6, 3.8), layout="constrained")
    axis = figure.add_subplot(projection="3d")
    drawn = cells_in_space(axis, showers, 0, norm)
    figure.colorbar(drawn, ax=axis, label="MeV", shrink=0.55, pad=0.1)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    plt.close(figure)
    return png.getvalue()
