"""Any folder of images: what is read from it, in which order, and what may be wrong with it."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.commands import study_toml, wdgrid
from helpers.plain import train_plain
from helpers.training import cells_of, run
from helpers.zoo import CLASSES, load, pixels, task, torn
from wdgrid.data.folder import balanced
from wdgrid.engine import Job, Workbench
from wdgrid.errors import DataError
from wdgrid.runner.messages import Order
from wdgrid.runner.worker import _checkpoint
from wdgrid.study.sections import Cosine


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
    with pytest.raises(DataError, match=r"^task.test_size = 13: folder has only 12 test images$"):
        load(zoo, test_size=13)
    with pytest.raises(DataError, match=r"^task.dataset_args.crop_size = 7: the images have only 6×6 pixels$"):
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
    with pytest.raises(DataError, match=r"has \d+×\d+ pixels, other images have \d+×\d+; set task.dataset_args.size"):
        load(tmp_path / "big")


def test_a_bad_image_is_named_and_nothing_is_left_behind(zoo, cache):
    bad = zoo / "train" / "bee" / "7.png"
    for damage, says in (
        (torn, "is not a complete image: "),
        (lambda path: path.write_bytes(b""), "is not an image"),
        (lambda path: path.write_text("I am no image"), "is not an image"),
    ):
        damage(bad)
        with pytest.raises(DataError) as caught:
            load(zoo)
        line = str(caught.value)
        assert line.startswith(f"{bad}: {says}") and "object at" not in line
    Image.fromarray(np.zeros((6, 6), np.uint16)).save(bad)
    with pytest.raises(DataError, match=r"7\.png: has mode I;16; images must have eight bits per channel"):
        load(zoo)
    assert not cache.exists()


def test_what_is_wrong_with_a_folder_is_told(zoo, cache, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert len(load("zoo").train_x) == 30
    with pytest.raises(DataError) as caught:
        load("zoos")
    places = [tmp_path / "zoos", cache / "zoos", Path("~/.cache/wdgrid/zoos").expanduser()]
    looked = ", ".join(map(str, places))
    assert str(caught.value).endswith(
        f"root = zoos: found no folder with train/<class>/* and test/<class>/*; searched {looked}"
    )
    cache.rename(tmp_path / "moved")
    (tmp_path / "moved").rename(cache)
    zoo.rename(cache / "zoo")
    assert len(load("zoo").train_x) == 30
    (cache / "zoo" / "train" / "dog").mkdir()
    with pytest.raises(DataError, match=r"zoo/test: has no folder dog, but .*zoo/train has"):
        load("zoo")
    (cache / "zoo" / "test" / "dog").mkdir()
    with pytest.raises(DataError, match=r"zoo/train/dog: has no images \(.jpg"):
        load("zoo")


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


TASK = """\
dataset = "folder"
dataset_args = { root = "zoo", crop = 1 }
model_args = { hidden = [8] }
batch_size = 5
epochs = 2
device = "cpu"
"""
STUDY = study_toml(TASK, "1, 1/2", "0, 1", 0.01, adamw=0.01)


@pytest.mark.slow
def test_a_sweep_over_a_folder_and_what_it_says_of_a_bad_one(zoo, tmp_path):
    (tmp_path / "zoo.toml").write_text(STUDY)
    done = wdgrid("sweep", "zoo.toml", "--workers", "2", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = json.loads(wdgrid("show", "zoo.toml", "--json", cwd=tmp_path).stdout)
    assert shown["cells"] == {"complete": 4} and shown["environment"]["train_images"] == 30
    torn(zoo / "test" / "cow" / "2.png")
    refused = wdgrid("sweep", "zoo.toml", "--name", "bad", cwd=tmp_path)
    assert refused.returncode == 2 and refused.stdout == "", refused.stderr
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("wdgrid: ")]
    assert "2.png: is not a complete image" in line and "Traceback" not in refused.stderr


@pytest.mark.slow
def test_a_study_is_not_trained_on_two_sets_of_images(zoo, tmp_path):
    """Other times are no other images; an image that changed is refused, until it is restored."""
    (tmp_path / "zoo.toml").write_text(STUDY)

    def sweep(*arguments):
        return wdgrid("sweep", "zoo.toml", "--workers", "1", "--json", *arguments, cwd=tmp_path)

    misspelt = sweep("--set", "task.dataset_args.root=zooo", "--storage", "sqlite:///all.db")
    assert misspelt.returncode == 2 and "no folder with train/<class>/*" in misspelt.stderr
    assert not list(tmp_path.glob("*.db*"))
    done = sweep("--set", "axes.lr.values=[1]")
    assert done.returncode == 0, done.stderr
    for path in zoo.rglob("*.png"):
        os.utime(path, ns=(0, 0))
    touched = sweep("--set", "axes.lr.values=[1, 2]", "--extend")
    assert touched.returncode == 0 and "2 of 4 cells are finished" in touched.stderr, touched.stderr
    image, more = zoo / "test" / "cow" / "2.png", ("--set", "axes.lr.values=[1, 2, 4]", "--extend")
    good = image.read_bytes()
    image.write_bytes((zoo / "test" / "cow" / "1.png").read_bytes())
    for _ in range(2):
        refused = sweep(*more)
        (line,) = [line for line in refused.stderr.splitlines() if line.startswith("wdgrid: ")]
        assert refused.returncode == 2 and refused.stdout == "" and "Traceback" not in refused.stderr
        assert "test images are not those that the stored cells were trained on; restore them, or give --name" in line
    image.write_bytes(good)
    restored = sweep(*more)
    assert restored.returncode == 0 and "4 of 6 cells are finished" in restored.stderr, restored.stderr


def test_a_checkpoint_belongs_to_the_images_that_it_was_trained_on(zoo, tmp_path):
    def identity():
        bench = Workbench(task(zoo, batch_size=5))
        cells = cells_of("adamw", [0.01], [0.0])
        order = Order("adamw", Cosine(), 2, False, cells, 1, tmp_path, "the study's", 60.0)
        return _checkpoint(bench, order, warnings.warn).identity

    before = identity()
    os.utime(zoo / "train" / "ant" / "3.png", ns=(0, 0))
    assert identity() == before
    Image.fromarray(255 - pixels("train", "ant", 3)).save(zoo / "train" / "ant" / "3.png")
    assert identity() != before
