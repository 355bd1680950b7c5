"""Loads datasets as tensors and makes the minibatches of an epoch.

The minibatches of an epoch depend only on (seed, epoch), so a run can start at any epoch, and all chunks with the same
seed get the same minibatches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from wdgrid.data.augment import Augmentation, moments
from wdgrid.data.cache import Content
from wdgrid.data.cifar import cifar
from wdgrid.data.digits import digits
from wdgrid.data.folder import image_folder
from wdgrid.data.given import checked, four_tensors
from wdgrid.data.imagenet32 import imagenet32
from wdgrid.data.locations import Tell, silent
from wdgrid.errors import DataError, WdgridError
from wdgrid.study.import_by_name import defined_at, failed_at, in_words, load_object
from wdgrid.study.sections import BUILT_IN_DATASETS, Task

__all__ = [
    "Augmentation",
    "DataError",
    "Dataset",
    "Tell",
    "counter",
    "epoch",
    "generator",
    "load",
    "silent",
    "steps_per_epoch",
]

PERMUTATION, AUGMENTATION, NOISE = 1, 2, 3  # streams of random numbers
BLOCK_BYTES = 16 * 1024**2  # of images augmented at a time: several minibatches, but not a whole large dataset
Tensors = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Dataset:
    """Training, test and validation images or features, and their classes.

    `train_x` [N, …] and `test_x` [M, …] are floating point numbers or uint8 images [N, C, H, W]. Integers such as
    tokens are stored in floating point; with `integers`, the network gets them as int64. `train_y` [N] and `test_y` [M]
    are int64 classes from 0 to `classes` − 1. `val_x` [V, …] and `val_y` [V] are the validation images, None without a
    validation split. `mean` and `std` [C, 1, 1] normalise uint8 images; both None: no normalisation. `content` is the
    SHA-256 of the files of the training and the test images, None if a function made them.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
    augmentation: Augmentation
    mean: Tensor | None = None
    std: Tensor | None = None
    val_x: Tensor | None = None
    val_y: Tensor | None = None
    content: Content | None = None
    integers: bool = False

    def normalised(self, x: Tensor) -> Tensor:
        """Stored images x [B, …] as normalised floating point numbers."""
        return x if self.mean is None or self.std is None else x.to(self.mean.dtype).sub_(self.mean).div_(self.std)

    def prepared(self, x: Tensor) -> Tensor:
        """Stored images x [B, …] as the network's input in a test."""
        return self.augmentation.central(self.normalised(x))


def load(task: Task, device: torch.device, dtype: torch.dtype, tell: Tell = silent) -> Dataset:
    """The task's dataset on the device; `tell` reports progress. Raises DataError if it cannot be used."""
    tensors, augmentation, scale, content = _read(task, tell)
    train_x, train_y, test_x, test_y = tensors
    if augmentation.size and augmentation.size > min(train_x.shape[2:]):
        side = f"{train_x.shape[3]}×{train_x.shape[2]}"
        raise DataError(f"task.dataset_args.crop_size = {augmentation.size}: the images have only {side} pixels")
    classes = 1 + max(int(train_y.max()), int(test_y.max()))
    mean = std = None
    if train_x.dtype == torch.uint8:
        mean, std = (t[:, None, None].to(device, dtype) for t in scale or moments(train_x))
    most = len(train_x) - task.validation_size  # validation images are the last ones, for every train_size
    n = most if task.train_size is None else task.train_size
    if n > most or n < 1:
        sizes = {"train_size": task.train_size, "validation_size": task.validation_size}
        asked = ", ".join(f"task.{name} = {size}" for name, size in sizes.items() if size)
        raise DataError(f"{asked}: {task.dataset} has only {len(train_x)} training {examples(train_x)}")
    m = task.test_size or len(test_x)
    if m > len(test_x):
        raise DataError(f"task.test_size = {m}: {task.dataset} has only {len(test_x)} test {examples(test_x)}")
    integers = train_x.dtype == torch.int64
    stored = dtype if mean is None else torch.uint8
    train = train_x[:n].to(device, stored), train_y[:n].to(device)
    test = test_x[:m].to(device, stored), test_y[:m].to(device)
    split = (train_x[most:].to(device, stored), train_y[most:].to(device)) if task.validation_size else (None, None)
    return Dataset(*train, *test, classes, augmentation, mean, std, *split, content, integers)


