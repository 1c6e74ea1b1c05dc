"""An exported surrogate makes the same showers of the same noise, in ONNX Runtime."""

import numpy as np
import pytest
from typer.testing import CliRunner

from calostudy.cli import app
from calostudy.errors import DataError, UsageError
from calostudy.export import Exported, graph_of
from calostudy.models import build, load, shipped_weights

MODEL, DATASET = "caloscore-single-shot", "ds1-photons"
run = CliRunner().invoke


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The file that the command writes."""
    out = tmp_path_factory.mktemp("onnx") / "shower.onnx"
    done = run(app, ["export", MODEL, DATASET, "--format", "onnx", "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out


def test_showers_of_the_same_noise_are_the_same(exported):
    surrogate = load(shipped_weights(MODEL, DATASET, "embedded"))
    energies = np.geomspace(300.0, 6e4, 25)
    found = Exported(exported).sample(energies, seed=5, first=2)
    wanted = surrogate.sample(energies, seed=5, first=2).cells
    assert found.dtype == np.float32 and (wanted > 0).sum() > 1000
    # At the threshold a cell may be on either side.
    clear = np.maximum(found, wanted) > 1.001 * surrogate.dataset.threshold
    np.testing.assert_allclose(found[clear], wanted[clear], rtol=1e-4)


def test_any_number_of_showers_goes_through_and_each_by_itself(exported):
    run_it = Exported(exported)
    energies = np.geomspace(300.0, 6e4, 6)
    together = run_it.sample(energies, seed=1)
    alone = [run_it.sample(energy, seed=1, first=i)[0] for i, energy in enumerate(energies)]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)


def test_the_file_says_what_goes_in_and_what_comes_out(exported):
    about = Exported(exported).about
    assert (about["model"], about["dataset"], about["size"]) == (MODEL, DATASET, "embedded")
    assert about["input incident_energy"] == "(N,) incident energy in MeV"
    assert about["input cell_noise"] == "(N, 368) standard normal, stream 65536"
    assert len(about["weights_sha256"]) == 64


@pytest.mark.parametrize(
    "name, dataset",
    [
        ("caloflow-student", "ds1-photons"),
        ("caloinn", "ds2"),
        ("caloinn", "ds1-pions"),
        ("calodiffusion", "ds1-photons"),
        ("caloscore-distilled", "ds2"),
        ("flow-matching-distilled", "ds1-photons"),
        ("calogan", "calogan-eplus"),
        ("bologan", "ds1-photons"),
        ("caloshowergan", "ds1-pions"),
    ],
)
def test_the_graph_is_the_surrogate(name, dataset):
    """Before it is exported, which takes minutes for flows."""
    import torch

    weights = shipped_weights(name, dataset, "embedded")
    surrogate = load(weights) if weights else build(name, dataset)
    graph, energies = graph_of(surrogate), np.array([1024.0, 16384.0])
    numbers = [torch.as_tensor(each.draw(4, 0, 2)) for each in graph.inputs]
    with torch.no_grad():
        found = graph(torch.as_tensor(energies), *numbers).numpy()
    wanted = surrogate.sample(energies, seed=4).cells
    near = np.isclose(found, wanted, rtol=1e-4, atol=2e-3 * surrogate.dataset.threshold)
    assert near.mean() > 0.998


def test_what_is_no_fixed_graph_is_refused(tmp_path):
    out = tmp_path / "x.onnx"
    done = run(app, ["export", "caloflow-teacher", DATASET, "--out", str(out)])
    assert isinstance(done.exception, UsageError) or done.exit_code == 2
    with pytest.raises(UsageError, match="these can: caloflow-student"):
        graph_of(build("caloflow-teacher", DATASET))
    assert not out.exists()


def test_other_formats_are_refused(tmp_path):
    out = tmp_path / "x.pb"
    done = run(app, ["export", MODEL, DATASET, "--format", "tf", "--out", str(out)])
    assert done.exit_code != 0 and not out.exists()


def test_weights_stand_in_a_file_once(exported):
    import onnx

    graph = onnx.load(exported).graph
    weights = [tensor.raw_data for tensor in graph.initializer if len(tensor.raw_data) > 256]
    assert len(weights) == len(set(weights))
    parameters = sum(build(MODEL, DATASET).parameters_by_network().values())
    assert exported.stat().st_size < 4.5 * parameters + 1e6


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(DataError, match="not an exported surrogate"):
        Exported(path)
