"""Public files come whole and verified, or not at all, whatever the network does."""

import hashlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fileserver import FileServer
from toy_showers import toy_showers

from calostudy import fetching
from calostudy.datasets import (
    DATASETS,
    SPLITS,
    clouds_path,
    dataset,
    showers_paths,
    sources_present,
)
from calostudy.errors import DataError, UsageError
from calostudy.fetching import fetch
from calostudy.showers import write

N = 300
NAME = "eplus.hdf5"
AT_ONCE = (0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """A file in the format of CaloGAN, of some 300 kB."""
    path = tmp_path_factory.mktemp("served") / NAME
    write(path, toy_showers("calogan-eplus", N, seed=1))
    return path.read_bytes()


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("CALOSTUDY_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "data"


@pytest.fixture
def folder(data):
    return data / "public" / "calogan-eplus"


@pytest.fixture
def server(content):
    with FileServer({f"/{NAME}": content}) as server:
        yield server


@pytest.fixture
def entry(server, content):
    """CaloGAN's e+ as a small file of this machine's server; its size and MD5 are published."""
    return entry_of(server.url, content)


def entry_of(url, content, **changes):
    catalogue = dataset("calogan-eplus")
    file = replace(
        catalogue.public_files[0],
        url=f"{url}/{NAME}",
        events=N,
        md5=hashlib.md5(content).hexdigest(),
        bytes=len(content),
    )
    return replace(catalogue, public_files=(replace(file, **changes),))


def changed(entry, **changes):
    return replace(entry, public_files=(replace(entry.public_files[0], **changes),))


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# --- what goes well ------------------------------------------------------------------------------


def test_a_file_comes_verified_to_where_the_catalogue_says(entry, data, content):
    (got,) = fetch(entry)
    assert [got.path] == showers_paths("calogan-eplus", "train", "public")
    assert got.path.read_bytes() == content
    assert (got.downloaded, got.verified, got.events) == (True, True, N)
    assert names(got.path.parent) == [NAME]
    assert sources_present("calogan-eplus")["public"] == ["train", "evaluation"]
    json.dumps(got.as_dict())


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_is_fetched_to_where_its_readers_look(name, data, monkeypatch):
    monkeypatch.setattr(fetching, "_fetch_file", lambda entry, file, path, options: path)
    for split in SPLITS:
        expected = showers_paths(name, split, "public")
        if not expected:
            with pytest.raises(UsageError, match=r"not published.*calostudy simulate"):
                fetch(dataset(name), split)
            continue
        if any(file.clouds for file in dataset(name).public_files):
            expected.append(clouds_path(name, split, "public"))
        assert fetch(dataset(name), split) == expected


def test_a_file_that_is_here_is_verified_and_not_fetched_again(entry, server, folder):
    fetch(entry)
    (got,) = fetch(entry)
    assert (got.downloaded, got.verified) == (False, True)
    assert len(server.asked) == 1


def test_progress_is_shown_as_a_slow_server_sends(entry, server, folder, monkeypatch, capsys):
    class Bar(fetching.tqdm):
        def __init__(self, **options):
            super().__init__(**options | {"disable": False, "mininterval": 0.01})

    monkeypatch.setattr(fetching, "tqdm", Bar)
    server.slices, server.pause = 8, 0.03
    said = []
    fetch(entry, say=said.append)
    shown = capsys.readouterr().err
    percentages = {line.split("%")[0][-3:] for line in shown.split("\r") if "B/s" in line}
    assert len(percentages) >= 3
    assert "100%" in shown
    assert entry.public_files[0].url in said[0]


def test_without_a_terminal_there_is_no_bar(entry, folder, capsys):
    fetch(entry)
    assert capsys.readouterr().err == ""


def test_a_file_without_published_md5_is_known_by_its_structure(entry, folder, content):
    (got,) = fetch(changed(entry, md5=None, bytes=None))
    assert not got.verified
    assert got.md5 == hashlib.md5(content).hexdigest()
    assert not fetch(changed(entry, md5=None, bytes=None))[0].downloaded


# --- broken transfers ----------------------------------------------------------------------------


@pytest.mark.parametrize("size_known", [True, False])
def test_a_broken_download_goes_on_where_it_broke(entry, server, folder, content, size_known):
    server.breaks = 3
    said = []
    fetch(entry if size_known else changed(entry, bytes=None), pauses=AT_ONCE, say=said.append)
    starts = [int(asked[6:-1]) for _, asked in server.asked[1:]]
    assert starts == sorted(set(starts))
    assert min(starts) > 0
    assert sum("broke off" in line for line in said) == 3
    assert names(folder) == [NAME]


def test_a_server_that_ignores_ranges_sends_all_of_it_again(entry, server, folder, content):
    server.breaks, server.ranges = 2, False
    (got,) = fetch(entry, pauses=AT_ONCE)
    assert got.path.read_bytes() == content


def test_what_came_is_kept_for_the_next_fetch(entry, server, folder, content):
    server.breaks = 1
    with pytest.raises(DataError, match=r"broke off.*kB are here"):
        fetch(entry, pauses=())
    assert names(folder) == [f"{NAME}.part"]
    came = (folder / f"{NAME}.part").stat().st_size
    assert came >= len(content) // 2 - fetching._BLOCK
    fetch(entry)
    assert server.asked[-1] == (f"/{NAME}", f"bytes={came}-")
    assert names(folder) == [NAME]


def test_the_pauses_between_attempts_are_those_asked_for(entry, server, folder, monkeypatch):
    slept = []
    monkeypatch.setattr(fetching.time, "sleep", slept.append)
    server.statuses = [503, 500, 429]
    fetch(entry, pauses=(1, 2, 4))
    assert slept == [1, 2, 4]
    assert list(fetching.PAUSES) == sorted(fetching.PAUSES)


def test_a_server_that_falls_silent_is_given_up_after_the_timeout(entry, server, folder):
    server.stalls = 2
    start = time.monotonic()
    with pytest.raises(DataError, match=r"silent for 0\.1 s, in each of 2 attempts"):
        fetch(entry, timeout=0.1, pauses=(0.0,))
    assert time.monotonic() - start < 2
    assert names(folder) == [f"{NAME}.part"]


@pytest.mark.parametrize("extra", [b"", b"more than there should be"])
@pytest.mark.parametrize("size_known", [True, False])
def test_a_part_that_is_whole_or_too_long_does_no_harm(
    entry, server, folder, content, extra, size_known
):
    folder.mkdir(parents=True)
    (folder / f"{NAME}.part").write_bytes(content + extra)
    (got,) = fetch(entry if size_known else changed(entry, bytes=None), pauses=AT_ONCE)
    assert got.path.read_bytes() == content
    assert names(folder) == [NAME]
    assert len(server.asked) == (0 if not extra else 1) + (0 if size_known else 1)


def test_a_killed_fetch_leaves_only_the_part_and_goes_on(entry, server, folder, content):
    server.stalls = 1
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from test_fetching import entry_of, fetch\n"
        "fetch(entry_of(sys.argv[2], Path(sys.argv[3]).read_bytes()))"
    )
    folder.mkdir(parents=True)
    served = folder.parent / "served"
    served.write_bytes(content)
    arguments = [Path(__file__).parent, server.url, served]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments])
    part = folder / f"{NAME}.part"
    try:
        wait_for(lambda: part.exists() and part.stat().st_size >= fetching._BLOCK)
        with pytest.raises(UsageError, match="another process"):
            fetch(entry)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert names(folder) == [f"{NAME}.part"]
    came = part.read_bytes()
    assert content.startswith(came)
    (got,) = fetch(entry)
    assert server.asked[-1][1] == f"bytes={len(came)}-"
    assert got.path.read_bytes() == content


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def test_a_kill_while_the_md5_is_taken_loses_nothing(entry, server, folder, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_args, **_options):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fetching.pooch.core, "hash_matches", kill)
        patch.setattr(fetching.pooch.utils.os, "remove", lambda path: None)
        with pytest.raises(Killed):
            fetch(entry)
    assert len(names(folder)) == 2  # the part and pooch's second name for it
    fetch(entry)
    assert len(server.asked) == 1
    assert names(folder) == [NAME]


