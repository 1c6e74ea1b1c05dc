"""Every malformed file gets one clear error, which names the file and what was expected.

Each case takes a good file of either format, spoils one thing, and says what the message must
hold; reading whole, reading in chunks and inspecting must all find it.
"""

import h5py
import numpy as np
import pytest

from calostudy.calorimeter import calorimeter
from calostudy.errors import DataError
from calostudy.inspection import inspect
from calostudy.showers import count, iterate, read

N = 8


def good(name):
    """Arrays of a good file, in float64 as the public ones are."""
    target = calorimeter(name)
    rng = np.random.default_rng(0)
    energy = rng.uniform(2e3, 9e4, (N, 1))
    cells = rng.random((N, target.cells))
    cells *= energy / cells.sum(axis=1, keepdims=True)
    if target.file_format == "calochallenge":
        return {"incident_energies": energy, "showers": cells}
    layers = {
        f"layer_{layer.id}": cells[:, place].reshape(N, *layer.shape)
        for layer, place in zip(target.layers, target.slices, strict=True)
    }
    return {"energy": energy / 1000, **layers, "overflow": rng.random((N, 3))}


def drop(*keys):
    return lambda arrays: [arrays.pop(key) for key in keys]


def put(key, index, value):
    def spoil(arrays):
        arrays[key][index] = value

    return spoil


def change(key, function):
    def spoil(arrays):
        arrays[key] = function(arrays[key])

    return spoil


def every(function):
    def spoil(arrays):
        for key in arrays:
            arrays[key] = function(arrays[key])

    return spoil


CHALLENGE = {
    "missing showers": (drop("showers"), "no showers"),
    "missing energies": (drop("incident_energies"), "no incident_energies"),
    "too narrow": (change("showers", lambda a: a[:, :367]), r"\(8, 367\)"),
    "not flat": (change("showers", lambda a: a[:, None, :]), r"\(8, 1, 368\)"),
    "energies in a table": (change("incident_energies", lambda a: np.tile(a, 2)), r"\(8, 2\)"),
    "scalar energy": (change("incident_energies", lambda a: a[0, 0]), r"incident_energies.*\(\)"),
    "integers": (change("showers", lambda a: a.astype(np.int32)), "type int32"),
    "text": (change("incident_energies", lambda a: a.astype("S8")), "floating-point"),
    "NaN": (put("showers", (3, 5), np.nan), "NaN or infinite"),
    "infinite": (put("showers", (3, 5), np.inf), "NaN or infinite"),
    "NaN energy": (put("incident_energies", 3, np.nan), "incident_energies"),
    "negative": (put("showers", (3, 5), -0.1), "negative"),
    "negative energy": (put("incident_energies", 3, -1e4), "incident_energies"),
    "zero energy": (put("incident_energies", 3, 0), "incident_energies"),
    "zero showers": (every(lambda a: a[:0]), "zero showers"),
    "more energies": (change("showers", lambda a: a[:-1]), "different length.*8.*7"),
    "energies in GeV": (change("incident_energies", lambda a: a / 1000), "GeV.*MeV"),
    "showers in GeV": (change("showers", lambda a: a / 1000), "GeV.*MeV"),
}
CALOGAN = {
    "missing layer": (drop("layer_1"), "no layer_1"),
    "missing energies": (drop("energy"), "no energy"),
    "layer transposed": (change("layer_0", lambda a: a.swapaxes(1, 2)), r"\(8, 96, 3\)"),
    "layer flat": (change("layer_2", lambda a: a.reshape(N, -1)), r"\(8, 72\)"),
    "overflow of two layers": (change("overflow", lambda a: a[:, :2]), r"overflow.*\(8, 2\)"),
    "integers": (change("layer_2", lambda a: a.astype(np.int64)), "layer_2 has type int64"),
    "NaN": (put("layer_2", (3, 5, 5), np.nan), "NaN or infinite"),
    "NaN overflow": (put("overflow", (3, 1), np.nan), "NaN or infinite"),
    "negative": (put("layer_1", (3, 5, 5), -1.0), "negative"),
    "negative energy": (put("energy", 3, -1.0), "energy"),
    "zero showers": (every(lambda a: a[:0]), "zero showers"),
    "a short layer": (change("layer_2", lambda a: a[:5]), "different length.*layer_2 has 5"),
    "energies in MeV": (change("energy", lambda a: a * 1000), "MeV.*GeV"),
    "layers in GeV": (
        lambda arrays: [arrays.update({k: arrays[k] / 1000}) for k in arrays if "layer" in k],
        "GeV.*MeV",
    ),
}
CASES = [
    pytest.param(name, spoil, message, id=f"{name}: {case}")
    for name, cases in (("ds1-photons", CHALLENGE), ("calogan", CALOGAN))
    for case, (spoil, message) in cases.items()
]


def save(path, arrays):
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return path


@pytest.mark.parametrize("name", ["ds1-photons", "ds2", "calogan"])
def test_the_good_file_is_read(tmp_path, name):
    path = save(tmp_path / "good.h5", good(name))
    assert len(read(path, calorimeter(name), energy_range=(1e3, 1e5))) == N
    assert inspect(path).problems == ()


