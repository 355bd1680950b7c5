"""Images on their way to a network: prepared once, kept as bytes, augmented by counters alone."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from plain import train_plain
from test_engine import cells_of, run

from wdgrid import data as datasets
from wdgrid.data import Augmentation, DataError, Dataset
from wdgrid.data.augment import moments
from wdgrid.data.folder import balanced
from wdgrid.engine import Job, Workbench
from wdgrid.progress import show, show_preparing
from wdgrid.sections import Cosine, Task
from wdgrid.sweep import Progress
from wdgrid.worker import Preparing

CPU = torch.device("cpu")
CLASSES = ("ant", "bee", "cow")


def photographs(n, m=4, height=6, width=6, seed=0):
    random = np.random.default_rng(seed)
    return [
        torch.tensor(random.integers(0, 256, (k, 3, height, width)), dtype=torch.uint8)
        if images
        else torch.tensor(random.integers(0, 3, k))
        for k, images in ((n, True), (n, False), (m, True), (m, False))
    ]


def integers():
    x, y, *test = photographs(5)
    return x.int(), y, *test


def dataset(n, augmentation, height=6, width=6, dtype=torch.float64):
    tensors = photographs(n, height=height, width=width)
    mean, std = (t[:, None, None].to(dtype) for t in moments(tensors[0]))
    return Dataset(*tensors, 3, augmentation, mean, std)


def one_image(image, augmentation, row, column, mirrored, mean, std):
    """Normalise, mirror, surround, cut: one image [C, H, W] at a time, pixel by pixel of the window."""
    channels, height, width = image.shape
    p = augmentation.padding
    wide = np.zeros((channels, height + 2 * p, width + 2 * p))
    for c in range(channels):
        plane = (image[c].astype(np.float64) - mean[c]) / std[c]
        if augmentation.flip and mirrored:
            plane = plane[:, ::-1]
        wide[c, p : p + height, p : p + width] = plane
    h, w = (augmentation.size or height), (augmentation.size or width)
    return wide[:, row : row + h, column : column + w]


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 9),
    batch=st.integers(1, 10),
    height=st.integers(3, 6),
    width=st.integers(3, 6),
    padding=st.integers(0, 3),
    flip=st.booleans(),
    size=st.none() | st.integers(1, 3),
    seed=st.integers(0, 2**31 - 1),
)
def test_minibatches_are_images_normalised_mirrored_and_cut_one_by_one(
    n, batch, height, width, padding, flip, size, seed
):
    augmentation = Augmentation(padding, flip, size)
    data = dataset(n, augmentation, height, width)
    images = data.train_x.numpy()
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3))
    order = torch.randperm(n, generator=datasets.generator(seed, 2, datasets.PERMUTATION))
    random = datasets.generator(seed, 2, datasets.AUGMENTATION)
    rows, columns, mirrored = augmentation.draw(n, data.train_x.shape[1:], random)
    batches = datasets.epoch(data, seed, 2, batch)
    for i in reversed(range(datasets.steps_per_epoch(data, batch))):  # any of them, in any order
        x, y = batches(i)
        assert len(x) == len(y) == min(batch, n) and x.is_contiguous() and x.dtype == torch.float64
        for j, (found, number) in enumerate(zip(x, y, strict=True), i * batch):
            image = images[order[j]]
            expected = one_image(image, augmentation, int(rows[j]), int(columns[j]), int(mirrored[j]), mean, std)
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
            assert number == data.train_y[order[j]]
    tested = data.prepared(data.test_x)
    top, left = ((height - size) // 2, (width - size) // 2) if size else (0, 0)
    still = Augmentation(0, False, size)
    for found, image in zip(tested, data.test_x.numpy(), strict=True):
        np.testing.assert_allclose(found, one_image(image, still, top, left, 0, mean, std), rtol=1e-12, atol=1e-12)


def test_every_window_and_both_sides_come_up_equally_often():
    n = 20_000
    drawn = Augmentation(1, True).draw(n, torch.Size([3, 8, 8]), datasets.generator(0, 0, 2))
    for numbers, values in zip(drawn, (3, 3, 2), strict=True):
        counts = torch.bincount(numbers)
        assert len(counts) == values and (counts - n / values).abs().max() < 5 * (n / values) ** 0.5
    together = torch.bincount(drawn[0] * 6 + drawn[1] * 2 + drawn[2], minlength=18)
    assert (together - n / 18).abs().max() < 5 * (n / 18) ** 0.5


def test_what_an_epoch_looks_like_depends_on_seed_and_epoch_and_not_on_blocks(monkeypatch):
    data = dataset(30, Augmentation(2, True))

    def seen(seed, epoch):
        batches = datasets.epoch(data, seed, epoch, 4)
        return torch.stack([batches(i)[0] for i in range(7)])

    first = seen(0, 0)
    assert torch.equal(first, seen(0, 0))
    assert not torch.equal(first, seen(0, 1)) and not torch.equal(first, seen(1, 0))
    monkeypatch.setattr(datasets, "BLOCK_BYTES", 1)
    assert torch.equal(first, seen(0, 0))
    monkeypatch.setattr(datasets, "BLOCK_BYTES", 3 * 4 * 3 * 36 * 8)  # three minibatches at a time
    assert torch.equal(first, seen(0, 0))


def test_moments_are_those_of_the_pixels():
    x = photographs(2345, height=4, width=5)[0]
    x[:, 2] = 7
    mean, std = moments(x)
    np.testing.assert_allclose(mean, x.double().mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std[:2], x.double().std((0, 2, 3), unbiased=False)[:2], rtol=1e-12)
    assert std[2] == 1  # a channel of one colour is left alone


# Folders


def pixels(part, name, i, side=6):
    return np.random.default_rng([ord(part[1]), ord(name[0]), i]).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WDGRID_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def zoo(tmp_path, cache):
    """A folder of small images, whose pixels `pixels` knows."""
    for part, count in (("train", 10), ("test", 4)):
        for name in CLASSES:
            folder = tmp_path / "zoo" / part / name
            folder.mkdir(parents=True)
            (folder / ".hidden.png").write_bytes(b"")
            (folder / "readme.txt").write_text("no image")
            for i in range(count):
                Image.fromarray(pixels(part, name, i)).save(folder / f"{i}.png")
    return tmp_path / "zoo"


def task(root, **rest):
    args = {"root": str(root), **rest.pop("args", {})}
    return Task(dataset="folder", dataset_args=args, device="cpu", **rest)


def load(root, **rest):
    return datasets.load(task(root, **rest), CPU, torch.float32)


def test_a_folder_is_its_images(zoo):
    data = load(zoo)
    assert data.train_x.dtype == data.test_x.dtype == torch.uint8 and data.classes == 3
    for part, count, x, y in (("train", 10, data.train_x, data.train_y), ("test", 4, data.test_x, data.test_y)):
        expected = {pixels(part, name, i).tobytes(): k for k, name in enumerate(CLASSES) for i in range(count)}
        assert {image.permute(1, 2, 0).numpy().tobytes(): int(k) for image, k in zip(x, y, strict=True)} == expected
        for n in range(1, len(y)):
            assert max(abs(int((y[:n] == k).sum()) - n / 3) for k in range(3)) < 1
    seen = data.prepared(data.train_x)
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std((0, 2, 3), unbiased=False), torch.ones(3))


def test_sizes_take_balanced_parts_that_do_not_overlap(zoo):
    whole, data = load(zoo), load(zoo, train_size=9, validation_size=6, test_size=1)
    assert torch.equal(data.train_x, whole.train_x[:9]) and torch.equal(data.val_x, whole.train_x[-6:])
    assert torch.equal(data.test_x, whole.test_x[:1]) and data.classes == 3
    assert torch.bincount(data.train_y).tolist() == [3, 3, 3] and torch.bincount(data.val_y).tolist() == [2, 2, 2]
    assert torch.equal(data.mean, whole.mean)
    with pytest.raises(DataError, match=r"^task.test_size = 13: folder has 12 test images$"):
        load(zoo, test_size=13)
    with pytest.raises(DataError, match=r"^task.dataset_args.crop_size = 7: images are 6×6 pixels$"):
        load(zoo, args={"crop_size": 7})


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_any_beginning_holds_every_class_in_proportion(sizes):
    files = [(Path(f"{k}/{i}.png"), k, 0, 0) for k, size in enumerate(sizes) for i in range(size)]
    order = balanced(files)
    assert sorted(order) == sorted(files) and order == balanced(files[::-1])
    for n in range(len(order)):
        for k, size in enumerate(sizes):
            share = size / len(files)
            found = sum(file[1] == k for file in order[:n])
            assert abs(found - n * share) <= 1 + len(sizes) * share


def test_images_are_resized_by_averaging_over_areas(tmp_path, cache):
    for part in ("train", "test"):
        for name in CLASSES:
            folder = tmp_path / "big" / part / name
            folder.mkdir(parents=True)
            Image.fromarray(pixels(part, name, 0, side=12)).save(folder / "a.PNG")
            Image.fromarray(pixels(part, name, 1, side=6)[..., 0]).convert("P").save(folder / "b.bmp")  # any size, kind
    data = load(tmp_path / "big", args={"size": 4})
    found = {image.permute(1, 2, 0).numpy().astype(int).tobytes() for image in data.train_x}
    for name in CLASSES:
        means = pixels("train", name, 0, side=12).reshape(4, 3, 4, 3, 3).mean((1, 3))
        assert min(np.abs(np.frombuffer(f, int).reshape(4, 4, 3) - means).max() for f in found) <= 1
    with pytest.raises(DataError, match=r"is \d+×\d+ pixels, others are \d+×\d+; give task.dataset_args.size"):
        load(tmp_path / "big")


def test_a_prepared_folder_is_used_until_an_image_changes(zoo, cache, monkeypatch):
    before = load(zoo)
    with monkeypatch.context() as patch:
        patch.setattr("wdgrid.data.folder._decoded", None)
        assert torch.equal(load(zoo).train_x, before.train_x)  # nothing decoded
    image = zoo / "train" / "ant" / "3.png"
    was = image.stat()
    Image.fromarray(255 - pixels("train", "ant", 3)).save(image)
    os.utime(image, ns=(was.st_atime_ns, was.st_mtime_ns + 1))
    after = load(zoo)
    assert (after.train_x != before.train_x).flatten(1).any(1).sum() == 1
    (zoo / "test" / "cow" / "0.png").unlink()
    assert len(load(zoo).test_x) == 11
    assert len(list(cache.rglob("*.safetensors"))) == 1  # the old ones are replaced


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


def torn(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def test_a_bad_image_is_named_and_nothing_is_left_behind(zoo, cache):
    bad = zoo / "train" / "bee" / "7.png"
    for damage in (torn, lambda path: path.write_bytes(b""), lambda path: path.write_text("I am no image")):
        damage(bad)
        with pytest.raises(DataError) as caught:
            load(zoo)
        assert str(caught.value).startswith(f"{bad}: is not a whole image: ")
    Image.fromarray(np.zeros((6, 6), np.uint16)).save(bad)
    with pytest.raises(DataError, match=r"7\.png: is of mode I;16; eight bits a channel are needed"):
        load(zoo)
    assert [p.suffix for p in cache.rglob("*") if p.is_file()] == [".lock"]


def test_what_is_wrong_with_a_folder_is_told(zoo, cache, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert len(load("zoo").train_x) == 30
    with pytest.raises(DataError) as caught:
        load("zoos")
    places = [tmp_path / "zoos", cache / "zoos", Path("~/.cache/wdgrid/zoos").expanduser()]
    looked = ", ".join(map(str, places))
    assert str(caught.value).endswith(f"root = zoos: no folder with train and test in it; looked at {looked}")
    cache.rename(tmp_path / "moved")
    (tmp_path / "moved").rename(cache)
    zoo.rename(cache / "zoo")
    assert len(load("zoo").train_x) == 30
    (cache / "zoo" / "train" / "dog").mkdir()
    with pytest.raises(DataError, match=r"zoo/test: has no folder dog, which .*zoo/train has"):
        load("zoo")
    (cache / "zoo" / "test" / "dog").mkdir()
    with pytest.raises(DataError, match=r"zoo/train/dog: holds no images \(.jpg"):
        load("zoo")


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


# Through the engine and the commands


def test_cells_on_a_folder_come_to_what_an_independent_loop_says(zoo):
    bench = Workbench(
        task(zoo, args={"crop": 1, "crop_size": 4}, batch_size=4, epochs=2, precision="float64", validation_size=6)
    )
    assert bench.network(0, 1).size == 3 * 16 * 64 + 2 * 64 * 64 + 64 * 3 + 3 + 3 * 128  # 4×4 windows
    job = Job("adamw", Cosine(), 2, False)
    cells = cells_of("adamw", [0.01, 0.002], [0.02, 0.0])
    for cell, outcome in zip(cells, run(bench, job, cells, 3), strict=True):
        for name, value in train_plain(bench, job, cell).items():
            assert getattr(outcome, name) == pytest.approx(value, rel=1e-9, abs=1e-12), name


def test_a_users_own_bytes_are_normalised(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    data = datasets.load(Task(dataset="test_images:photographs", dataset_args={"n": 50}), CPU, torch.float32)
    assert data.train_x.dtype == torch.uint8
    assert data.prepared(data.train_x).mean().abs() < 1e-5
    with pytest.raises(DataError, match=r"must be floating point or uint8 images \[N, C, H, W\], .* not torch.int32"):
        datasets.load(Task(dataset="test_images:integers"), CPU, torch.float32)


STUDY = """
[task]
dataset = "folder"
dataset_args = { root = "zoo", crop = 1 }
model_args = { hidden = [8] }
batch_size = 5
epochs = 2
device = "cpu"
[axes.lr]
values = "1, 1/2"
unit = 0.01
[axes.weight_decay]
values = "0, 1"
unit = 0.01
[[panels]]
optimizer = "adamw"
"""
WDGRID = [sys.executable, "-c", "import sys; from wdgrid.cli import main; sys.exit(main())"]


@pytest.mark.slow
def test_a_sweep_over_a_folder_and_what_it_says_of_a_bad_one(zoo, tmp_path):
    (tmp_path / "zoo.toml").write_text(STUDY)

    def wdgrid(*arguments):
        return subprocess.run([*WDGRID, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120)

    done = wdgrid("sweep", "zoo.toml", "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(wdgrid("show", "zoo.toml", "--json").stdout)
    assert shown["cells"] == {"complete": 4} and shown["environment"]["train_images"] == 30
    torn(zoo / "test" / "cow" / "2.png")
    refused = wdgrid("sweep", "zoo.toml", "--name", "bad")
    assert refused.returncode == 2 and refused.stdout == "", refused.stderr
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("wdgrid: ")]
    assert "2.png: is not a whole image" in line and "Traceback" not in refused.stderr


def told_of_preparing(told):
    """Tells of 30 images, a second between two messages."""
    with show(4, quiet=False) as tell:
        for message in told:
            tell(Progress(0, 4, preparing=Preparing(*message)))
    with show_preparing() as tell:
        for message in told:
            tell(*message)


def test_long_work_shows_as_lines_now_and_then(monkeypatch, capsys):
    clock = iter(range(1000))
    monkeypatch.setattr("wdgrid.progress.time.monotonic", lambda: next(clock))
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
    assert screen.getvalue().count("reading images of zoo") >= 2 and "12/30" in screen.getvalue()
    assert "cells" in screen.getvalue() and "0/4" in screen.getvalue()


@pytest.mark.slow
def test_of_two_processes_at_once_one_prepares_and_both_read(zoo, cache, tmp_path):
    code = (
        "import sys, torch, test_images as t\n"
        "told = []\n"
        "data = t.datasets.load(t.task(sys.argv[1]), t.CPU, torch.float32, lambda *a: told.append(a))\n"
        "print(len(told), int(data.train_x.long().sum()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["tests", *sys.path])}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(zoo)], cwd=Path(__file__).parents[1], env=environment, text=True,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    told = sorted(process.communicate(timeout=60)[0].split() for process in both)
    assert [int(t[0]) for t in told] == [0, 2] or [int(t[0]) for t in told] == [0, 0]
    assert told[0][1] == told[1][1] == str(int(load(zoo).train_x.long().sum()))
