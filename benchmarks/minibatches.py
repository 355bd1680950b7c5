"""Makes the peers' minibatches as a user would, in two styles (see `peers.py`)."""

from collections.abc import Iterable, Iterator, Sized
from typing import Any, Protocol

import photos


class Train(Iterable[Any], Sized, Protocol):
    """Pairs x [B, C, H, W], y [B], shuffled again for every epoch; the length is the number of steps in an epoch."""


def minibatches(work: dict[str, Any], style: str) -> tuple[Train, Iterable[Any]]:
    """To train on and to test on, of the images that `work.json` names."""
    if work["images"]:
        make = _jpeg_loop if style == "usual" else _decoded_once
        return make(work["images"], work["batch_size"])
    train_x, train_y, test_x, test_y = _digits()
    if style == "careful":
        return _InOneGo(train_x, train_y, work["batch_size"], padding=1, flip=False), [(test_x, test_y)]
    return _loaders(_Shifting(train_x, train_y), _pairs(test_x, test_y), work["batch_size"])


def _digits() -> tuple[Any, Any, Any, Any]:
    """scikit-learn's digits, split and standardised as wdgrid does."""
    import torch
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)[order]
    y = torch.tensor(classes, dtype=torch.int64)[order]
    x = (x - x[:900].mean()) / x[:900].std()
    return x[:900], y[:900], x[900:1797], y[900:1797]


def _jpeg_loop(root: str, batch_size: int) -> tuple[Train, Iterable[Any]]:
    """torchvision's folder and transforms: every image is decoded whenever it is needed."""
    from torchvision import transforms as t
    from torchvision.datasets import ImageFolder

    plain = [t.ToTensor(), t.Normalize(photos.MEAN, photos.STD)]
    augmented = t.Compose([t.RandomCrop(photos.SIDE, padding=4), t.RandomHorizontalFlip(), *plain])
    return _loaders(ImageFolder(f"{root}/train", augmented), ImageFolder(f"{root}/test", t.Compose(plain)), batch_size)


def _decoded_once(root: str, batch_size: int) -> tuple[Train, Iterable[Any]]:
    """The same images kept in memory, cropped and mirrored a minibatch at a time."""
    import torch
    from torchvision import transforms as t
    from torchvision.datasets import ImageFolder

    plain = t.Compose([t.ToTensor(), t.Normalize(photos.MEAN, photos.STD)])
    tensors = []
    for part in ("train", "test"):
        images, classes = zip(*ImageFolder(f"{root}/{part}", plain), strict=True)
        tensors += [torch.stack(images), torch.tensor(classes)]
    return _InOneGo(*tensors[:2], batch_size, padding=4, flip=True), [tuple(tensors[2:])]


def _loaders(train: Any, test: Any, batch_size: int) -> tuple[Train, Iterable[Any]]:
    from torch.utils.data import DataLoader

    return DataLoader(train, batch_size, shuffle=True, drop_last=True), DataLoader(test, 1024)


def _pairs(x: Any, y: Any) -> Any:
    from torch.utils.data import TensorDataset

    return TensorDataset(x, y)


class _InOneGo:
    """A DataLoader whose minibatches are shifted, and mirrored, in one go."""

    def __init__(self, x: Any, y: Any, batch_size: int, *, padding: int, flip: bool) -> None:
        from torch.utils.data import DataLoader

        self.loader = DataLoader(_pairs(x, y), batch_size, shuffle=True, drop_last=True)
        self.padding, self.flip = padding, flip

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for x, y in self.loader:
            yield _shifted(_mirrored(x) if self.flip else x, self.padding), y


class _Shifting:
    """A dataset that moves each image by up to one pixel when it is fetched: pad and crop, as torchvision does."""

    def __init__(self, x: Any, y: Any) -> None:
        import torch.nn.functional as F

        self.padded, self.y = F.pad(x, [1] * 4), y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        import torch

        top, left = torch.randint(0, 3, (2,)).tolist()
        return self.padded[index, :, top : top + 8, left : left + 8], self.y[index]


def _mirrored(x: Any) -> Any:
    """A minibatch [B, C, H, W], each image mirrored with probability 1/2."""
    import torch

    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)


def _shifted(x: Any, padding: int) -> Any:
    """A minibatch [B, C, H, W], each image moved by up to `padding` pixels both ways, zeros moving in."""
    import torch
    import torch.nn.functional as F

    n, channels, height, width = x.shape
    padded = F.pad(x, [padding] * 4)
    image, channel = torch.arange(n)[:, None, None, None], torch.arange(channels)[None, :, None, None]
    rows, columns = (
        torch.randint(0, 2 * padding + 1, (n, 1)) + torch.arange(side) for side in (height, width)
    )  # each [B, side]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
