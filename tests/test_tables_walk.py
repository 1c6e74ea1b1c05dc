"""The tables of the papers: cells measured or with a reason, and times made comparable."""

import re

import numpy as np
import pandas as pd
import pytest

from calostudy import export_times, grid_times, plots
from calostudy.errors import DataError, UsageError
from calostudy.grid_times import (
    ALL_THREADS,
    FIELDS,
    GPU,
    KINDS,
    ONE_THREAD,
    cells,
    look_up,
    machine_title,
    read_times,
)
from calostudy.relative_times import (
    AHMAD,
    AUTHORS,
    CHALLENGE,
    HERE,
    IMPLEMENTATIONS,
    REFERENCES,
    SOURCES,
    agreement,
    all_times,
    relative,
)
from calostudy.tables import published
from calostudy.walks import TablesWalk
from calostudy.walks import tables as tables_walk
from calostudy.walks.tables import BATCHES, BENCHMARK, BENCHMARK_DATASETS, Notes


def line(model, dataset, target="cpu-1/fp32", batch=1, value=2.0, **other):
    """One line of a grid, for a test."""
    return {
        **dict.fromkeys(FIELDS),
        "machine": "machine-a",
        "date": "2026-01-02",
        "model": model,
        "dataset": dataset,
        "size": "paper",
        "trained": False,
        "target": target,
        "figure": "throughput",
        "batch": batch,
        "value": value,
        "low": value and 0.9 * value,
        "high": value and 1.2 * value,
        "unit": "ms per shower",
        "rounds": 5,
        **other,
    }


def grid_of(tmp_path, *lines):
    """These lines, written and read as a grid."""
    path = tmp_path / "times.csv"
    pd.DataFrame(lines, columns=list(FIELDS)).to_csv(path, index=False)
    return read_times(path)


def walk_with(grid, monkeypatch):
    monkeypatch.setattr(TablesWalk, "grid", grid)
    return TablesWalk()


def test_without_a_file_there_is_an_empty_grid(tmp_path):
    table = read_times(tmp_path / "none.csv")
    assert table.empty
    assert look_up(table, "caloinn", "ds2", "paper", GPU, 1) is None


def test_a_file_with_other_columns_is_no_grid(tmp_path):
    path = tmp_path / "times.csv"
    path.write_text("model,value\ncaloinn,1\n")
    with pytest.raises(DataError, match="expected machine, date, model"):
        read_times(path)


def test_a_cell_is_looked_up_by_its_kind_of_target(tmp_path):
    lines = [
        line("caloinn", "ds2", target, value=value)
        for target, value in (("cpu-1/fp32", 3.0), ("cpu-2/fp32", 2.0), ("cuda/fp32", 1.0))
    ]
    grid = grid_of(tmp_path, *lines)
    found = [look_up(grid, "caloinn", "ds2", "paper", kind, 1).value for kind in KINDS]
    assert found == [3.0, 2.0, 1.0]
    assert look_up(grid, "caloinn", "ds2", "embedded", ONE_THREAD, 1) is None


def test_warm_throughput_comes_before_latency_and_cold_never_counts(tmp_path):
    cold = line("caloinn", "ds2", value=900.0, figure="cold")
    latency = line("caloinn", "ds2", value=5.0, figure="latency")
    assert look_up(grid_of(tmp_path, cold), "caloinn", "ds2", "paper", ONE_THREAD, 1) is None
    grid = grid_of(tmp_path, cold, latency)
    assert look_up(grid, "caloinn", "ds2", "paper", ONE_THREAD, 1).value == 5.0
    grid = grid_of(tmp_path, line("caloinn", "ds2"), cold, latency)
    assert look_up(grid, "caloinn", "ds2", "paper", ONE_THREAD, 1).value == 2.0


def test_other_precisions_do_not_stand_for_fp32(tmp_path):
    grid = grid_of(tmp_path, line("caloinn", "ds2", "cuda/bf16"))
    assert look_up(grid, "caloinn", "ds2", "paper", GPU, 1) is None


