"""CIFAR from small files in the published format, downloaded or found, and all that can be wrong with them."""

import http.server
import os
import pickle
import tarfile
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torchvision

from helpers.commands import study_toml, wdgrid
from helpers.published_files import batch, cut, left_behind, load, md5
from wdgrid import data as datasets
from wdgrid.data.locations import home
from wdgrid.errors import DataError

PUBLISHED = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}
LABELS = {"cifar10": "labels", "cifar100": "fine_labels"}


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request, tmp_path, monkeypatch):
    """(name, folder, archive) of a small dataset that torchvision takes for the published one; nothing is cached."""
    monkeypatch.setenv("WDGRID_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    name, published = request.param, PUBLISHED[request.param]
    folder = tmp_path / "published" / published.base_folder
    folder.mkdir(parents=True)
    lists = {"train_list": published.train_list, "test_list": published.test_list}
    for i, (attribute, files) in enumerate(lists.items()):
        written = []
        for j, (file, _) in enumerate(files):
            content = batch(6 - i, LABELS[name], {"cifar10": 10, "cifar100": 100}[name], 10 * i + j)
            (folder / file).write_bytes(content)
            written.append([file, md5(content)])
        monkeypatch.setattr(published, attribute, written)
    names = pickle.dumps({"label_names": ["a"] * 10, "fine_label_names": ["a"] * 100}, protocol=2)
    (folder / published.meta["filename"]).write_bytes(names)
    monkeypatch.setattr(published, "meta", {**published.meta, "md5": md5(names)})
    archive = tmp_path / "archives" / published.filename
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, published.base_folder)
    monkeypatch.setattr(published, "tgz_md5", md5(archive.read_bytes()))
    monkeypatch.setattr(published, "url", "http://127.0.0.1:9/" + published.filename)  # nobody is there
    return name, folder, archive


@pytest.mark.parametrize("place", ["folder", "parent", "archive"])
def test_cifar_is_what_torchvision_reads(cifar, place):
    name, folder, archive = cifar
    root = {"folder": folder, "parent": folder.parent, "archive": archive.parent}[place]
    told = []
    data = load(name, root, told, download=False)
    for train, x, y in ((True, data.train_x, data.train_y), (False, data.test_x, data.test_y)):
        peer = PUBLISHED[name](str(folder.parent), train=train)
        assert np.array_equal(x.permute(0, 2, 3, 1), peer.data) and y.tolist() == peer.targets
    assert data.augmentation == datasets.Augmentation(padding=4, flip=True)
    assert told[-1] == (f"reading {name}", len(told), len(told))
    told.clear()
    assert torch.equal(load(name, "nowhere", told).train_x, data.train_x) and told == []  # prepared


class Server(http.server.BaseHTTPRequestHandler):
    """Gives what stands in `answers` by path: (status, promised length, content)."""

    answers: ClassVar = {}
    asked: ClassVar = []

    def do_GET(self):
        status, length, content = self.answers.get(self.path, (404, 0, b""))
        self.asked.append(self.path)
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        Server.answers.clear()
        Server.asked.clear()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


def test_cifar_is_downloaded_once(cifar, server, monkeypatch):
    name, folder, archive = cifar
    content = archive.read_bytes()
    Server.answers["/a.tar.gz"] = (200, len(content), content)
    monkeypatch.setattr(PUBLISHED[name], "url", server + "a.tar.gz")
    told = []
    data = load(name, "sets", told)
    assert torch.equal(data.train_x, load(name, folder).train_x) and Server.asked == ["/a.tar.gz"]
    assert told[0][0] == f"downloading {archive.name}, MB" and told[0][1] <= told[0][2]
    kept = home() / "sets" / archive.name
    assert kept.read_bytes() == content
    (home() / "prepared" / f"{name}.safetensors").unlink()
    load(name, "sets")  # from the archive that was kept
    assert len(Server.asked) == 1


