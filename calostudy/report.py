"""HTML reports of evaluations and rankings: tables and figures in a folder that opens offline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from calostudy import plots
from calostudy.files import atomic_path
from calostudy.metrics import Sample, Score
from calostudy.metrics.classifier import MINIMUM_SHOWERS
from calostudy.metrics.diagnosis import diagnose_quickly
from calostudy.metrics.histograms import binning
from calostudy.metrics.ranges import filled_ranges
from calostudy.metrics.ranking import Ranking
from calostudy.plots import evaluation
from calostudy.tables import cross_check_rows, energy_rows, ranking_rows, score_rows

PICTURED = 5000  # showers of each sample that the figures show
MOST_OBSERVABLES = 20  # in the figure of the separation powers
MOST_DRAWN = 9  # of them with a histogram
MOST_RANGES = 4  # of incident energy that have figures of their own

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
    rows = sorted(
        ({"name": name} | part for name, part in powers.items()), key=lambda row: -row["value"]
    )[:MOST_OBSERVABLES]
    if rows:
        yield (
            f"Separation power of the {len(rows)} observables that differ most",
            plots.score_bars(rows, "separation power"),
        )
    if any(score.by_energy for score in scores):
        yield "Distance from the floor by incident energy", plots.significance_by_energy(scores)
    both = {"Geant4": reference, "generated": generated}
    names = [row["name"] for row in rows if row["name"] in reference.distributions][:MOST_DRAWN]
    if names:
        edges = {n: binning(n, reference.entry, reference.distributions[n]).edges for n in names}
        values = {name: sample.distributions for name, sample in both.items()}
        yield f"The {len(names)} that differ most", plots.observable_grid(values, edges, names)
    ranges, _ = filled_ranges(reference.entry, *(each.incident_energy for each in both.values()))
    yield "Energies in groups of layers", evaluation.group_energies(both)
    for each in ranges if 1 < len(ranges) <= MOST_RANGES else ():
        yield f"Energies in groups of layers, {each.label}", evaluation.group_energies(both, each)
    yield "Response against incident energy", evaluation.response_curves(both)
    yield "Cell energies", evaluation.cell_spectra(both)
    yield "Cell energies by depth", evaluation.cell_spectra(both, by_depth=True)
    yield "Correlations of the layer energies", evaluation.pearson_matrices(both)
    yield "Widths of the layers", evaluation.shape_grid(both, "width")
    if len(reference.entry.calorimeter.layers) > 1:
        yield "Distances between layers", evaluation.shape_grid(both, "distance")

    yield from _profiles(both)

    samples = {name: sample[:PICTURED].showers for name, sample in both.items()}
    shown = f"first {max(map(len, samples.values())):,} showers"
    yield f"Average showers, {shown}", plots.layer_images(samples)
    for each in ranges if 1 < len(ranges) <= MOST_RANGES else ():
        inside = {name: s[each.holds(s.incident_energy)] for name, s in samples.items()}
        if all(map(len, inside.values())):
            yield f"Average showers, {each.label}, {shown}", plots.layer_images(inside)
    yield f"Incident energies and cells, {shown}", plots.energy_response(samples)
    yield f"Linearity and resolution, {shown}", plots.response_against_energy(samples)
    yield f"Longitudinal profile, {shown}", plots.longitudinal_profile(samples)
    few = {name: sample[:PICTURED] for name, sample in both.items()}
    yield f"Texture: Moran's I, {shown}", evaluation.morans_i(few)
    if min(map(len, samples.values())) >= MINIMUM_SHOWERS:
        found = diagnose_quickly(samples["generated"], samples["Geant4"], reference.entry)
        says = "; ".join(found.warnings)
        caption = f"What gives the generated showers away {f'({says})' if says else ''}"
        yield caption, plots.layer_shares(found)
        yield "Cells that give the generated showers away", plots.importance_images(found)


def _profiles(samples: Mapping[str, Sample]) -> Iterator[tuple[str, Figure]]:
    """Hits and profiles of the cells, and of the points where all samples have them."""
    forms = {"cells hit": "profiles", "points": "points"}
    for words, name in forms.items():
        found = {label: getattr(sample, name) for label, sample in samples.items()}
        if None not in found.values():
            geometry = next(iter(samples.values())).entry.calorimeter
            caption = f"Number of {words}, energy by layer and around the axis"
            yield caption, evaluation.profiles_beside(found, geometry, words)


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