def test_a_cell_measured_again_replaces_the_earlier_one(tmp_path):
    again = line("caloinn", "ds2", value=1.0, date="2026-02-02")
    grid = grid_of(tmp_path, again, line("caloinn", "ds2", value=9.0))
    assert [cell.value for cell in cells(grid)] == [1.0]
    assert cells(grid)[0].uncertainty == pytest.approx(0.15)


def test_a_machine_without_a_description_is_called_by_its_key(tmp_path, monkeypatch):
    monkeypatch.setattr(grid_times, "data_dir", lambda: tmp_path)
    assert machine_title("machine-a") == "machine-a"
    folder = tmp_path / "measured" / "machines"
    folder.mkdir(parents=True)
    text = '{"cpu": "A CPU", "cores": 4, "gpus": [{"name": "A GPU"}]}'
    (folder / "machine-a.json").write_text(text)
    assert machine_title("machine-a") == "A CPU, 4 cores, A GPU"


def test_every_cell_of_table_2_has_a_time_or_a_reason(tmp_path, monkeypatch):
    failed = line("caloscore", "ds3", value=None, reason="more than 24 GB of memory")
    grid = grid_of(
        tmp_path,
        line("caloinn", "ds2", batch=10),
        line("calodiffusion", "ds2", "cuda/fp32", trained=True),
        line("calovae-inn", "ds3", value=7.0),
        failed,
    )
    walk, notes = walk_with(grid, monkeypatch), Notes()
    rows = {kind: walk.benchmark_rows(kind, notes) for kind in (ONE_THREAD, GPU)}
    shown = [row[model] for table in rows.values() for row in table for model in BENCHMARK]
    assert len(shown) == len(published("benchmark_times")) == 72
    assert all(text for text in shown)
    pointed = {int(text.rpartition("[")[2].rstrip("]")) for text in shown if text.endswith("]")}
    assert pointed == set(range(1, len(notes.reasons) + 1))

    def cell(kind, model, dataset, batch):
        place = BENCHMARK_DATASETS.index(dataset) * len(BATCHES) + BATCHES.index(batch)
        return rows[kind][place][model]

    assert cell(ONE_THREAD, "caloinn", "ds2", 10).startswith("2 (1.8 to 2.4) [")
    assert cell(GPU, "calodiffusion", "ds2", 1).startswith("2 (1.8 to 2.4) (trained) [")
    reason = notes.reasons.index("more than 24 GB of memory") + 1
    assert cell(ONE_THREAD, "caloscore", "ds3", 1) == f"[{reason}]"
    assert cell(ONE_THREAD, "caloinn", "ds3", 1).startswith("7 (6.3 to 8.4) [")
    assert any("propose calovae-inn" in text for text in notes.reasons)
    assert "36 are filled there and 3 here, 1 of them by a stand-in" in walk.filled()


def test_a_time_of_one_round_says_so_and_has_no_uncertainty(tmp_path, monkeypatch):
    grid = grid_of(tmp_path, line("caloinn", "ds2", value=1234.5, rounds=1))
    walk, notes = walk_with(grid, monkeypatch), Notes()
    assert walk.cell_text("caloinn", "ds2", 1, ONE_THREAD, notes) == "1,230 (1 round) [1]"
    assert re.fullmatch(r"on .+, \d{4}-\d\d-\d\d", notes.reasons[0])
    assert np.isnan(look_up(grid, "caloinn", "ds2", "paper", ONE_THREAD, 1).uncertainty)
    assert all_times(grid).query("source == @HERE")["uncertainty"].isna().all()


def test_a_time_of_few_network_evaluations_says_so(tmp_path, monkeypatch):
    grid = grid_of(tmp_path, line("calodiffusion", "ds2", batch=100, evaluations=6))
    walk, notes = walk_with(grid, monkeypatch), Notes()
    walk.cell_text("calodiffusion", "ds2", 100, ONE_THREAD, notes)
    assert notes.reasons[0].endswith("counted on from 6 network evaluations and fewer")


def test_all_threads_have_a_table_only_where_they_were_measured(tmp_path, monkeypatch):
    walk = walk_with(grid_of(tmp_path, line("caloinn", "ds2")), monkeypatch)
    assert walk.benchmark_kinds == [ONE_THREAD, GPU]
    walk = walk_with(grid_of(tmp_path, line("caloinn", "ds2", "cpu-8/fp32")), monkeypatch)
    assert walk.benchmark_kinds == [ONE_THREAD, ALL_THREADS, GPU]
    embedded = line("caloinn", "ds2", "cpu-8/fp32", size="embedded")
    walk = walk_with(grid_of(tmp_path, embedded), monkeypatch)
    assert walk.benchmark_kinds == [ONE_THREAD, GPU]


