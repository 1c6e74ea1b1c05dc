"""The power study is made once, goes on after a stop, and says what a metric sees."""

import gzip
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from toy_showers import toy_showers

from calostudy import plots, power, tables
from calostudy.datasets import dataset
from calostudy.errors import DataError, UsageError
from calostudy.metrics import METRICS, Options, Sample
from calostudy.metrics.defects import DEFECTS
from calostudy.metrics.discrimination import (
    NONE,
    SEEN,
    discrimination,
    discriminations,
    first_seen,
)
from calostudy.power import KEY, Plan, Pool, compare, measure, read_power
from calostudy.showers import write
from calostudy.walks import PowerWalk

QUICK = Plan(
    metrics=("pcc", "wasserstein"), defects=("energy_scale", "mode_dropped"), sizes=(20,), trials=2
)


@pytest.fixture
def small_data(monkeypatch, tmp_path):
    """Toy showers as the data set's own."""
    monkeypatch.setenv("CALOSTUDY_DATA", str(tmp_path / "data"))
    for split, n, seed in (("train", 50, 1), ("evaluation", 30, 2)):
        path = tmp_path / "data" / "showers" / "calogan-eplus" / f"{split}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, toy_showers("calogan-eplus", n, seed))


def values(path) -> pd.DataFrame:
    """The lines without what differs from one run to the next, in a fixed order."""
    table = read_power(path).drop(columns=["seconds", "version"])
    return table.sort_values(list(KEY), ignore_index=True)