@pytest.mark.parametrize(("name", "spoil", "message"), CASES)
def test_one_clear_error(tmp_path, name, spoil, message):
    arrays = good(name)
    spoil(arrays)
    path = save(tmp_path / "spoilt.h5", arrays)
    target = calorimeter(name)
    for attempt in (read, lambda p, t: list(iterate(p, t, 3))):
        with pytest.raises(DataError, match=message) as caught:
            attempt(path, target)
        assert str(caught.value).startswith(f"{path}: ")
        assert "expected" in str(caught.value)
    assert inspect(path).problems


def test_the_shower_at_fault_is_counted_from_the_beginning_of_the_file(tmp_path):
    arrays = good("calogan")
    arrays["layer_1"][6, 2, 2] = np.nan
    path = save(tmp_path / "spoilt.h5", arrays)
    with pytest.raises(DataError, match="layer_1 of shower 6"):
        list(iterate(path, calorimeter("calogan"), 2))


@pytest.mark.parametrize(
    ("held", "asked"),
    [("ds1-pions", "ds1-photons"), ("ds3", "ds2"), ("calogan", "ds2"), ("ds2", "calogan")],
)
def test_the_calorimeter_that_would_fit_is_named(tmp_path, held, asked):
    path = save(tmp_path / "other.h5", good(held))
    with pytest.raises(DataError, match=f"{asked}.*it fits {held}"):
        count(path, calorimeter(asked))


@pytest.mark.parametrize("name", ["ds2", "calogan"])
def test_energies_all_in_the_wrong_unit_are_told_by_the_range(tmp_path, name):
    """Deposits in the same wrong unit hide it from the response, not from the energy range."""
    arrays = good(name)
    factor = 1000 if name == "calogan" else 0.001
    wrong = {key: array * factor for key, array in arrays.items()}
    path = save(tmp_path / "wrong.h5", wrong)
    read(path, calorimeter(name))
    with pytest.raises(DataError, match=r"expected (MeV|GeV)"):
        read(path, calorimeter(name), energy_range=(1e3, 1e5))
    assert any("expected" in problem for problem in inspect(path).problems)


def test_energies_outside_the_range_in_either_unit_are_nobodys_mistake(tmp_path):
    path = save(tmp_path / "high.h5", good("ds2"))
    assert len(read(path, calorimeter("ds2"), energy_range=(2e5, 1e6))) == N


def test_showers_without_any_deposit_are_showers(tmp_path):
    arrays = good("calogan")
    for key in ("layer_0", "layer_1", "layer_2"):
        arrays[key][:] = 0
    path = save(tmp_path / "empty.h5", arrays)
    assert read(path, calorimeter("calogan")).total_energy().max() == 0


def test_pions_that_only_ionise_are_showers(tmp_path):
    arrays = good("calogan")
    arrays["energy"][:] = 100.0
    for key in ("layer_0", "layer_1", "layer_2"):
        arrays[key] *= 270.0 / (N * 9e4)
    scale = 270.0 / sum(arrays[f"layer_{i}"].reshape(N, -1).sum(axis=1) for i in range(3))
    for key in ("layer_0", "layer_1", "layer_2"):
        arrays[key] *= scale[:, None, None]
    path = save(tmp_path / "muonlike.h5", arrays)
    np.testing.assert_allclose(read(path, calorimeter("calogan")).total_energy(), 270.0)


def test_no_such_file(tmp_path):
    for attempt in (inspect, lambda p: read(p, calorimeter("ds2"))):
        with pytest.raises(DataError, match=r"nowhere\.h5: no such file"):
            attempt(tmp_path / "nowhere.h5")
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path, calorimeter("ds2"))


@pytest.mark.parametrize("content", [b"", b"energy,layer_0\n1,2\n"])
def test_not_hdf5(tmp_path, content):
    path = tmp_path / "text.h5"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"text\.h5: not an HDF5 file"):
        read(path, calorimeter("ds2"))
    assert "not an HDF5 file" in inspect(path).problems[0]


@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_truncated(tmp_path, part):
    path = save(tmp_path / "cut.h5", good("ds2"))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(DataError, match=r"cut\.h5: truncated"):
        read(path, calorimeter("ds2"))
    assert "truncated" in inspect(path).problems[0]


def test_a_damaged_chunk_is_reported_with_what_is_known(tmp_path):
    path = tmp_path / "damaged.h5"
    arrays = good("ds2")
    with h5py.File(path, "w") as file:
        file["incident_energies"] = arrays["incident_energies"]
        showers = file.create_dataset("showers", data=arrays["showers"], compression="gzip")
        where = showers.id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[where.byte_offset + 10 : where.byte_offset + 200] = bytes(190)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged\.h5: truncated or damaged"):
        read(path, calorimeter("ds2"))
    report = inspect(path)
    assert report.events == N
    assert "damaged" in report.problems[0]
