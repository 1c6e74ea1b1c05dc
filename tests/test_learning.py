"""A learning curve is made once, goes on after a stop, and scores as the study does."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from toy_showers import toy_showers

from calostudy import cli, learning, plots
from calostudy.datasets import load
from calostudy.errors import DataError, UsageError
from calostudy.generation import generate_showers
from calostudy.hardware import target
from calostudy.learning import Curve, measure, read_curve
from calostudy.metrics import evaluate
from calostudy.models import build, caloflow, read_card, weights_path
from calostudy.models import load as load_surrogate
from calostudy.models.caloflow import LAYERS, VOXELS
from calostudy.models.surrogate import TrainingRecipe
from calostudy.showers import write
from calostudy.tables import curve_rows, measured
from calostudy.training import train

TRAINING, EVALUATION = 40, 30
QUICK = Curve(metrics=("separation_power",), repeats=1)
LOSS_LINES = [f"{loss}/{net}" for net in (LAYERS, VOXELS) for loss in learning.LOSSES]


@pytest.fixture(autouse=True)
def small_study(monkeypatch, tmp_path):
    """Toy showers as the data set's own, and a teacher that trains in a moment."""
    cycle = {"rise": 0.3, "start": 25, "end": 100.0}
    structure = {
        LAYERS: caloflow.Structure(1, 8, 1, 0.0, tail_bound=6.0),
        VOXELS: caloflow.Structure(1, 4, 1, 0.1, degrees="spread", tail_bound=6.0),
    }
    recipes = {
        LAYERS: TrainingRecipe(2, 16, 1e-2, "onecycle", cycle, validation=0.25, clip=10.0),
        VOXELS: TrainingRecipe(3, 16, 1e-2, "onecycle", cycle, validation=0.25, clip=10.0),
    }
    monkeypatch.setitem(caloflow.STRUCTURE["embedded"], "calogan", structure)
    monkeypatch.setitem(caloflow.RECIPES["embedded"], "calogan", recipes)
    data = tmp_path / "data"
    monkeypatch.setenv("CALOSTUDY_DATA", str(data))
    for split, n, seed in (("train", TRAINING, 1), ("evaluation", EVALUATION, 2)):
        path = data / "showers" / "calogan-eplus" / f"{split}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, toy_showers("calogan-eplus", n, seed))


def values(path):
    """The lines without what differs from one run to the next."""
    return read_curve(path).drop(columns="training_seconds")


def test_a_stopped_curve_goes_on_where_it_was_and_ends_the_same(tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole.csv", tmp_path / "stopped.csv"
    measure(QUICK, [20, 40], whole, tmp_path / "whole", progress=False)

    steps, loss = [], caloflow.CaloFlowTeacher.loss

    def counted(self, network, batch):
        if self.networks[network].training:
            steps.append(network)
            if len(steps) == stop_at:
                raise KeyboardInterrupt
        return loss(self, network, batch)

    monkeypatch.setattr(caloflow.CaloFlowTeacher, "loss", counted)
    # 20 showers: 1 batch in each of 2 + 3 epochs; 40: 2 batches; stop in flow-II's second epoch
    stop_at = 5 + 4 + 3
    with pytest.raises(KeyboardInterrupt):
        measure(QUICK, [20, 40], stopped, tmp_path / "stopped", progress=False)
    before = values(stopped)
    assert set(before["training_showers"]) == {"", "20"}

    steps.clear()
    stop_at = None
    measure(QUICK, [20, 40], stopped, tmp_path / "stopped", progress=False)
    assert steps == [VOXELS] * 4  # of the two epochs that were not over
    pd.testing.assert_frame_equal(values(stopped), values(whole))
    pd.testing.assert_frame_equal(values(stopped)[: len(before)], before)


def test_lines_that_are_there_are_not_made_again(tmp_path, monkeypatch):
    out = tmp_path / "curve.csv"
    measure(QUICK, [20], out, tmp_path / "work", progress=False)
    table = read_curve(out)
    assert sorted(table["quantity"][table["training_showers"] == "20"]) == sorted(
        [*LOSS_LINES, "separation_power"]
    )
    text = out.read_bytes()
    for name in ("train", "load_surrogate", "generate_showers"):
        monkeypatch.setattr(learning, name, lambda *_, **__: pytest.fail("made again"))
    measure(QUICK, [20], out, tmp_path / "work", progress=False)
    assert out.read_bytes() == text


def test_a_missing_line_is_made_from_the_finished_training(tmp_path, monkeypatch):
    out = tmp_path / "curve.csv"
    measure(QUICK, [20], out, tmp_path / "work", progress=False)
    whole = values(out)
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(line for line in lines if ",evaluation_loss/flow-II," not in line))
    assert len(read_curve(out)) == len(whole) - 1
    monkeypatch.setattr(learning, "generate_showers", lambda *_, **__: pytest.fail("made again"))
    measure(QUICK, [20], out, tmp_path / "work", progress=False)
    key = ["training_showers", "quantity"]
    pd.testing.assert_frame_equal(
        values(out).sort_values(key, ignore_index=True),
        whole.sort_values(key, ignore_index=True),
    )


