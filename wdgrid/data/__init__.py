"""Datasets as tensors, the order in which a run sees them, and how they are augmented.

Knows tensors and counters: what an epoch looks like is a function of (seed, epoch) alone, so a run can start at any
epoch and a chunk sees what any other chunk of its seed sees. Knows nothing of networks, cells or devices' speed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wdgrid.data.digits import digits
from wdgrid.loading import load_object
from wdgrid.sections import BUILT_IN_DATASETS, Task

PERMUTATION, AUGMENTATION = 1, 2  # streams of random numbers


@dataclass(frozen=True)
class Dataset:
    """Training, test and perhaps validation images or features, and their classes.

    `train_x` [N, …] and `test_x` [M, …] floating point, `train_y` [N] and `test_y` [M] int64 class numbers from 0;
    `val_x` [V, …] and `val_y` [V] alike, None where no images are kept apart for picking cells. `shift` is the
    largest shift in pixels used on training images [N, C, H, W] (0: none).
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    shift: int = 0
    val_x: Tensor | None = None
    val_y: Tensor | None = None

    @property
    def classes(self) -> int:
        """Number of classes."""
        return 1 + max(int(y.max()) for y in (self.train_y, self.test_y, self.val_y) if y is not None)


class DataError(Exception):
    """A dataset that cannot be used, in one line."""


def load(task: Task, device: torch.device, dtype: torch.dtype) -> Dataset:
    """The task's dataset on the device. Raises DataError where it is not what Dataset promises."""
    shift = 0
    if task.dataset in BUILT_IN_DATASETS:
        shift = task.dataset_args["shift"]
        tensors = digits()
    else:
        tensors = load_object(task.dataset)(**task.dataset_args)
    train_x, train_y, test_x, test_y = _checked(task.dataset, tensors)
    kept = len(train_x) - task.validation_size  # validation is the end, whatever train_size takes of the rest
    n = kept if task.train_size is None else task.train_size
    if n > kept or n < 1:
        sizes = {"train_size": task.train_size, "validation_size": task.validation_size}
        asked = ", ".join(f"task.{name} = {size}" for name, size in sizes.items() if size)
        raise DataError(f"{asked}: {task.dataset} has {len(train_x)} training images")
    x = {"device": device, "dtype": dtype}
    train = train_x[:n].to(**x), train_y[:n].to(device)
    test = test_x.to(**x), test_y.to(device)
    if not task.validation_size:
        return Dataset(*train, *test, shift)
    return Dataset(*train, *test, shift, train_x[kept:].to(**x), train_y[kept:].to(device))


def _checked(name: str, tensors: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(train_x, train_y, test_x, test_y), held to what Dataset promises."""
    if not isinstance(tensors, tuple | list) or len(tensors) != 4 or not all(isinstance(t, Tensor) for t in tensors):
        raise DataError(f"{name} must return four tensors: train_x, train_y, test_x, test_y")
    train_x, train_y, test_x, test_y = tensors
    for part, x, y in (("train", train_x, train_y), ("test", test_x, test_y)):
        if not x.is_floating_point() or y.is_floating_point():
            raise DataError(f"{name}: {part}_x must be floating point and {part}_y integers, not {x.dtype}, {y.dtype}")
        if y.dim() != 1 or len(x) != len(y) or len(x) == 0:
            raise DataError(f"{name}: {part}_x {list(x.shape)} and {part}_y {list(y.shape)} must have one row an image")
        if int(y.min()) < 0:
            raise DataError(f"{name}: {part}_y holds negative classes")
    if train_x.shape[1:] != test_x.shape[1:]:
        raise DataError(f"{name}: train_x {list(train_x.shape)} and test_x {list(test_x.shape)} differ in shape")
    return train_x, train_y.long(), test_x, test_y.long()


def generator(seed: int, epoch: int, stream: int) -> torch.Generator:
    """A generator that depends on its three counters only."""
    mixed = (seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9 + stream * 0x94D049BB133111EB) % 2**63
    return torch.Generator().manual_seed(mixed)


def epoch(data: Dataset, seed: int, number: int, batch_size: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Epoch `number` (from 0) of a seed: a function from the minibatch's index to x [B, …], y [B].

    Images are permuted anew every epoch; those left over when the batch size does not divide N wait for another one.
    """
    n = len(data.train_x)
    device = data.train_x.device
    order = torch.randperm(n, generator=generator(seed, number, PERMUTATION)).to(device)
    x, y = data.train_x[order], data.train_y[order]
    if data.shift:
        x = shifted(x, data.shift, generator(seed, number, AUGMENTATION))
    b = min(batch_size, n)
    return lambda i: (x[i * b : (i + 1) * b], y[i * b : (i + 1) * b])


def steps_per_epoch(data: Dataset, batch_size: int) -> int:
    """Minibatches an epoch (at least one)."""
    return max(1, len(data.train_x) // batch_size)


def shifted(x: Tensor, pixels: int, random: torch.Generator) -> Tensor:
    """Images [N, C, H, W], each moved by its own −pixels … pixels in both directions, zeros moving in."""
    n, _, height, width = x.shape
    padded = torch.nn.functional.pad(x, [pixels] * 4)
    offsets = torch.randint(0, 2 * pixels + 1, (2, n, 1), generator=random).to(x.device)
    rows = offsets[0] + torch.arange(height, device=x.device)
    columns = offsets[1] + torch.arange(width, device=x.device)
    image = torch.arange(n, device=x.device)[:, None, None]
    moved = padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    # One channel makes a permuted tensor contiguous in both memory formats; torch would go on in channels_last.
    return moved.clone(memory_format=torch.contiguous_format)
