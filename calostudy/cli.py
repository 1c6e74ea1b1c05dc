"""The command line: a thin door to the package.

Exit status: 0 on success, 2 on bad usage (an unknown name, an impossible option), 1 on bad data.
Tables and progress go to the terminal; ``--json FILE`` writes the same result as JSON (``-`` for
standard output, and then nothing else is printed there).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from calostudy.errors import CaloStudyError, DataError, UsageError

app = typer.Typer(
    name="calostudy",
    help="Surrogates for calorimeter showers: simulate, train, generate, evaluate, time.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
out, err = Console(), Console(stderr=True)

Json = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the result as JSON; - for standard output."),
]
DatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help="A name of `calostudy datasets`.")
]
DatasetOption = Annotated[
    str, typer.Option("--dataset", metavar="DATASET", help="A name of `calostudy datasets`.")
]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A name of `calostudy models`.")
]
Size = Annotated[str, typer.Option(help="paper or embedded.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same showers.")]


def _rows(rows: list[dict], title: str, to_json: str | None, payload: object = None) -> None:
    """Show ``rows`` as a table, or write ``payload`` (``rows`` unless given) as JSON."""
    if to_json is not None:
        _write_json(rows if payload is None else payload, to_json)
    if to_json == "-":
        return
    table = Table(title=title, title_justify="left")
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        table.add_column(str(name), overflow="fold")
    for row in rows:
        table.add_row(*(escape(_cell(row.get(name))) for name in names))
    out.print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_cell(item)}" for key, item in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(item) for item in value)
    return str(value)


def _write_json(payload: object, destination: str) -> None:
    from calostudy.files import atomic_path

    text = json.dumps(payload, indent=2, allow_nan=False) + "\n"
    if destination == "-":
        sys.stdout.write(text)
        return
    with atomic_path(Path(destination)) as temporary:
        Path(temporary).write_text(text)


def _numbers(text: str, what: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(item) for item in text.split(","))
    except ValueError:
        raise UsageError(f"{what}: {text!r} is not a list of whole numbers like 1,10,100") from None
    if min(numbers) < 1:
        raise UsageError(f"{what}: {text!r} has a number below 1")
    return numbers


@app.command()
def datasets(to_json: Json = None) -> None:
    """The catalogue of datasets: calorimeter, particle, energies, what is present here.

    Example: `calostudy datasets --json -`
    """
    from calostudy.datasets import DATASETS, sources_present

    full = [
        {
            "name": name,
            "title": entry.title,
            "calorimeter": entry.calorimeter.name,
            "layers": len(entry.calorimeter.layers),
            "cells": entry.calorimeter.cells,
            "particle": entry.particle,
            "energies": str(entry.energies),
            "sources": sources_present(name),
        }
        for name, entry in DATASETS.items()
    ]
    short = [
        {
            "name": row["name"],
            "cells": f"{row['cells']:,} in {row['layers']} layers",
            "particle": row["particle"],
            "energies": row["energies"],
            "present here": {source: splits for source, splits in row["sources"].items() if splits},
        }
        for row in full
    ]
    _rows(short, "Datasets", to_json, full)


@app.command()
def models(to_json: Json = None) -> None:
    """Every model, dataset and size: parameters counted on the real networks, trained or not.

    Example: `calostudy models --json models.json`
    """
    from calostudy.models import catalogue

    _rows(catalogue(), "Surrogates", to_json)


@app.command()
def fetch(
    dataset: DatasetArgument,
    split: Annotated[
        str | None, typer.Option(help="train or evaluation; default: all files.")
    ] = None,
    to_json: Json = None,
) -> None:
    """Download a dataset's public files, verify them. Run again after a break to go on.

    They go to `data/public/DATASET/`; `CALOSTUDY_DATA` names another folder than `data`. Files
    that are there and right are not downloaded again, and nothing that is there is overwritten.

    Example: `calostudy fetch calogan-eplus` or `calostudy fetch ds2 --split evaluation`
    """
    from calostudy.datasets import dataset as catalogue_entry
    from calostudy.fetching import fetch as fetch_files
    from calostudy.fetching import size_text

    entry = catalogue_entry(dataset)
    fetched = fetch_files(
        entry, split, say=lambda line: err.print(escape(line), highlight=False, soft_wrap=True)
    )
    rows = [
        {
            "file": file.path.name,
            "size": size_text(file.bytes),
            "showers": file.events,
            "came": "now" if file.downloaded else "before",
            "verified by": "MD5 and structure" if file.verified else "structure alone",
        }
        for file in fetched
    ]
    folder = fetched[0].path.parent
    _rows(rows, f"{entry.public_name} in {folder}", to_json, [each.as_dict() for each in fetched])
    for each in fetched:
        if not each.verified:
            err.print(
                f"[yellow]note[/yellow]: no MD5 of {each.path.name} is published; this one's is "
                f"{each.md5}",
                soft_wrap=True,
            )


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="An HDF5 file of showers.")], to_json: Json = None
) -> None:
    """What a file of showers is, and what is wrong with it. Exit status 1 if anything is.

    Example: `calostudy inspect my_showers.hdf5`
    """
    from calostudy.inspection import inspect as inspect_file

    report = inspect_file(file)
    rows = [{"property": what, "value": value} for what, value in report.rows()]
    _rows(rows, file.name, to_json, report.as_dict())
    if report.problems:
        raise DataError(f"{file}: " + "; ".join(report.problems))


@app.command()
def simulate(
    dataset: DatasetArgument,
    n: Annotated[int, typer.Option("-n", min=1, help="Number of showers.")],
    out_file: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The HDF5 file to write.")
    ],
    seed: Seed = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes; the showers do not change.")] = 1,
    emin: Annotated[float | None, typer.Option(help="Lowest incident energy in GeV.")] = None,
    emax: Annotated[float | None, typer.Option(help="Highest incident energy in GeV.")] = None,
    physics: Annotated[
        str, typer.Option(help="data-free; ftfp_bert or em-option4 with Geant4's data sets.")
    ] = "data-free",
    brem: Annotated[
        str, typer.Option(help="Bremsstrahlung of the data-free list: rel or sb.")
    ] = "rel",
    steps: Annotated[
        bool, typer.Option("--steps", help="Every hit too, as point clouds in FILE.steps.h5.")
    ] = False,
) -> None:
    """Geant4 showers in the dataset's public format. Run again after an interruption to go on.

    Example: `calostudy simulate calogan-eplus -n 1000 --seed 7 --workers 2 --out eplus.h5`
    """
    from calostudy import geant4

    path = geant4.simulate(
        dataset,
        n,
        seed,
        out_file,
        workers=workers,
        emin=emin,
        emax=emax,
        physics=physics,
        brem=brem,
        steps=steps,
    )
    err.print(f"{n:,} showers in {path}")


OutDirectory = Annotated[Path, typer.Option("--out", metavar="DIR", help="Weights, card and log.")]
ShowersFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Train on this file, not the dataset's own.")
]
Source = Annotated[str, typer.Option(help="simulated or public.")]
FirstShowers = Annotated[
    int | None, typer.Option("-n", min=2, help="Only the first N showers; default: all.")
]
Epochs = Annotated[
    int | None, typer.Option(min=1, help="Epochs of each network; default: the recipe's.")
]
Resume = Annotated[bool, typer.Option(help="Go on from the last checkpoint in DIR.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]


@app.command()
def export(
    model: ModelArgument,
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write.")],
    format: Annotated[str, typer.Option(help="onnx.")] = "onnx",
    size: Size = "embedded",
    weights: Annotated[Path | None, typer.Option(metavar="DIR", help="Trained weights.")] = None,
    untrained: Annotated[bool, typer.Option(help="Random weights, for timing only.")] = False,
) -> None:
    """Write a surrogate as a file that runs without this package: ONNX.

    Noise and incident energies go in, energies of cells come out; the file says of itself what is
    what. `calostudy.export.Exported` runs it.

    Example: `calostudy export caloscore-single-shot ds1-photons --format onnx --out shower.onnx`
    """
    from calostudy.export import export as write

    if format != "onnx":
        raise UsageError(f"no format {format!r}; there is onnx")
    surrogate = _surrogate(model, dataset, size, weights, untrained)
    err.print(f"the surrogate in {write(surrogate, out)}")


@app.command()
def train(
    model: ModelArgument,
    dataset: DatasetArgument,
    out_dir: OutDirectory,
    size: Size = "embedded",
    showers: ShowersFile = None,
    source: Source = "simulated",
    n: FirstShowers = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "cpu",
) -> None:
    """Train a surrogate, on the CPU or with --device cuda. A killed run goes on with --resume.

    The card tells how many showers it was. `python -m calostudy.learning` trains on several numbers
    of them and scores each: a learning curve.

    Example: `calostudy train caloflow-teacher calogan-eplus --out my_weights`
    """
    from calostudy.models import build

    surrogate = build(model, dataset, size, seed=seed)
    options = {"seed": seed, "resume": resume, "epochs": epochs, "device": device}
    _fit(surrogate, _training_showers(dataset, showers, source, n), out_dir, **options)


@app.command()
def distill(
    model: ModelArgument,
    dataset: DatasetArgument,
    out_dir: OutDirectory,
    teacher: Annotated[
        Path, typer.Option("--teacher", metavar="DIR", help="Trained weights of the teacher.")
    ],
    size: Size = "embedded",
    showers: ShowersFile = None,
    source: Source = "simulated",
    n: FirstShowers = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "cpu",
) -> None:
    """Train a student to do what a trained teacher does. A killed run goes on with --resume.

    Example: `calostudy distill caloflow-student calogan-eplus --teacher my_weights --out student`
    """
    from calostudy.models import build, load

    surrogate = build(model, dataset, size, seed=seed)
    surrogate.learn_from(load(teacher))
    options = {"seed": seed, "resume": resume, "epochs": epochs, "device": device}
    _fit(surrogate, _training_showers(dataset, showers, source, n), out_dir, **options)


def _fit(surrogate, showers, out_dir: Path, **options) -> None:
    from calostudy.training import train

    sample, path = showers
    train(surrogate, sample, out_dir, data_path=path, **options)
    err.print(f"weights in {out_dir}")


def _training_showers(dataset: str, showers: Path | None, source: str, n: int | None):
    """The showers to train on, all or the first ``n``, and the file that they come from."""
    from calostudy.datasets import dataset as catalogue_entry
    from calostudy.datasets import load, showers_path
    from calostudy.showers import read

    entry = catalogue_entry(dataset)
    path = showers or showers_path(dataset, "train", source)
    if showers:
        sample = read(showers, entry.calorimeter, energy_range=entry.energies.range)
    else:
        sample = load(dataset, "train", source)
    if n is not None and n > len(sample):
        raise UsageError(f"-n {n}: {path} has {len(sample)} showers to train on")
    return (sample if n is None else sample[:n]), path


def _surrogate(model: str, dataset: str, size: str, weights: Path | None, untrained: bool):
    """The surrogate with the weights given, the shipped ones, or (only if asked) none."""
    from calostudy.models import build, load, shipped_weights

    if untrained:
        if weights:
            raise UsageError("--weights and --untrained exclude each other")
        return build(model, dataset, size)
    directory = weights or shipped_weights(model, dataset, size)
    if directory is None:
        student = build(model, dataset, size).teacher_name is not None
        how = f"{'distill' if student else 'train'} {model} {dataset} --size {size}"
        how += " --teacher DIR" if student else ""
        raise UsageError(
            f"no trained weights are shipped for {model} {dataset} {size}: train them with "
            f"`calostudy {how} --out DIR` and pass --weights DIR, or pass --untrained to run with "
            "random weights"
        )
    surrogate = load(directory)
    if (surrogate.name, surrogate.dataset.name, surrogate.size) != (model, dataset, size):
        raise UsageError(
            f"{directory} holds {surrogate.name} {surrogate.dataset.name} {surrogate.size}, "
            f"not {model} {dataset} {size}"
        )
    return surrogate


@app.command()
def generate(
    model: ModelArgument,
    dataset: DatasetArgument,
    out_file: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The HDF5 file to write.")
    ],
    n: Annotated[int | None, typer.Option("-n", min=1, help="Number of showers.")] = None,
    size: Size = "embedded",
    weights: Annotated[Path | None, typer.Option(metavar="DIR", help="Trained weights.")] = None,
    untrained: Annotated[bool, typer.Option(help="Random weights, for timing only.")] = False,
    batch: Annotated[
        int, typer.Option(min=1, help="Showers per batch; they do not change.")
    ] = 1000,
    target: Annotated[
        str, typer.Option(help="Hardware target: device-threads/precision.")
    ] = "cpu-1/fp32",
    seed: Seed = 0,
    energies: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take the incident energies of this file.")
    ] = None,
    clouds: Annotated[
        bool, typer.Option(help="Write point clouds, by a model that makes them; begins anew.")
    ] = False,
    emulate: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help="Round layers as in nvfp4, mxfp4, int8, ...: no time."),
    ] = None,
) -> None:
    """Showers by a surrogate, in the public format, streamed to FILE; goes on after a kill.

    Example: `calostudy generate caloflow-teacher calogan-eplus -n 5000 --out generated.h5`, or to
    see what a format does to showers `calostudy generate flow-matching ds2 -n 500 --emulate nvfp4
    --out rounded.h5`
    """
    from calostudy.datasets import dataset as catalogue_entry
    from calostudy.emulation import SAMPLERS, emulated
    from calostudy.generation import draw_energies, generate_clouds
    from calostudy.generation import generate as generate_file
    from calostudy.showers import read_energies

    if (n is None) == (energies is None):
        raise UsageError("give either -n N or --energies FILE")
    given = None
    if energies is not None:
        given = read_energies(energies, catalogue_entry(dataset).calorimeter)
    surrogate = _surrogate(model, dataset, size, weights, untrained)
    if emulate and (clouds or model not in SAMPLERS):
        raise UsageError(f"--emulate: cells of {', '.join(SAMPLERS)} only")
    with emulated(surrogate, emulate) if emulate else nullcontext(surrogate) as surrogate:
        if clouds:
            wanted = draw_energies(surrogate.dataset, n, seed) if given is None else given
            path = generate_clouds(surrogate, out_file, wanted, min(batch, 100), seed, target)
        else:
            path = generate_file(
                surrogate, out_file, n=n, energies=given, batch=batch, seed=seed, target=target
            )
    err.print(f"showers in {path}")


@app.command()
def features(
    file: Annotated[Path, typer.Argument(help="An HDF5 file of showers.")],
    dataset: DatasetOption,
    out_file: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The HDF5 file to write.")
    ],
) -> None:
    """All observables of every shower (E_tot, E_layer/L, EC_eta/L, width_r/L, sparsity/L, ...).

    Example: `calostudy features generated.h5 --dataset calogan-eplus --out features.h5`
    """
    from calostudy.datasets import dataset as catalogue_entry
    from calostudy.metrics.observables import write_observables

    write_observables(file, catalogue_entry(dataset), out_file)
    err.print(f"observables in {out_file}")


@app.command()
def evaluate(
    file: Annotated[
        Path, typer.Argument(help="Generated showers: cells in the public format, or point clouds.")
    ],
    dataset: DatasetOption,
    reference: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: the dataset's evaluation sample.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="A list such as fpd,auc_low, or all; default: most.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Classifier trainings.")] = 5,
    hidden: Annotated[
        int | None, typer.Option(min=1, help="Nodes per hidden layer of the classifiers.")
    ] = None,
    by_energy: Annotated[
        bool, typer.Option(help="Also score each range of incident energies by itself.")
    ] = True,
    seed: Seed = 0,
    to_json: Json = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write an HTML page with figures here.")
    ] = None,
) -> None:
    """Score showers against Geant4, with uncertainties and the Geant4-against-Geant4 floor.

    The file is read in chunks; a killed run goes on at the metric it was in. Points are summed into
    the cells of the dataset, and scored as points, too.

    Example: `calostudy evaluate generated.h5 --dataset calogan-eplus --report report`
    """
    import pooch

    from calostudy.datasets import clouds_path, showers_path
    from calostudy.datasets import dataset as catalogue_entry
    from calostudy.metrics import CLOUD_METRICS, DEFAULT, METRICS, Sample
    from calostudy.metrics import evaluate as score
    from calostudy.metrics.evaluation import check_names
    from calostudy.provenance import provenance
    from calostudy.tables import energy_rows, score_rows

    entry = catalogue_entry(dataset)
    wanted = tuple(metrics.split(",")) if metrics else DEFAULT
    if metrics != "all":
        check_names(wanted)  # before files are read, which may take minutes
    generated = Sample.open(file, entry, progress=True)

    def shipped(split: str, label: str) -> Sample:
        clouds = None if generated.points is None else clouds_path(dataset, split)
        path = showers_path(dataset, split)
        return Sample.open(path, entry, label, clouds=clouds, progress=True)

    truth = reference or showers_path(dataset, "evaluation")
    floor = None
    if reference:
        geant4 = Sample.open(reference, entry, "reference", progress=True)
    else:
        geant4 = shipped("evaluation", "reference")
        if showers_path(dataset, "train").exists():
            floor = shipped("train", "floor")[: len(geant4)]
    points = all(sample.points is not None for sample in (generated, geant4))
    also = tuple(CLOUD_METRICS) if points else ()
    names = {None: DEFAULT + also, "all": (*METRICS, *also)}.get(metrics, wanted)
    which = hashlib.sha256(f"{file.resolve()} {truth.resolve()}".encode()).hexdigest()[:16]
    keep = pooch.os_cache("calostudy") / f"evaluation-{which}"
    scores = score(
        generated,
        geant4,
        entry,
        metrics=names,
        repeats=repeats,
        seed=seed,
        floor=floor,
        hidden=hidden,
        progress=True,
        by_energy=by_energy,
        keep=keep,
    )
    payload = {
        "file": str(file),
        "dataset": dataset,
        "reference": str(truth),
        "seed": seed,
        "scores": {each.name: each.as_dict() for each in scores},
        "provenance": provenance(),
    }
    _rows(score_rows(scores), f"{file} against {truth}", to_json, payload)
    if to_json != "-" and (rows := energy_rows(scores, values=False)):
        _rows(rows, "Distance from the floor by incident energy", None)
    for warning in dict.fromkeys(warning for each in scores for warning in each.warnings):
        err.print(f"[yellow]warning[/yellow]: {escape(warning)}")
    if report:
        from calostudy.report import write_report

        err.print(f"report in {write_report(report, generated, geant4, scores, payload)}")
    shutil.rmtree(keep, ignore_errors=True)


@app.command()
def rank(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Showers of two models or more.")
    ],
    dataset: DatasetOption,
    reference: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: the dataset's evaluation sample.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Classifier trainings.")] = 10,
    hidden: Annotated[
        int, typer.Option(min=1, help="Nodes per hidden layer of the classifier.")
    ] = 2048,
    seed: Seed = 0,
    to_json: Json = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write an HTML page with figures here.")
    ] = None,
) -> None:
    """Rank models by which of them one classifier of all takes Geant4 showers for.

    A model is called what its file is, without the suffix.

    Example: `calostudy rank caloflow.h5 caloscore.h5 --dataset ds2 --report report`
    """
    from calostudy.datasets import dataset as catalogue_entry
    from calostudy.datasets import showers_path
    from calostudy.metrics.ranking import rank as rank_models
    from calostudy.provenance import provenance
    from calostudy.showers import read
    from calostudy.tables import cross_check_rows, ranking_rows

    entry = catalogue_entry(dataset)
    names = [file.stem for file in files]
    if len(set(names)) < len(names):
        raise UsageError(f"rank: models are called like their files, these are {', '.join(names)}")
    truth = reference or showers_path(dataset, "evaluation")
    *samples, geant4 = (
        read(path, entry.calorimeter, energy_range=entry.energies.range) for path in (*files, truth)
    )
    ranking = rank_models(
        dict(zip(names, samples, strict=True)),
        geant4,
        entry,
        repeats=repeats,
        hidden=hidden,
        seed=seed,
        progress=True,
    )
    payload = {
        "file": ", ".join(map(str, files)),
        "dataset": dataset,
        "reference": str(truth),
        "seed": seed,
        "ranking": ranking.as_dict(),
        "provenance": provenance(),
    }
    _rows(ranking_rows(ranking), f"Models ranked against {truth}", to_json, payload)
    if to_json != "-":
        _rows(cross_check_rows(ranking), "Log-posteriors of held-out showers of each model", None)
    for warning in ranking.warnings:
        err.print(f"[yellow]warning[/yellow]: {escape(warning)}")
    if report:
        from calostudy.report import write_ranking

        err.print(f"report in {write_ranking(report, ranking, entry.title, payload)}")


@app.command()
def time(
    model: ModelArgument,
    dataset: DatasetArgument,
    size: Size = "embedded",
    batch: Annotated[str, typer.Option(help="Batch sizes.")] = "1,10,100",
    target: Annotated[
        str, typer.Option(help="Hardware targets, separated by commas.")
    ] = "cpu-1/fp32",
    weights: Annotated[Path | None, typer.Option(metavar="DIR", help="Trained weights.")] = None,
    untrained: Annotated[bool, typer.Option(help="Random weights; the table says so.")] = False,
    against: Annotated[
        str | None, typer.Option(help="Interleave nflows or eager, and give the ratio.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 9,
    to_json: Json = None,
) -> None:
    """ms per shower with its spread, by the study's protocol.

    Example: `calostudy time caloflow-teacher calogan-eplus --against nflows --batch 1,10`
    """
    from calostudy.timing import time_surrogate

    surrogate = _surrogate(model, dataset, size, weights, untrained)
    rows = []
    for name in target.split(","):
        rows += [
            timing.as_dict()
            for timing in time_surrogate(
                surrogate,
                batches=_numbers(batch, "--batch"),
                target=name,
                against=against,
                rounds=rounds,
            )
        ]
    _rows(rows, f"{model} {dataset} {size}", to_json)


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    }
)
def run(context: typer.Context) -> None:
    """The grid of study.yml and the book, by Snakemake; its arguments are passed on.

    Example: `calostudy run --cores 2` or `calostudy run --config study_profile=paper`
    """
    from calostudy.study import snakemake_command

    raise typer.Exit(subprocess.call(snakemake_command(context.args), env=dict(os.environ)))


def main() -> None:
    """Run the command line; turn the package's errors into one line and an exit status."""
    try:
        app()
    except DataError as error:
        status = 1
        message = error
    except (UsageError, CaloStudyError) as error:
        status = 2
        message = error
    err.print(f"[red]error[/red]: {escape(str(message))}", soft_wrap=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
