"""Batch files as CIFAR and Downsampled ImageNet are published in: 32 × 32 images, a row each, and their labels.

Knows the format of one file; does not know which files there are, or where.
"""

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from wdgrid.errors import DataError

IMAGE = (3, 32, 32)
# All that arrays in a pickle refer to: a file from somewhere must not call anything else.
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


class _Arrays(pickle.Unpickler):
    """Reads arrays, lists, dictionaries and plain values; Python 2's strings are bytes."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        module_name = module_name.replace("numpy.core.", "numpy._core.")  # as numpy 1 called it
        if (module_name, global_name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it would call {module_name}.{global_name}")
        return super().find_class(module_name, global_name)


def unpickled(file: BinaryIO, path: Path) -> Any:
    """What a batch file holds. Raises DataError that names `path`."""
    try:
        return _Arrays(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"{path}: is not a whole batch file: {str(error) or type(error).__name__}") from error


def images(batch: Any, path: Path, labels: str, first: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 3, 32, 32] uint8 and classes [N] from 0 of a batch's `data` and `labels`, which count from `first`.

    Raises DataError that names `path` where they are not that.
    """
    try:
        x, y = np.asarray(batch["data"]), np.asarray(batch[labels])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise DataError(f"{path}: is not a batch file with data and {labels}") from error
    if x.dtype != np.uint8 or x.shape != (len(y), np.prod(IMAGE)) or len(y) == 0:
        raise DataError(f"{path}: data must be {len(y)} × 3072 bytes, one row a label, not {x.shape} of {x.dtype}")
    if y.dtype.kind not in "iu" or y.ndim != 1 or y.min() < first or y.max() >= first + classes:
        raise DataError(f"{path}: {labels} must be whole numbers from {first} to {first + classes - 1}")
    return x.reshape(-1, *IMAGE), y.astype(np.int64) - first