def test_other_settings_add_lines_and_replace_none(tmp_path):
    out = tmp_path / "curve.csv"
    measure(QUICK, [20], out, tmp_path / "work", progress=False)
    first = values(out)
    for other in ({"epochs": 1}, {"seed": 2}, {"repeats": 2}):
        measure(Curve(**{**vars(QUICK), **other}), [20], out, tmp_path / "work", progress=False)
    table = values(out)
    assert len(table.merge(first)) == len(first)
    # Repeats are of the classifiers, and there is none here.
    assert len(table) == 3 * (len(LOSS_LINES) + 1) + 2
    assert set(table["repeats"]) == {""}
    assert set(zip(table["epochs"], table["seed"], strict=True)) == {
        *(("", "1"), ("recipe", "1"), ("1 each", "1"), ("", "2"), ("recipe", "2")),
    }


def test_scores_are_those_of_the_study_for_the_same_showers(tmp_path, monkeypatch):
    from calostudy.metrics import classifier

    monkeypatch.setattr(classifier, "MINIMUM_SHOWERS", 10)
    out = tmp_path / "curve.csv"
    curve = Curve(repeats=2, seed=3)
    measure(curve, [24], out, tmp_path / "work", progress=False)
    with target("cpu-1/fp32").active():
        reference, training = load(curve.dataset, "evaluation"), load(curve.dataset, "train")
        surrogate = train(
            build(curve.model, curve.dataset, seed=3), training[:24], tmp_path / "own", seed=3
        )
        generated = generate_showers(surrogate, reference.incident_energy, seed=3)
        scores = evaluate(
            generated,
            reference,
            curve.dataset,
            metrics=curve.metrics,
            repeats=2,
            seed=3,
            floor=training,
        )
    table = read_curve(out).set_index(["training_showers", "quantity"])
    for score in scores:
        line, floor = table.loc[("24", score.name)], table.loc[("", score.name)]
        assert float(line["value"]) == pytest.approx(score.value, rel=1e-5)
        assert float(line["uncertainty"]) == pytest.approx(score.uncertainty, rel=1e-2)
        assert float(floor["value"]) == pytest.approx(score.floor, rel=1e-5)
        assert line["uncertainty_kind"] == score.uncertainty_kind
        assert line["showers"] == str(EVALUATION)
    assert table["repeats"]["24", "auc_low"] == "2"
    assert table["repeats"]["24", "separation_power"] == ""


def test_losses_are_of_the_weights_that_were_kept(tmp_path):
    out = tmp_path / "curve.csv"
    measure(QUICK, [40], out, tmp_path / "work", progress=False)
    (folder,) = (tmp_path / "work").iterdir()
    card, table = read_card(folder), measured_from(out)
    for network in (LAYERS, VOXELS):
        best = card["best_epoch"][network]
        lines = {loss: table.loc[f"{loss}/{network}"] for loss in learning.LOSSES}
        assert lines["best_epoch"]["value"] == best
        assert lines["training_loss"]["value"] == pytest.approx(
            card["loss_curve"][network][best - 1]["train_loss"], rel=1e-5
        )
        assert lines["validation_loss"]["value"] == pytest.approx(
            card["validation_loss"][network], rel=1e-5
        )
        assert [lines[loss]["showers"] for loss in learning.LOSSES[:3]] == [30, 10, EVALUATION]
        losses = learning.shower_losses(
            load_surrogate(folder), network, load("calogan-eplus", "evaluation"), seed=1
        )
        assert lines["evaluation_loss"]["value"] == pytest.approx(losses.mean(), rel=1e-5)
        error = losses.std(ddof=1) / np.sqrt(EVALUATION)
        assert lines["evaluation_loss"]["uncertainty"] == pytest.approx(error, rel=1e-2)


def measured_from(path):
    """Lines of the trainings, numbers as numbers, by quantity."""
    table = pd.read_csv(path)
    return table[table["training_showers"].notna()].set_index("quantity")