def test_cold_starts_have_their_range_their_memory_and_their_weights_or_a_reason(
    tmp_path, monkeypatch
):
    cold = {"figure": "cold", "size": "embedded", "batch": 100}
    measured = {"low": 50.0, "high": 60.0, "rounds": 3, "trained": True, "peak_memory_mib": 512.3}
    slow = {"value": None, "reason": "takes more than 30 s"}
    lines = [line("caloinn", "ds2", value=55.0, **cold, **measured)]
    lines += [line("calodiffusion", "ds2", **cold, **slow), line("caloinn", "ds2")]
    fast, other = walk_with(grid_of(tmp_path, *lines), monkeypatch).cold_rows()
    assert (fast["model"], fast["weights"], fast["memory, MiB"]) == ("caloinn", "trained", "512")
    assert fast["ms per shower"] == "55 (50 to 60)"
    assert other["ms per shower"] == "takes more than 30 s" and other["memory, MiB"] == "-"
    assert other["weights"] == "random (untrained)"


def test_parameters_stand_beside_both_published_counts():
    rows = {(row["model"], row["dataset"]): row for row in TablesWalk().parameter_rows()}
    diffusion = rows["calodiffusion", "ds3"]
    assert diffusion["here, all networks"] == diffusion["final CaloChallenge, generation"]
    assert diffusion["Ahmad et al., Table 1"] == "~1.2 M"
    # the encoder of a VAE only trains
    assert rows["calovae-inn", "ds2"]["here"] == "equal"
    assert rows["caloinn", "ds2"]["here"] == "0.714 of the nearest"
    assert rows["caloinn", "ds3"]["here, all networks"] == "-"


def test_published_times_have_ours_or_a_reason_beside(tmp_path, monkeypatch):
    grid = grid_of(tmp_path, line("caloflow-teacher", "calogan-eplus", "cuda/fp32", batch=10))
    walk, notes = walk_with(grid, monkeypatch), Notes()
    rows = walk.beside_rows(walk.table_3(), notes)
    assert len(rows) == 7
    assert rows[0]["here"] == "2 (1.8 to 2.4) [1]"
    assert rows[0]["published"] == "789"
    assert all(row["here"] for row in rows)
    assert "CaloFlow" not in notes.markdown()
    assert walk.beside_rows(walk.table_7(), notes)
    assert walk.beside_rows(walk.ild(), notes)


def test_the_times_of_all_data_sets_are_asked_for_together():
    with pytest.raises(UsageError, match="dataset"):
        TablesWalk(dataset="ds2")


# ---- times over a reference model ------------------------------------------------------------


def test_times_are_divided_on_their_own_machine_only():
    table = pd.DataFrame(
        [
            ("caloinn", "ds2", 100, "CPU", "a", 2.0, 0.2),
            ("calodiffusion", "ds2", 100, "CPU", "a", 10.0, 1.0),
            ("caloinn", "ds2", 100, "CPU", "b", 20.0, np.nan),
            ("calodiffusion", "ds2", 100, "CPU", "b", 100.0, np.nan),
            ("calodiffusion", "ds2", 100, "CPU", "no reference", 5.0, 1.0),
            ("calodiffusion", "ds2", 100, "GPU", "a", 1.0, 1.0),
        ],
        columns=["model", "dataset", "batch", "device", "source", "value", "uncertainty"],
    ).assign(machine="")
    found = relative(table, "ds2", 100, "CPU").set_index(["model", "source"])
    assert set(found.index.get_level_values("source")) == {"a", "b"}
    assert found.loc[("calodiffusion", "a"), "ratio"] == 5.0
    assert found.loc[("calodiffusion", "b"), "ratio"] == 5.0
    assert found.loc[("calodiffusion", "a"), "error"] == pytest.approx(5.0 * np.hypot(0.1, 0.1))
    assert np.isnan(found.loc[("calodiffusion", "b"), "error"])
    assert found.loc[("caloinn", "a"), "error"] == 0.0