# --- files that are not what they should be ------------------------------------------------------


def test_a_damaged_download_is_removed_and_never_gets_the_name(entry, server, folder, content):
    server.corrupt = True
    with pytest.raises(DataError, match=r"MD5.*removed.*calostudy fetch calogan-eplus"):
        fetch(entry)
    assert names(folder) == []
    server.corrupt = False
    fetch(entry)
    assert server.asked[-1] == (f"/{NAME}", None)


def test_a_part_of_another_file_is_found_out_by_the_md5(entry, server, folder):
    folder.mkdir(parents=True)
    (folder / f"{NAME}.part").write_bytes(b"something else" * 1000)
    with pytest.raises(DataError, match="not the published file"):
        fetch(entry)
    assert names(folder) == []


@pytest.mark.parametrize("change", [lambda c: c[:-8], lambda c: c[:-1] + b"!"])
def test_a_wrong_file_that_is_here_is_reported_and_left_alone(
    entry, server, folder, content, change
):
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(change(content))
    with pytest.raises(DataError, match="remove it"):
        fetch(entry)
    assert (folder / NAME).read_bytes() == change(content)
    assert server.asked == []


def test_a_web_page_is_not_taken_for_the_file(entry, server, folder):
    server.files[f"/{NAME}"] = b"<html>Please log in</html>"
    with pytest.raises(DataError, match="not an HDF5 file"):
        fetch(changed(entry, md5=None, bytes=None))
    with pytest.raises(DataError, match="has 26 bytes, not"):
        fetch(entry)
    assert names(folder) == []


