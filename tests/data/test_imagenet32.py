"""Downsampled ImageNet from small files in the published format, and all that can be wrong with them."""

import os
import pickle

import numpy as np
import pytest
import torch

from helpers.published_files import batch, cut, left_behind, load
from wdgrid import data as datasets
from wdgrid.errors import DataError
from wdgrid.study.sections import Task


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    monkeypatch.setenv("WDGRID_DATA", str(tmp_path / "cache"))
    folder = tmp_path / "imagenet"
    for kind in ("train", "val"):
        (folder / f"Imagenet32_{kind}").mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(11):
        n = 3 + (i == 9)
        content = {
            "data": random.integers(0, 256, (n, 3072), dtype=np.uint8),
            "labels": [1, 1000, *random.integers(1, 1001, n - 2).tolist()],
            "mean": np.zeros(3072),
        }
        if i == 10:
            (folder / "Imagenet32_val" / "val_data").write_bytes(pickle.dumps(content))
        elif i == 5:
            np.savez(folder / "Imagenet32_train" / "train_data_batch_6.npz", **content)
        else:
            (folder / "Imagenet32_train" / f"train_data_batch_{i + 1}").write_bytes(pickle.dumps(content))
    return folder


def test_imagenet32_is_its_files(imagenet):
    told = []
    data = load("imagenet32", imagenet, told)
    x, y = [], []
    for i in range(1, 11):
        path = imagenet / "Imagenet32_train" / f"train_data_batch_{i}"
        content = np.load(path.with_name(path.name + ".npz")) if i == 6 else pickle.loads(path.read_bytes())
        x += [row.reshape(3, 32, 32) for row in content["data"]]
        y += [int(label) - 1 for label in content["labels"]]
    assert np.array_equal(data.train_x, np.stack(x)) and data.train_y.tolist() == y
    assert data.classes == 1000 and len(data.test_x) == 3 and len(data.train_x) == 31
    np.testing.assert_allclose(data.mean.flatten(), np.stack(x).mean((0, 2, 3)), rtol=1e-6)
    assert told[-1] == ("reading val_data", 22, 22)
    told.clear()
    assert torch.equal(load("imagenet32", imagenet, told).train_x, data.train_x) and told == []
    third = imagenet / "Imagenet32_train" / "train_data_batch_3"
    os.utime(third, ns=(0, 0))
    assert load("imagenet32", imagenet).content == data.content
    content = pickle.loads(third.read_bytes())
    content["labels"][0] = 2
    third.write_bytes(pickle.dumps(content))
    train, test = load("imagenet32", imagenet).content
    assert train != data.content[0] and test == data.content[1]
    few = datasets.load(
        Task(dataset="imagenet32", dataset_args={"root": str(imagenet)}, train_size=1, test_size=1),
        torch.device("cpu"), torch.float32,
    )  # fmt: skip
    assert few.classes == 1000 and few.train_y.tolist() == [0]


def test_what_is_wrong_with_imagenet32_is_told(imagenet, tmp_path, monkeypatch):
    third = imagenet / "Imagenet32_train" / "train_data_batch_3"
    good = third.read_bytes()
    sixth = imagenet / "Imagenet32_train" / "train_data_batch_6.npz"
    for path, content, says in (
        (third, cut(good), "is not a complete batch file: "),
        (third, good.replace(b"labels", b"lables"), "is not a batch file with data and labels"),
        (third, batch(3, "labels", 10, 0, labels=[0, 1, 2]), "labels must be whole numbers from 1 to 1000"),
        (third, pickle.dumps({"data": np.zeros((0, 3072), np.uint8), "labels": []}), "data must be 0 × 3072 bytes"),
        (sixth, cut(sixth.read_bytes()), "is not a complete batch file: "),
    ):
        before = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            load("imagenet32", imagenet)
        line = str(caught.value)
        assert line.startswith(f"{path}: {says}") and line.endswith(
            "; download it again: Downsampled ImageNet, from image-net.org"
        )
        assert left_behind() == []
        path.write_bytes(before)
    third.unlink()
    with pytest.raises(
        DataError, match=r"imagenet/train_data_batch_3: is missing \(also searched: Imagenet32_train, .*image-net"
    ):
        load("imagenet32", imagenet)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=r"found no folder with train_data_batch_1 \(Downsampled ImageNet, .* searched .*, "
    ):
        load("imagenet32", ".")
