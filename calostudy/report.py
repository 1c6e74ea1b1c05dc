"""An HTML report of one evaluation: scores and figures in one folder that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt

from calostudy import plots
from calostudy.datasets import Dataset
from calostudy.files import atomic_path
from calostudy.metrics import Score
from calostudy.showers import Showers
from calostudy.tables import score_rows

PAGE = jinja2.Template(
    """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; } table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { padding: .3rem .8rem; text-align: left; border-bottom: 1px solid #ccc; }
.warning { color: #a33; } footer { color: #666; font-size: .85rem; }
</style>
<h1>{{ title }}</h1>
<p>{{ payload.file }} against {{ payload.reference }}</p>
<table><tr>{% for name in rows[0] %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr>{% for value in row.values() %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% for warning in warnings %}<p class="warning">{{ warning }}</p>{% endfor %}
{% for caption, image in figures %}<h2>{{ caption }}</h2><img src="{{ image }}" alt="{{ caption }}">
{% endfor %}
<footer><pre>{{ payload.provenance | tojson(indent=1) }}</pre></footer></html>
""",
    autoescape=True,
)


def write_report(
    directory: Path,
    generated: Showers,
    reference: Showers,
    dataset: Dataset,
    scores: Sequence[Score],
    payload: dict,
) -> Path:
    """Write ``index.html`` and its figures into ``directory``; returns the page's path."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    plots.use_style()
    samples = {"Geant4": reference, "generated": generated}
    figures = {
        "Average showers": plots.layer_images(samples),
        "Layer energies": plots.layer_energies(samples),
        "Response, incident energies and cells": plots.energy_response(samples),
        "Linearity and resolution": plots.response_against_energy(samples),
        "Longitudinal profile": plots.longitudinal_profile(samples),
    }
    links = []
    for number, (caption, figure) in enumerate(figures.items()):
        name = f"figure-{number}.png"
        with atomic_path(directory / name) as temporary:
            figure.savefig(temporary, format="png")
        plt.close(figure)
        links.append((caption, name))
    page = PAGE.render(
        title=f"Generated showers against Geant4: {dataset.title}",
        payload=payload,
        rows=score_rows(scores),
        warnings=list(dict.fromkeys(w for score in scores for w in score.warnings)),
        figures=links,
    )
    with atomic_path(directory / "index.html") as temporary:
        Path(temporary).write_text(page)
    return directory / "index.html"
