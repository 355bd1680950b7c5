"""Loads scikit-learn's handwritten digits (Alpaydin and Kaynak, 1998), always with the same split."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

TRAIN, TEST = 900, 897


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """900 training and 897 test images [N, 1, 8, 8], normalised by the training images' mean and standard deviation.

    A fixed permutation splits them, because scikit-learn sorts them by writer.
    """
    table = np.loadtxt(_file(), delimiter=",")
    images, classes = table[:, :-1], table[:, -1]
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float64).view(-1, 1, 8, 8)[order]
    y = torch.tensor(classes, dtype=torch.int64)[order]
    x = (x - x[:TRAIN].mean()) / x[:TRAIN].std()
    return x[:TRAIN], y[:TRAIN], x[TRAIN : TRAIN + TEST], y[TRAIN : TRAIN + TEST]


def _file() -> Path:
    """The table in scikit-learn's own folder; importing scikit-learn takes longer than reading the table."""
    package = find_spec("sklearn")
    assert package and package.submodule_search_locations
    return Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
