"""Long work on data before anything is trained: done once, whole or not at all, kept, and told of."""

import io
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.zoo import load, pixels
from wdgrid.cli.progress import show, show_preparing
from wdgrid.data.cache import prepared
from wdgrid.errors import DataError
from wdgrid.runner.events import Preparing, TrainingStarted
from wdgrid.runner.handle import ProcessWorker
from wdgrid.study.sections import Task


def test_a_prepared_folder_is_used_until_an_image_changes(zoo, cache, monkeypatch):
    before = load(zoo)
    with monkeypatch.context() as patch:
        patch.setattr("wdgrid.data.folder._decoded", None)
        assert torch.equal(load(zoo).train_x, before.train_x)  # nothing decoded
    os.utime(zoo / "test" / "bee" / "1.png", ns=(0, 0))
    assert load(zoo).content == before.content  # prepared anew, from what it was
    assert load(zoo.rename(zoo.with_name("moved"))).content == before.content
    zoo.with_name("moved").rename(zoo)
    image = zoo / "train" / "ant" / "3.png"
    was = image.stat()
    Image.fromarray(255 - pixels("train", "ant", 3)).save(image)
    os.utime(image, ns=(was.st_atime_ns, was.st_mtime_ns + 1))
    after = load(zoo)
    assert (after.train_x != before.train_x).flatten(1).any(1).sum() == 1
    assert after.content[0] != before.content[0] and after.content[1] == before.content[1]
    (zoo / "test" / "cow" / "0.png").unlink()
    less = load(zoo)
    assert len(less.test_x) == 11 and less.content[0] == after.content[0] and less.content[1] != after.content[1]
    assert len(list(cache.rglob("zoo-*.safetensors"))) == 1  # the old ones are replaced


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage"])
def test_a_damaged_cache_is_prepared_anew(zoo, cache, damage):
    before = load(zoo).train_x.clone()
    (file,) = cache.rglob("*.safetensors")
    whole = file.read_bytes()
    file.unlink()  # a process that still has it mapped keeps what it mapped
    file.write_bytes({"truncated": whole[:-1], "empty": b"", "garbage": b"\xff" * 100}[damage])
    file.with_suffix(".part").write_bytes(whole[:100])  # a process that was killed
    assert torch.equal(load(zoo).train_x, before)
    assert file.read_bytes() == whole and not file.with_suffix(".part").exists()


@pytest.mark.parametrize("whose", ["another user's", "writable by others"])
def test_prepared_data_that_another_user_can_write_is_not_read(zoo, cache, tmp_path, monkeypatch, whose):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    before = load(zoo).train_x.clone()
    (file,) = cache.rglob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-100] ^= 255  # an image, or what is told of it
    file.write_bytes(content)
    if whose == "writable by others":
        file.chmod(0o666)
    else:
        real = Path.lstat

        def lstat(path):
            found = real(path)
            return os.stat_result([*found[:4], os.getuid() + 1, *found[5:]]) if path == file else found

        monkeypatch.setattr(Path, "lstat", lstat)
    assert torch.equal(load(zoo).train_x, before)
    (own,) = (tmp_path / "own" / "wdgrid" / "prepared").iterdir()
    assert own.parent.stat().st_mode & 0o777 == 0o700 and file.read_bytes() == content
    with monkeypatch.context() as patch:
        patch.setattr("wdgrid.data.folder._decoded", None)
        assert torch.equal(load(zoo).train_x, before)  # nothing decoded again


def test_prepared_data_is_read_again_whatever_the_umask(zoo, cache, monkeypatch):
    before = os.umask(0o002)
    try:
        images = load(zoo).train_x.clone()
    finally:
        os.umask(before)
    monkeypatch.setattr("wdgrid.data.folder._decoded", None)
    assert torch.equal(load(zoo).train_x, images)


def images_of(value):
    """A `build` of two tiny images that hold one value."""

    def build(create):
        for array in create(1, 1, (1, 2, 2)).values():
            array[:] = value
        return "0" * 64, "1" * 64

    return build