def test_a_stopped_study_goes_on_and_ends_the_same(small_data, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole.csv", tmp_path / "stopped.csv"
    measure(QUICK, whole, progress=False)
    assert len(values(whole)) == 2 * 3 * 2  # trials, defects with none, metrics
    planted, scale = [], DEFECTS["energy_scale"]

    def counted(clean, strength, rng):
        planted.append(strength)
        if len(planted) == stop_at:
            raise KeyboardInterrupt
        return scale.plant(clean, strength, rng)

    monkeypatch.setitem(DEFECTS, "energy_scale", replace(scale, plant=counted))
    stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        measure(QUICK, stopped, progress=False)
    before = values(stopped)
    assert len(before) == 3 * 2 + 2  # the first trial, and the second without a defect
    stop_at = None
    measure(QUICK, stopped, progress=False)
    pd.testing.assert_frame_equal(values(stopped), values(whole))
    assert len(planted) == 3
    measure(QUICK, stopped, progress=False)
    assert len(planted) == 3


def test_more_of_a_plan_adds_lines_and_changes_none(small_data, tmp_path):
    out = tmp_path / "power.csv"
    measure(QUICK, out, progress=False)
    first = out.read_text()
    for more in (
        {"trials": 3},
        {"nulls": 4},
        {"sizes": (20, 30)},
        {"metrics": ("separation_power",)},
        {"scan": (20,)},
        {"seed": 2},
    ):
        before = out.read_text()
        measure(replace(QUICK, **more), out, progress=False)
        assert out.read_text().startswith(before)
        assert len(out.read_text()) > len(before)
    table = read_power(out)
    assert out.read_text().startswith(first)
    assert not table.duplicated(list(KEY)).any()
    nulls = table[(table["defect"] == NONE) & (table["metric"] == "pcc") & (table["seed"] == 1)]
    assert sorted(nulls["trial"][nulls["showers"] == 20]) == [0, 1, 2, 3]
    scan = table[(table["defect"] == "energy_scale") & (table["seed"] == 1)]
    scan = scan[(scan["metric"] == "pcc") & (scan["trial"] == 0) & (scan["showers"] == 20)]
    assert sorted(scan["strength"]) == [0.125, 0.25, 0.5, 1.0, 2.0, 4.0]


def test_a_compressed_file_has_the_same_lines(small_data, tmp_path):
    out, packed = tmp_path / "power.csv", tmp_path / "power.csv.gz"
    for trials in (1, 2):
        for path in (out, packed):
            measure(replace(QUICK, trials=trials), path, progress=False)
    pd.testing.assert_frame_equal(values(packed), values(out))
    assert gzip.decompress(packed.read_bytes()).count(b"\n") == out.read_text().count("\n")


def test_a_scan_goes_to_twice_the_nominal_strength_but_not_beyond_all():
    plan = Plan(sizes=(100,), scan=(50,))
    assert plan.strengths("mode_dropped", 50)[-1] == 20
    assert plan.strengths("layer_shuffled", 50)[-2:] == [50, 100]
    assert plan.strengths("mode_dropped", 100) == [10]


def test_a_metric_that_is_measured_with_others_is_added_without_them(small_data, tmp_path):
    out = tmp_path / "power.csv"
    plan = replace(QUICK, metrics=("mean_response",))
    whole = read_power(measure(plan, out, progress=False))
    whole[whole["metric"] != "mean_response"].to_csv(out, index=False)
    again = read_power(measure(plan, out, progress=False))
    assert not again.duplicated(list(KEY)).any()
    assert len(again) == len(whole)


def test_the_values_are_those_of_the_metrics_for_the_planted_showers(small_data, tmp_path):
    out = tmp_path / "power.csv"
    measure(QUICK, out, progress=False)
    table = values(out).set_index(["metric", "defect", "trial"])["value"]
    pool = Pool.open("calogan-eplus")
    clean, others = pool.draw(20, 1, QUICK.seed)
    for defect in (NONE, *QUICK.defects):
        spoiled = clean if defect == NONE else DEFECTS[defect](clean, seed=1)
        samples = (Sample.of(each, pool.entry) for each in (spoiled, others))
        found = METRICS["wasserstein"](*samples, Options(replicas=2, seed=1), pool.ruler)
        value = found["wasserstein"].value
        assert table["wasserstein", defect, 1] == pytest.approx(value, rel=1e-5)


def test_a_draw_has_no_shower_twice_and_another_trial_others(small_data):
    pool = Pool.open("calogan-eplus")
    assert len(pool.showers) == 80
    assert len(pool.ruler) == 30
    halves = pool.draw(40, 0, 1)
    assert len(np.unique(np.concatenate([h.incident_energy for h in halves]))) == 80
    again, other = pool.draw(40, 0, 1), pool.draw(40, 1, 1)
    np.testing.assert_array_equal(again[0].cells, halves[0].cells)
    assert (other[0].cells != halves[0].cells).any()
    with pytest.raises(UsageError, match="80 in all"):
        pool.draw(41, 0, 1)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--sizes", "41"), 2, "two samples of 41"),
        (("--sizes", "0"), 2, "at least"),
        (("--metrics", "auc"), 2, "auc_low"),
        (("--defects", "none"), 2, "energy_scale"),
        (("--dataset", "ds9"), 2, "ds9"),
        (("--dataset", "calogan-gamma"), 1, "no such file"),
    ],
)
def test_bad_arguments_end_with_the_studys_exit_status(
    small_data, tmp_path, capsys, arguments, status, said
):
    assert power.main([str(tmp_path / "power.csv"), *arguments]) == status
    assert said in capsys.readouterr().err
    assert not (tmp_path / "power.csv").exists()


def test_the_command_line_makes_what_it_is_told(small_data, tmp_path):
    out = tmp_path / "power.csv"
    words = "--sizes 20 --trials 2 --metrics pcc,wasserstein --defects energy_scale,mode_dropped"
    assert power.main([str(out), *words.split()]) == 0
    direct = tmp_path / "direct.csv"
    measure(QUICK, direct, progress=False)
    pd.testing.assert_frame_equal(values(out), values(direct))
    with pytest.raises(SystemExit) as stopped:
        power.main([str(out), "--sizes", "many"])
    assert stopped.value.code == 2


def test_a_file_of_something_else_is_refused_and_stays(small_data, tmp_path):
    out = tmp_path / "power.csv"
    out.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"power\.csv.*columns are a, b"):
        measure(QUICK, out, progress=False)
    assert out.read_text() == "a,b\n1,2\n"
    packed = tmp_path / "power.csv.gz"
    for content in (b"a,b\n", gzip.compress(b"a,b\n" * 9)[:-4]):
        packed.write_bytes(content)
        with pytest.raises(DataError, match=r"power\.csv\.gz"):
            measure(QUICK, packed, progress=False)


# ---- what is made of it -------------------------------------------------------------------------


