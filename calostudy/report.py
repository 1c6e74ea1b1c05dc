"""An HTML report of one evaluation: scores and figures in one folder that opens offline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from calostudy import plots
from calostudy.files import atomic_path
from calostudy.metrics import Sample, Score
from calostudy.tables import energy_rows, score_rows

PICTURED = 5000  # showers of each sample that the figures show
MOST_OBSERVABLES = 20  # in the figure of the separation powers

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
{% for rows in tables %}
<table><tr>{% for name in rows[0] %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr>{% for name in rows[0] %}<td>{{ row.get(name, "-") }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endfor %}
{% for warning in warnings %}<p class="warning">{{ warning }}</p>{% endfor %}
{% for caption, image in figures %}<h2>{{ caption }}</h2><img src="{{ image }}" alt="{{ caption }}">
{% endfor %}
<footer><pre>{{ payload.provenance | tojson(indent=1) }}</pre></footer></html>
""",
    autoescape=True,
)


def _figures(
    generated: Sample, reference: Sample, scores: Sequence[Score]
) -> Iterator[tuple[str, Figure]]:
    """Captions with their figures, one at a time."""
    powers = next((score.details for score in scores if score.name == "separation_power"), {})
    if powers:
        rows = [{"name": name} | part for name, part in powers.items()]
        rows = sorted(rows, key=lambda row: -row["value"])[:MOST_OBSERVABLES]
        yield (
            f"Separation power of the {len(rows)} observables that differ most",
            plots.score_bars(rows, "separation power"),
        )
    if any(score.by_energy for score in scores):
        yield "Distance from the floor by incident energy", plots.significance_by_energy(scores)
    samples = {
        name: sample[:PICTURED].showers
        for name, sample in (("Geant4", reference), ("generated", generated))
    }
    shown = f"first {max(map(len, samples.values())):,} showers"
    yield f"Average showers, {shown}", plots.layer_images(samples)
    yield f"Layer energies, {shown}", plots.layer_energies(samples)
    yield f"Response, incident energies and cells, {shown}", plots.energy_response(samples)
    yield f"Linearity and resolution, {shown}", plots.response_against_energy(samples)
    yield f"Longitudinal profile, {shown}", plots.longitudinal_profile(samples)


def write_report(
    directory: Path,
    generated: Sample,
    reference: Sample,
    scores: Sequence[Score],
    payload: dict,
) -> Path:
    """Write ``index.html`` and its figures into ``directory``; returns the page's path."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    plots.use_style()
    links = []
    for number, (caption, figure) in enumerate(_figures(generated, reference, scores)):
        name = f"figure-{number}.png"
        with atomic_path(directory / name) as temporary:
            figure.savefig(temporary, format="png")
        plt.close(figure)
        links.append((caption, name))
    page = PAGE.render(
        title=f"Generated showers against Geant4: {reference.entry.title}",
        payload=payload,
        tables=[rows for rows in (score_rows(scores), energy_rows(scores)) if rows],
        warnings=list(dict.fromkeys(w for score in scores for w in score.warnings)),
        figures=links,
    )
    with atomic_path(directory / "index.html") as temporary:
        Path(temporary).write_text(page)
    return directory / "index.html"