def test_who_waits_while_preparing_fails_prepares_itself_and_no_lock_is_left(cache):
    path, begun, waiting = cache / "x.safetensors", threading.Event(), threading.Event()

    def fails(create):
        create(1, 1, (1, 2, 2))
        begun.set()
        assert waiting.wait(30)
        time.sleep(0.2)  # it is at the lock by now
        raise DataError("torn")

    def first():
        with pytest.raises(DataError, match="torn"):
            prepared(path, "x", fails)

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(30)
    waiting.set()
    found = prepared(path, "x", images_of(7))
    thread.join()
    assert found.train_x.unique().tolist() == [7] and found.content == ("0" * 64, "1" * 64)
    assert [p.name for p in cache.iterdir()] == ["x.safetensors"]


def endless():
    """A user's dataset that is never ready."""

    def build(create):
        create(1, 1, (1, 2, 2))
        time.sleep(600)

    prepared(Path(os.environ["WDGRID_DATA"]) / "x.safetensors", "x", build)


@pytest.mark.slow
def test_a_worker_that_is_stopped_while_it_prepares_leaves_nothing(cache, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    worker = ProcessWorker(Task(dataset="test_preparing:endless", device="cpu"), cells=1)
    deadline = time.monotonic() + 60
    while not list(cache.glob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(cache.glob("*.part"))
    worker.stop()
    assert not [p for p in cache.rglob("*") if p.is_file()]


def test_a_cache_that_cannot_be_written_is_told(zoo, cache, monkeypatch):
    cache.write_text("a file where a folder should be")
    with pytest.raises(DataError, match=r"cannot be written: .*; prepared data goes to \$WDGRID_DATA"):
        load(zoo)

    def full(fd, offset, length):
        raise OSError(28, "No space left on device")

    cache.unlink()
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"zoo.*: cannot be written: No space left on device"):
        load(zoo)
    assert not list(cache.rglob("*.part"))


def test_the_prepared_file_is_mapped_and_not_read(zoo):
    """Two processes share its pages: nothing of the images is in memory of one's own."""
    data = load(zoo)
    (file,) = Path(os.environ["WDGRID_DATA"]).rglob("*.safetensors")
    pixel = int(data.train_x[0, 0, 0, 0])
    content = bytearray(file.read_bytes())
    at = content.index(data.train_x[0].numpy().tobytes())
    with file.open("r+b") as f:
        f.seek(at)
        f.write(bytes([255 - pixel]))
    assert int(data.train_x[0, 0, 0, 0]) == 255 - pixel


def told_of_preparing(told):
    """Tells of 30 images, a second between two messages."""
    with show(quiet=False) as tell:
        tell(TrainingStarted("s", 4))
        for message in told:
            tell(Preparing(*message))
    with show_preparing() as tell:
        for message in told:
            tell(*message)


def test_long_work_shows_as_lines_now_and_then(monkeypatch, capsys):
    clock = iter(range(1000))
    monkeypatch.setattr("wdgrid.cli.progress.time.monotonic", lambda: next(clock))
    told_of_preparing([("reading images of zoo", i, 30) for i in range(31)])
    lines = capsys.readouterr().err.splitlines()
    assert 4 <= len(lines) <= 14  # of 62 messages
    assert all(re.fullmatch(r"reading images of zoo: \d+ of 30", line) for line in lines)


def test_long_work_shows_as_a_bar_on_a_terminal(monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    told_of_preparing([("reading images of zoo", 12, 30)])
    assert screen.getvalue().count("reading images of zoo") >= 2 and "12 of 30" in screen.getvalue()
    assert "cells" in screen.getvalue() and "0/4" in screen.getvalue()


@pytest.mark.slow
def test_of_two_processes_at_once_one_prepares_and_both_read(zoo, cache, tmp_path):
    code = (
        "import sys, torch\nfrom helpers import zoo as t\n"
        "told = []\n"
        "data = t.datasets.load(t.task(sys.argv[1]), torch.device('cpu'), torch.float32, lambda *a: told.append(a))\n"
        "print(len(told), int(data.train_x.long().sum()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["tests", *sys.path])}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(zoo)], cwd=Path(__file__).parents[2], env=environment, text=True,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    told = sorted(process.communicate(timeout=60)[0].split() for process in both)
    assert [int(t[0]) for t in told] == [0, 2] or [int(t[0]) for t in told] == [0, 0]
    assert told[0][1] == told[1][1] == str(int(load(zoo).train_x.long().sum()))