def lines(metric: str, showers: int, defect: str, strength: float, numbers) -> pd.DataFrame:
    fixed = {"dataset": "d", "metric": metric, "showers": showers}
    return pd.DataFrame({"trial": range(len(numbers)), "value": numbers}).assign(
        **fixed, defect=defect, strength=strength
    )


def test_the_discrimination_is_the_shift_in_standard_deviations_without_a_defect():
    rng = np.random.default_rng(1)
    null = rng.normal(5, 0.5, 40)
    table = pd.concat(
        [
            lines("fpd", 100, NONE, 0.0, null),
            lines("fpd", 100, "energy_scale", 2.0, null + 2.0),
            lines("precision", 100, NONE, 0.0, null),
            lines("precision", 100, "energy_scale", 2.0, null[:10] - 2.0),
        ]
    )
    found = discriminations(table).set_index("metric")
    expected = 2.0 / null.std(ddof=1)
    assert found["d"]["fpd"] == pytest.approx(expected)
    # The relative error of a standard deviation from 40 values.
    assert found["uncertainty"]["fpd"] == pytest.approx(expected / np.sqrt(78), rel=0.35)
    assert found["d"]["precision"] > SEEN  # it fell, which of this metric is a difference, too
    assert (found["trials"]["precision"], found["nulls"]["precision"]) == (10, 40)


def test_a_metric_that_never_changes_sees_nothing_or_everything():
    same = np.ones(4)
    assert discrimination(same, same) == 0
    assert discrimination(2 * same, same) == np.inf
    assert discrimination(same / 2, same) == -np.inf


@pytest.mark.parametrize(
    ("d", "seen_from"),
    [
        ([4, 5, 6], 10),
        ([1, 3, 9], 20),
        ([1, 2, 2.9], np.nan),
        ([4, 2, 6], 30),  # once is not from there on
        ([1, np.nan, 4], 30),
    ],
)
def test_seen_from_is_where_it_stays_seen(d, seen_from):
    table = pd.DataFrame({"showers": [10, 20, 30], "d": d}).assign(
        dataset="d", metric="m", defect="x", strength=1.0
    )
    (row,) = first_seen(table.sample(frac=1, random_state=1), "showers").to_dict("records")
    np.testing.assert_equal(row["seen_from"], seen_from)
    assert (row["tried_from"], row["tried_to"], row["last"]) == (10, 30, d[-1])


def test_a_planted_scale_is_seen_in_real_showers_and_a_metric_blind_to_it_says_so():
    pool = Pool.open("calogan-eplus")
    wanted = [
        (planted, (METRICS["wasserstein"], METRICS["pcc"]))
        for planted in ((NONE, 0.0), ("energy_scale", 2.0))
    ]
    rows = [
        line for trial in range(4) for part in compare(pool, 250, trial, 1, wanted) for line in part
    ]
    table = pd.DataFrame(rows).astype({"value": float})
    d = discriminations(table).set_index("metric")["d"]
    assert d["wasserstein"] > 10
    assert abs(d["pcc"]) < 1e-3


def test_the_shipped_table_is_what_the_code_gives():
    shipped = tables.measured("power")
    pool = Pool.open("calogan-eplus")
    wanted = [
        (planted, (METRICS["separation_power"], METRICS["wasserstein"]))
        for planted in ((NONE, 0.0), *((name, d.strength) for name, d in DEFECTS.items()))
    ]
    lines = [line for part in compare(pool, 250, 3, 1, wanted) for line in part]
    key = ["defect", "strength", "metric"]
    own = shipped[(shipped["showers"] == 250) & (shipped["trial"] == 3)].set_index(key)["value"]
    for line in lines:
        expected = own[tuple(line[name] for name in key)]
        assert float(line["value"]) == pytest.approx(expected, rel=2e-3)


@pytest.fixture(scope="module")
def shipped() -> pd.DataFrame:
    return PowerWalk(dataset="calogan-eplus").shipped()