def test_a_file_of_too_few_showers_is_refused(entry, folder):
    with pytest.raises(DataError, match="holds 300 showers, expected 100,000"):
        fetch(changed(entry, md5=None, events=100000))
    assert names(folder) == []


# --- files that do not come ----------------------------------------------------------------------


@pytest.fixture
def no_names(monkeypatch):
    """A machine without a network: no name can be looked up."""
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)

    def fail(*_args, **_options):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)


def test_without_a_network_one_is_told_what_to_put_where(no_names, data):
    with pytest.raises(DataError) as caught:
        fetch(dataset("ds2"))
    said = str(caught.value)
    assert "zenodo.org is not known here" in said
    for name, md5, size in (
        ("dataset_2_1.hdf5", "e590333e9a2da51b258288d74bd8357a", "1.36 GB"),
        ("dataset_2_2.hdf5", "7a56fd68aa53ded37c2ac445694d9736", "1.37 GB"),
    ):
        assert f"https://zenodo.org/records/6366271/files/{name}" in said
        assert f"{size}, MD5 {md5}" in said
        assert str(data / "public" / "ds2" / name) in said
    assert names(data / "public" / "ds2") == []


def test_a_file_put_there_by_hand_is_not_asked_for(no_names, data, entry, folder, content):
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(content)
    assert fetch(entry)[0].verified


def test_a_file_without_address_comes_with_the_page_of_its_record(data):
    with pytest.raises(DataError, match=r"https://doi\.org/10\.17632/pvn3xc3wy5\.1") as caught:
        fetch(dataset("calogan-gamma"))
    assert str(data / "public" / "calogan-gamma" / "gamma.hdf5") in str(caught.value)


def test_a_file_that_the_server_lacks_is_asked_for_once(entry, server, folder):
    server.files.clear()
    with pytest.raises(DataError, match=f"404 Not Found(?s:.*){server.url}/{NAME}"):
        fetch(entry, pauses=AT_ONCE)
    assert len(server.asked) == 1
    assert names(folder) == []


def test_a_server_that_is_gone_is_tried_a_few_times(entry, server, folder):
    server.__exit__()
    said = []
    with pytest.raises(DataError, match="no connection to 127"):
        fetch(entry, pauses=AT_ONCE, say=said.append)
    assert sum("next attempt" in line for line in said) == len(AT_ONCE)


@pytest.mark.parametrize("size_known", [True, False])
def test_a_disk_without_room_is_found_before_the_download(
    entry, folder, size_known, monkeypatch, content
):
    full = shutil.disk_usage("/")._replace(free=fetching._SPARE + len(content) - 1)
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: full)
    with pytest.raises(DataError, match="more are needed"):
        fetch(entry if size_known else changed(entry, bytes=None))
    assert names(folder) == []


def test_a_folder_that_cannot_be_made_is_bad_data(entry, data):
    data.write_text("a file, not a folder")
    with pytest.raises(DataError, match=NAME):
        fetch(entry)


def test_an_unknown_split_is_bad_usage(entry):
    with pytest.raises(UsageError, match="evaluation"):
        fetch(entry, "test")
