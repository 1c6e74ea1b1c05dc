"""HTML reports of evaluations and rankings: tables and figures in a folder that opens offline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from calostudy import plots
from calostudy.files import atomic_path
from calostudy.metrics import Sample, Score
from calostudy.metrics.ranking import Ranking
from calostudy.tables import cross_check_rows, energy_rows, ranking_rows, score_rows

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
    plots.use_style()
    return _write_page(
        directory,
        f"Generated showers against Geant4: {reference.entry.title}",
        payload,
        (score_rows(scores), energy_rows(scores)),
        [w for score in scores for w in score.warnings],
        _figures(generated, reference, scores),
    )


def write_ranking(directory: Path, ranking: Ranking, title: str, payload: dict) -> Path:
    """Write ``index.html`` with the ranking of models; returns the page's path."""
    plots.use_style()
    return _write_page(
        directory,
        f"Models ranked by a classifier: {title}",
        payload,
        (ranking_rows(ranking), cross_check_rows(ranking)),
        ranking.warnings,
        (
            ("Log-posterior of Geant4 showers", plots.log_posteriors(ranking)),
            ("Which model showers are taken for", plots.cross_check(ranking)),
        ),
    )


def _write_page(
    directory: Path,
    title: str,
    payload: dict,
    tables: Iterable[list[dict]],
    warnings: Sequence[str],
    figures: Iterable[tuple[str, Figure]],
) -> Path:
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    links = []
    for number, (caption, figure) in enumerate(figures):
        name = f"figure-{number}.png"
        with atomic_path(directory / name) as temporary:
            figure.savefig(temporary, format="png")
        plt.close(figure)
        links.append((caption, name))
    page = PAGE.render(
        title=title,
        payload=payload,
        tables=[rows for rows in tables if rows],
        warnings=list(dict.fromkeys(warnings)),
        figures=links,
    )
    with atomic_path(directory / "index.html") as temporary:
        Path(temporary).write_text(page)
    return directory / "index.html"