def examples(x: Tensor) -> str:
    """The word for the rows of x in messages: images if x is [N, C, H, W], else examples."""
    return "images" if x.dim() == 4 else "examples"


def _own(task: Task) -> Tensors:
    """The checked tensors returned by the user's own function."""
    function = load_object(task.dataset)
    place = defined_at(function)
    name = f"{place}: {task.dataset}" if place else task.dataset
    try:
        returned = function(**task.dataset_args)
        return checked(name, four_tensors(name, returned))
    except WdgridError:
        raise
    except Exception as error:
        raise DataError(f"{failed_at(error) or name}: {in_words(error)}") from error


def _read(task: Task, tell: Tell) -> tuple[Tensors, Augmentation, tuple[Tensor, Tensor] | None, Content | None]:
    """A dataset's four tensors, its augmentation and, if known, mean and standard deviation [C], and content."""
    args = task.dataset_args
    if task.dataset not in BUILT_IN_DATASETS:
        return _own(task), Augmentation(), None, None
    if task.dataset == "digits":
        return digits(), Augmentation(padding=args["shift"]), None, None
    match task.dataset:
        case "cifar10" | "cifar100":
            images = cifar(task.dataset, args["root"], args["download"], tell)
        case "imagenet32":
            images = imagenet32(args["root"], tell)
        case _:
            images = image_folder(args["root"], args["size"], tell)
    augmentation = Augmentation(args["crop"], args["flip"], args["crop_size"])
    tensors = images.train_x, images.train_y, images.test_x, images.test_y
    return tensors, augmentation, (images.mean, images.std), images.content


def generator(seed: int, epoch: int, stream: int) -> torch.Generator:
    """A generator whose seed depends only on these three numbers."""
    return torch.Generator().manual_seed(counter(seed, epoch, stream))


def counter(seed: int, number: int, stream: int) -> int:
    """A generator's seed, made of the run's seed, the number of an epoch or step, and the purpose (`stream`)."""
    return (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + stream * 0x94D049BB133111EB) % 2**63


def epoch(data: Dataset, seed: int, number: int, batch_size: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Epoch `number` (from 0) of a seed: a function from a minibatch's index to x [B, …], y [B].

    Each epoch has a new permutation of the images. If the batch size does not divide N, the last images of the
    permutation are left out. Random numbers are drawn for all images at once and used for a block of minibatches at a
    time, so the content of a minibatch does not depend on the size of the blocks.
    """
    n, device = len(data.train_x), data.train_x.device
    order = torch.randperm(n, generator=generator(seed, number, PERMUTATION)).to(device)
    random = generator(seed, number, AUGMENTATION)
    drawn = data.augmentation.draw(n, data.train_x.shape[1:], random).to(device)
    b = min(batch_size, n)
    item = (data.train_x if data.mean is None else data.mean).element_size()
    batches = max(1, BLOCK_BYTES // (b * data.train_x[0].numel() * item))

    @lru_cache(maxsize=1)
    def block(k: int) -> tuple[Tensor, Tensor]:
        at = slice(k * batches * b, (k + 1) * batches * b)
        x = data.augmentation.random(data.normalised(data.train_x[order[at]]), drawn[:, at])
        return x, data.train_y[order[at]]

    def batch(i: int) -> tuple[Tensor, Tensor]:
        x, y = block(i // batches)
        at = slice(i % batches * b, (i % batches + 1) * b)
        return x[at], y[at]

    return batch


def steps_per_epoch(data: Dataset, batch_size: int) -> int:
    """Minibatches per epoch (at least one)."""
    return max(1, len(data.train_x) // batch_size)
