"""The grid of times: important cells first, each in bounded time or with its reason, none twice."""

import json

import numpy as np
import pytest

from calostudy import grid
from calostudy.errors import DataError, UsageError
from calostudy.grid_times import read_times
from calostudy.hardware import target
from calostudy.probing import energy_meter, probe

MODEL, DATASET = "caloflow-student", "ds1-photons"


def cells(figures=("throughput",), targets=("cpu-1/fp32",), batches=(2,)):
    return grid.plan(targets, [MODEL], [DATASET], ["embedded"], batches, figures)


def test_the_plan_has_the_most_important_models_first_and_both_sizes():
    plan = grid.plan(["cpu-1/fp32"])
    assert (plan[0].model, plan[0].batch, plan[0].figure) == ("caloflow-teacher", 1, "throughput")
    assert {cell.size for cell in plan} == {"embedded", "paper"}
    assert {cell.figure for cell in plan} == {"throughput", "latency", "cold"}
    assert len(set(plan)) == len(plan)


@pytest.mark.parametrize("wrong", [{"models": ["caloflow"]}, {"figures": ["speed"]}])
def test_unknown_models_and_figures_are_refused(wrong):
    with pytest.raises(UsageError, match="there are"):
        grid.plan(["cpu-1/fp32"], **wrong)


def test_cells_are_written_once_with_the_machine_beside(tmp_path):
    out = tmp_path / "times.csv"
    grid.complete(out, cells(), each=0.1, progress=False)
    (line,) = read_times(out).to_dict("records")
    assert line["value"] > 0 and line["low"] <= line["value"] <= line["high"]
    assert line["is_trained"] and line["flops_per_shower"] > 0 and line["reason"] == ""
    machine = json.loads((tmp_path / "machines" / f"{line['machine']}.json").read_text())
    assert machine["peaks"]["cpu-1/fp32"]["bandwidth"][0] > 0
    before = out.read_bytes()
    grid.complete(out, cells(), each=0.1, progress=False)
    assert out.read_bytes() == before


def test_a_target_that_is_not_there_has_its_reason(tmp_path):
    out = tmp_path / "times.csv"
    grid.complete(out, cells(targets=["cpu-512/fp32"]), progress=False)
    (line,) = read_times(out).to_dict("records")
    assert "cores" in line["reason"] and not line["value"] > 0


def test_a_cell_that_takes_too_long_has_its_reason(monkeypatch):
    monkeypatch.setattr(grid, "LIMIT", 0.01)
    line = grid.measure(cells()[0], 0.1)
    assert line["reason"].startswith("takes more than") and "value" not in line


def test_a_diffusion_that_takes_too_long_is_counted_on_from_few_network_evaluations(monkeypatch):
    monkeypatch.setattr(grid, "LIMIT", 0.2)
    (cell,) = grid.plan(
        ["cpu-1/fp32"], ["calodiffusion"], ["ds1-photons"], ["paper"], [1], ["throughput"]
    )
    line = grid.measure(cell, 0.1)
    assert line["reason"] == "" and 4 <= line["evaluations"] < 398
    assert line["value"] > 1e3 * grid.LIMIT


def test_latencies_are_quantiles_of_single_showers():
    line = grid.measure(cells(["latency"], batches=[1])[0], 0.3)
    assert line["batch"] == 1 and line["low"] <= line["p50"] <= line["high"]
    assert line["p90"] is None or line["p50"] <= line["p90"]


def test_a_cold_start_is_a_process_that_writes_a_file():
    line = grid.measure(cells(["cold"])[0], 0.1)
    warm = grid.measure(cells()[0], 0.1)
    assert line["value"] > warm["value"] and line["peak_memory_mib"] > 100


def test_the_memory_of_a_cold_start_is_not_that_of_the_process_that_measures():
    held = np.ones(1 << 30, np.uint8)
    line = grid.measure(cells(["cold"])[0], 0.1)
    assert 100 < line["peak_memory_mib"] < held.nbytes / 2**20


def test_nothing_is_measured_after_the_budget(tmp_path):
    out = tmp_path / "times.csv"
    grid.complete(out, cells(), budget=-1.0, progress=False)
    assert not out.exists()


def test_a_file_of_something_else_is_refused(tmp_path):
    out = tmp_path / "times.csv"
    out.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="expected machine"):
        grid.complete(out, cells(), progress=False)


def test_a_probe_finds_bandwidth_and_products():
    found = probe("cpu-1/fp32")
    assert 0.1 < found.bandwidth[0] < 2000 and 1e-3 < found.matmul[0] < 100
    assert found.least_seconds(1e12 * found.matmul[0], 0.0) == pytest.approx(1.0)


def test_energy_is_counted_or_there_is_a_reason():
    meter, about = energy_meter(target("cpu-1/fp32"))
    assert about and (meter is None or meter() >= 0)