def test_shipped_weights_of_as_many_showers_are_judged_not_trained(tmp_path):
    shipped = weights_path("caloflow-teacher", "calogan-eplus", "embedded")
    train(
        build("caloflow-teacher", "calogan-eplus", seed=1),
        load("calogan-eplus", "train"),
        shipped,
        seed=1,
        progress=False,
    )
    out, work = tmp_path / "curve.csv", tmp_path / "work"
    measure(QUICK, [40], out, work, progress=False)
    assert not work.exists()
    made_by = set(read_curve(out).set_index("training_showers").loc["40", "made_by"])
    sha256 = json.loads((shipped / "card.json").read_text())["weights_sha256"]
    assert len(made_by) == 1
    assert made_by.pop().startswith(f"shipped weights {sha256[:12]}; code ")
    # Another seed or other showers are another training.
    measure(Curve(**{**vars(QUICK), "seed": 2}), [40], out, work, progress=False)
    measure(QUICK, [20], out, work, progress=False)
    assert len(list(work.iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--sizes", "41"), 2, "41 showers to train on: expected from 2 to the 40"),
        (("--sizes", "1"), 2, "1 showers to train on"),
        (("--metrics", "auc"), 2, "auc_low"),
        (("--dataset", "ds9"), 2, "ds9"),
        (("--dataset", "calogan-gamma"), 1, "no such file"),
    ],
    ids=["too many", "too few", "metric", "dataset", "no showers"],
)
def test_bad_arguments_end_with_the_studys_exit_status(tmp_path, capsys, arguments, status, said):
    assert learning.main([str(tmp_path / "curve.csv"), *arguments]) == status
    assert said in capsys.readouterr().err
    assert not (tmp_path / "curve.csv").exists()


def test_sizes_that_are_no_numbers_are_bad_usage(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        learning.main([str(tmp_path / "curve.csv"), "--sizes", "many"])
    assert stopped.value.code == 2


def test_a_file_of_something_else_is_refused_and_stays(tmp_path):
    out = tmp_path / "curve.csv"
    out.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"curve\.csv.*columns are a, b"):
        measure(QUICK, [20], out, tmp_path / "work", progress=False)
    assert out.read_text() == "a,b\n1,2\n"


def test_unknown_metrics_are_refused_at_once():
    with pytest.raises(UsageError, match="separation_power"):
        Curve(metrics=("auc",))


# ---- what is shown ------------------------------------------------------------------------------


def test_the_shipped_curve_is_complete_and_of_the_shipped_weights(monkeypatch):
    monkeypatch.delenv("CALOSTUDY_DATA")
    table = measured("learning_curve")
    card = read_card(weights_path("caloflow-teacher", "calogan-eplus", "embedded"))
    by_line = table.set_index(["training_showers", "epochs", "quantity"])["value"]
    for n in (1000, 2000, 5000, 10000):
        for quantity in (*LOSS_LINES, "separation_power", "auc_low"):
            assert np.isfinite(by_line[n, "recipe", quantity])
    trained = card.get("rounded_from", card)  # the curve is of weights as the training left them
    shipped = by_line[10000, "recipe", f"validation_loss/{VOXELS}"]
    assert shipped == pytest.approx(trained["validation_loss"][VOXELS], rel=1e-5)
    sha256 = trained["weights_sha256"][:12]
    assert table["made_by"][table["training_showers"] == 10000].str.contains(sha256).all()
    losses = [by_line[n, "recipe", f"evaluation_loss/{VOXELS}"] for n in (1000, 2000, 5000, 10000)]
    assert losses == sorted(losses, reverse=True)


def test_figure_and_table_show_every_training_and_the_floor(monkeypatch):
    monkeypatch.delenv("CALOSTUDY_DATA")
    table = measured("learning_curve")
    rows = curve_rows(table)
    trainings = table[["training_showers", "epochs"]].drop_duplicates().dropna()
    assert rows[0]["training showers"] == "Geant4 floor"
    assert len(rows) == len(trainings) + 1
    assert rows[1]["training showers"] == "1,000"
    assert all("±" in row["AUC, low-level"] for row in rows if row["epochs"] in ("-", "recipe"))
    figure = plots.learning_curve(table)
    recipe = table[table["epochs"] == "recipe"]
    auc = recipe[recipe["quantity"] == "auc_low"].sort_values("training_showers")["value"]
    drawn = figure.axes[2].containers[0].lines[0].get_ydata()
    np.testing.assert_array_equal(drawn, auc)
    plt.close(figure)


# ---- the command line ---------------------------------------------------------------------------


def command(monkeypatch, *arguments) -> int:
    monkeypatch.setattr("sys.argv", ["calostudy", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0


def test_train_takes_the_first_showers_and_the_card_says_how_many(tmp_path, monkeypatch):
    words = ("train", "caloflow-teacher", "calogan-eplus", "--seed", 4, "-n", 24)
    assert command(monkeypatch, *words, "--out", tmp_path / "out") == 0
    own = train(
        build("caloflow-teacher", "calogan-eplus", seed=4),
        load("calogan-eplus", "train", rows=slice(0, 24)),
        tmp_path / "own",
        seed=4,
    )
    assert read_card(tmp_path / "out")["training"]["showers"] == 24
    assert load_surrogate(tmp_path / "out").fingerprint() == own.fingerprint()


def test_train_on_more_showers_than_there_are_is_bad_usage(tmp_path, monkeypatch, capsys):
    words = ("train", "caloflow-teacher", "calogan-eplus", "-n", 41)
    assert command(monkeypatch, *words, "--out", tmp_path / "out") == 2
    assert "40 showers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
