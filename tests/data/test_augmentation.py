"""Images on their way to a network: normalised, mirrored and cut, by counters alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wdgrid import data as datasets
from wdgrid.data import Augmentation, Dataset
from wdgrid.data.augment import moments
from wdgrid.errors import DataError
from wdgrid.study.sections import Task

CPU = torch.device("cpu")


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


def test_a_users_own_bytes_are_normalised(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    data = datasets.load(Task(dataset="test_augmentation:photographs", dataset_args={"n": 50}), CPU, torch.float32)
    assert data.train_x.dtype == torch.uint8
    assert data.prepared(data.train_x).mean().abs() < 1e-5
    with pytest.raises(DataError, match=r"must be alike but for the number of rows, not int32 .* and uint8 "):
        datasets.load(Task(dataset="test_augmentation:integers"), CPU, torch.float32)