def test_times_of_two_machines_of_this_study_are_never_divided_by_each_other(tmp_path):
    grid = grid_of(
        tmp_path,
        line("caloinn", "ds2", value=10.0),
        line("caloinn", "ds2", value=20.0, machine="machine-b", date="2026-02-01"),
        line("calo-vq", "ds2", value=50.0),
        line("calodiffusion", "ds2", value=400.0, date="2026-03-01"),
        line("calodiffusion", "ds2", value=600.0, machine="machine-b", date="2026-02-01"),
        line("supercalo", "ds2", value=1.0, machine="machine-c"),
    )
    found = relative(all_times(grid), "ds2", 1, "CPU").query("source == @HERE")
    ratios = dict(zip(found["model"], found["ratio"], strict=True))
    assert ratios == {"caloinn": 1.0, "calo-vq": 5.0, "calodiffusion": 40.0}


def test_agreement_is_the_rank_correlation_and_the_typical_factor():
    rows = [
        {"model": model, "source": source, "ratio": ratio * factor}
        for source, factor in ((CHALLENGE, 1.0), (AUTHORS, 2.0))
        for model, ratio in (("x", 2.0), ("y", 3.0), ("z", 5.0))
    ]
    rows += [{"model": "reference", "source": s, "ratio": 1.0} for s in (CHALLENGE, AUTHORS)]
    (found,) = agreement(pd.DataFrame(rows))
    assert found["models"] == 3
    assert found["rank correlation"] == pytest.approx(1.0)
    assert found["typical factor"] == pytest.approx(2.0)


def test_every_named_implementation_and_reference_is_there(tmp_path):
    assert set(IMPLEMENTATIONS) <= set(published("original_times")["implementation"])
    table = all_times(grid_of(tmp_path))
    assert set(table["source"]) == {AUTHORS, CHALLENGE, AHMAD}
    for dataset, model in REFERENCES.items():
        assert ((table["dataset"] == dataset) & (table["model"] == model)).any()


def test_our_times_of_published_sizes_take_part(tmp_path):
    grid = grid_of(
        tmp_path,
        line("caloinn", "ds2", batch=100, value=50.0),
        line("calodiffusion", "ds2", batch=100, value=5000.0),
        line("calodiffusion", "ds2", batch=100, value=1.0, size="embedded"),
    )
    found = relative(all_times(grid), "ds2", 100, "CPU").set_index(["model", "source"])
    assert found.loc[("calodiffusion", HERE), "ratio"] == 100.0
    relatives = {"ds2": found.reset_index()}
    figure = plots.times_over_reference(relatives, REFERENCES, SOURCES)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == [HERE, AUTHORS, CHALLENGE]
    assert len(TablesWalk.apart(relatives)) > 0


def test_exported_surrogates_stand_with_ratio_and_difference(tmp_path, monkeypatch):
    (tmp_path / "measured").mkdir()
    numbers = dict.fromkeys(export_times.FIELDS, 0.0)
    times = {"onnx_ms": 0.5, "onnx_low": 0.4, "onnx_high": 0.6, "own_ms": 1.0}
    line = numbers | times | {"model": "bologan", "dataset": "ds1-pions", "batch": 100}
    line |= {"ratio": 2.0, "ratio_low": 1.9, "ratio_high": 2.1, "noisy": True, "cells": 4711}
    line |= {
        "difference": 3.2e-5,
        "difference_999": 4e-6,
        "crossed": 2,
        "machine": "A, 2 cores",
        "date": "2026-11-28",
    }
    pd.DataFrame([line]).to_csv(tmp_path / "measured" / "exports.csv", index=False)
    monkeypatch.setattr(tables_walk, "data_dir", lambda: tmp_path)
    (row,) = TablesWalk().export_rows()
    assert row["ONNX Runtime"] == "0.5 (0.4 to 0.6)"
    assert row["own / ONNX Runtime"] == "2 (1.9 to 2.1) (noisy)"
    assert row["of one cell in 1,000"] == "4.0e-06"
    assert row["largest difference"] == "3.2e-05" and row["across the threshold"] == "2 of 4,711"
