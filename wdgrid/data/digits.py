"""Loads scikit-learn's handwritten digits (Alpaydin and Kaynak, 1998), always with the same split."""

import torch
from torch import Tensor

TRAIN, TEST = 900, 897


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """900 training and 897 test images [N, 1, 8, 8], normalised by the training images' mean and standard deviation.

    A fixed permutation splits them, because scikit-learn sorts them by writer.
    """
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float64).view(-1, 1, 8, 8)[order]
    y = torch.tensor(classes, dtype=torch.int64)[order]
    x = (x - x[:TRAIN].mean()) / x[:TRAIN].std()
    return x[:TRAIN], y[:TRAIN], x[TRAIN : TRAIN + TEST], y[TRAIN : TRAIN + TEST]