@pytest.mark.parametrize("fault", ["nobody", "missing", "short", "altered", "refuses"])
def test_a_download_that_fails_says_why_and_leaves_nothing(cifar, server, monkeypatch, tmp_path, fault):
    name, _, archive = cifar
    content = archive.read_bytes()
    if fault != "nobody":
        monkeypatch.setattr(PUBLISHED[name], "url", server + "a.tar.gz")
    if fault == "short":
        Server.answers["/a.tar.gz"] = (200, len(content), cut(content))
    elif fault == "altered":
        Server.answers["/a.tar.gz"] = (200, len(content), b"\0" + content[1:])
    elif fault == "refuses":
        Server.answers["/a.tar.gz"] = (503, 0, b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        load(name, "sets")
    line = str(caught.value)
    says = {
        "nobody": "Connection refused",
        "missing": "Not Found",
        "refuses": "Service Unavailable",
        "short": "incomplete or changed",
        "altered": "incomplete or changed",
    }
    assert says[fault] in line and PUBLISHED[name].url in line and "\n" not in line
    for place in (tmp_path / "sets", home() / "sets", tmp_path / "home/.cache/wdgrid/sets"):
        assert str(place) in line
    assert f"neither {PUBLISHED[name].base_folder} nor {archive.name} is in " in line
    assert line.endswith(f"put the archive (MD5 {md5(content)}), unpacked or not, into one of these folders")
    assert left_behind() == []


def test_a_folder_that_was_there_outlives_a_failed_download(cifar, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = home() / "sets"
    mine.mkdir(parents=True)
    with pytest.raises(DataError, match="cannot be downloaded"):
        load(cifar[0], "sets/deeper")
    assert left_behind() == [home(), mine]


def test_without_download_every_place_is_named(cifar, tmp_path, monkeypatch):
    name, _, archive = cifar
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        load(name, "sets", download=False)
    line = str(caught.value)
    for place in (tmp_path / "sets", home() / "sets", tmp_path / "home/.cache/wdgrid/sets", archive.name):
        assert str(place) in line
    assert f"download = true gets it from {PUBLISHED[name].url}; or put the archive (MD5 " in line
    with pytest.raises(DataError, match="cannot be downloaded"):
        load(name, "sets")


@pytest.mark.parametrize("fault", ["missing", "cut", "altered", "a folder"])
def test_a_bad_batch_file_is_named_with_how_to_get_it(cifar, fault):
    name, folder, _ = cifar
    bad = folder / PUBLISHED[name].test_list[0][0]
    content = bad.read_bytes()
    bad.unlink()
    if fault == "cut":
        bad.write_bytes(cut(content))
    elif fault == "altered":
        bad.write_bytes(content[:-1] + b"\0")
    elif fault == "a folder":
        bad.mkdir()
    with pytest.raises(DataError) as caught:
        load(name, folder)
    line = str(caught.value)
    assert line.startswith(f"{bad}: ") and line.endswith(f"the archive is at {PUBLISHED[name].url}")
    says = {"missing": "No such file", "a folder": "Is a directory"}
    assert says.get(fault, f"but the published file has {md5(content)}: incomplete or changed") in line
    assert left_behind() == []


def test_a_bad_archive_is_named(cifar):
    name, _, archive = cifar
    archive.write_bytes(cut(archive.read_bytes()))
    with pytest.raises(DataError, match=r"incomplete or changed; remove it to download it again$") as caught:
        load(name, archive.parent)
    assert str(caught.value).startswith(f"{archive}: has MD5 ") and left_behind() == []


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps({"data": Evil()}), "is not a complete batch file: loading it would call posix.mkdir"),
        (pickle.dumps([1]), "is not a batch file with data and "),
        (pickle.dumps({"data": [1]}), "is not a batch file with data and "),
        (b"hello", "is not a complete batch file: "),
        (batch(3, "labels", 10, 0, fine_labels=[1, 2, 300], labels=[1, 2, 300]), "must be whole numbers from 0 to 9"),
        (batch(3, "labels", 10, 0, fine_labels=[1, 2], labels=[1, 2]), r"must be 2 × 3072 bytes, .* not \(3, 3072\)"),
    ],
)
def test_what_is_in_a_batch_file_is_not_trusted(cifar, monkeypatch, tmp_path, content, says):
    """Not even with the right MD5: numbers, and nothing that runs."""
    name, folder, _ = cifar
    ((file, _),) = PUBLISHED[name].test_list
    (folder / file).write_bytes(content)
    monkeypatch.setattr(PUBLISHED[name], "test_list", [[file, md5(content)]])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=says):
        load(name, folder)
    assert not Path("evil").exists() and left_behind() == []


@pytest.mark.slow
@pytest.mark.parametrize("cifar", ["cifar10"], indirect=True)
def test_the_command_says_what_is_missing_and_goes_on_once_it_is_there(cifar, tmp_path):
    task = 'dataset = "cifar10"\nmodel_args = { hidden = [8] }\nbatch_size = 5\nepochs = 1\ndevice = "cpu"'
    (tmp_path / "c.toml").write_text(study_toml(task, "1", "0", sgd=1.0))
    offline = {**os.environ, "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}

    def sweep(*arguments):
        return wdgrid("sweep", "c.toml", "--workers", "1", *arguments, cwd=tmp_path, env=offline)

    for says, *arguments in (
        ("cifar-10-python.tar.gz: cannot be downloaded to ",),
        ("no folder with train_data_batch_1 ", "--set", "task.dataset=imagenet32", "--name", "i"),
    ):
        refused = sweep(*arguments)
        assert refused.returncode == 2 and refused.stdout == "", refused.stderr
        (line,) = [line for line in refused.stderr.splitlines() if line.startswith("wdgrid: ")]
        assert says in line and "Traceback" not in refused.stderr
        assert left_behind() == [] and not list(tmp_path.glob("*.db*"))  # nothing half-written, no empty database
    load("cifar10", cifar[1])  # prepares it, which nobody else can: the real MD5s are others
    done = sweep("--set", "task.dataset_args.root=elsewhere")  # still the same study
    assert done.returncode == 0 and "1/1 cells" in done.stderr, done.stderr