def test_the_shipped_study_says_what_its_page_says(shipped):
    """The prose of notebooks/power.ipynb, claim by claim."""
    found = PowerWalk.nominal(shipped)
    seen = first_seen(found, "showers").pivot(index="metric", columns="defect", values="seen_from")
    untrained = seen.loc[[name for name in seen.index if not name.startswith(power.TRAINED)]]
    sees = untrained.notna()
    assert set(sees.index[sees.all(axis=1)]) == {"separation_power", "wasserstein"}
    assert seen.index[seen.notna().all(axis=1)].difference(untrained.index).tolist() == ["auc_low"]
    physics, neighbours = ["fpd", "kpd"], ["precision", "recall", "density", "coverage"]
    of_cells = ["pcc", "pcc_neighbours", "morans_i"]
    assert not sees.loc[[*physics, *neighbours, *of_cells], "energy_scale"].any()
    assert (seen.loc[["mean_response", "chi2_response"], "energy_scale"] == 250).all()
    assert not sees.loc[[*physics, *of_cells], "layer_shuffled_alike"].any()
    assert (seen.loc[["rms_response", "chi2_response"], "layer_shuffled_alike"] == 250).all()
    assert not sees.loc[neighbours, "mode_dropped"].any()
    assert seen["mode_dropped"].min() > seen.drop(columns="mode_dropped").min().max()
    assert seen["mode_dropped"].idxmin() == "separation_power"
    d = found.pivot_table("d", ["showers", "metric"], "defect")
    permuted = d.loc[5000, "cells_permuted"]
    assert permuted[physics].min() > 10 * permuted.drop(physics).max()
    assert sees.loc["separation_groups"].sum() == 1
    assert d.loc[(1000, "auc_low"), "energy_scale"] < SEEN
    assert d.loc[(5000, "auc_low"), ["energy_scale", "layer_shuffled_alike"]].min() > 10
    assert d.loc[(5000, "auc_high"), ["energy_scale", "layer_shuffled_alike"]].max() < SEEN


def test_figures_and_tables_show_every_metric_and_defect(shipped):
    nominal, scan = PowerWalk.nominal(shipped), PowerWalk.scan(shipped)
    seen = first_seen(nominal, "showers")
    matrix = plots.seen_matrix(seen)
    matrix.canvas.draw()
    words = [text.get_text() for text in matrix.axes[0].texts]
    assert len(words) == nominal["metric"].nunique() * len(DEFECTS)
    assert "≤ 250" in words
    for figure in (plots.power_by_showers(nominal), plots.power_by_strength(scan)):
        figure.canvas.draw()
        drawn = [axis for axis in figure.axes if axis.get_visible()]
        assert len(drawn) == len(DEFECTS)
        assert all("separation power" in [t.get_text() for t in axis.texts] for axis in drawn)
    rows = tables.threshold_rows(first_seen(scan, "strength"))
    assert [row["metric"] for row in rows] == [m for m in METRICS if m in set(scan["metric"])]
    assert rows[0]["energy scale off, %"] == "≤ 0.125"
    thousand, more = (nominal[nominal["showers"] == n] for n in (1000, 2500))
    beside = {row["metric"]: row for row in tables.beside_rows(thousand, more)}
    titles = {defect.title for defect in DEFECTS.values()}
    assert all(set(row) == {"metric", *titles} for row in beside.values())
    assert beside["pcc"]["energy scale off"] == "0.0 ± 0.0 (0.0)"
    assert "(" not in beside["auc_low"]["energy scale off"]  # not with 2,500
    for defect in DEFECTS.values():
        assert defect.at() in PowerWalk.conclusions(nominal)
    plt.close("all")


@pytest.mark.parametrize(
    ("name", "defect"),
    [
        ("calogan-piplus", "energy_scale"),
        ("ds1-photons", "mode_dropped"),
        ("ds2", "cells_permuted"),
    ],
)
def test_a_picture_of_a_defect_is_drawn_for_any_calorimeter(name, defect, monkeypatch):
    entry = dataset(name)
    showers = toy_showers(name, 60, 1)
    pool = Pool(entry, showers, Sample.of(showers, entry))
    walk = PowerWalk(dataset=name, n=50)
    monkeypatch.setitem(walk.__dict__, "pool", replace(pool, showers=toy_showers(name, 100, 1)))
    figure = plots.defect_picture(*walk.planted(defect))
    figure.canvas.draw()
    assert figure.get_suptitle() == DEFECTS[defect].at()
    plt.close(figure)
