"""scikit-learn's handwritten digits (Alpaydin and Kaynak, 1998), split once and for all."""

import torch
from torch import Tensor

TRAIN, TEST = 900, 897


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """900 training and 897 test images [N, 1, 8, 8], standardised by the training images' mean and deviation.

    The split is a fixed permutation: scikit-learn's order is by writer.
    """
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float64).view(-1, 1, 8, 8)[order]
    y = torch.tensor(classes, dtype=torch.int64)[order]
    x = (x - x[:TRAIN].mean()) / x[:TRAIN].std()
    return x[:TRAIN], y[:TRAIN], x[TRAIN : TRAIN + TEST], y[TRAIN : TRAIN + TEST]
