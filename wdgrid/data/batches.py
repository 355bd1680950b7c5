"""Reads the batch files in which CIFAR and Downsampled ImageNet are published: 32 × 32 images as rows, and labels."""

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from wdgrid.errors import DataError

IMAGE = (3, 32, 32)
# The only names that a pickle of arrays needs. Any other name in a downloaded file could run code, so it is refused.
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


class _Arrays(pickle.Unpickler):
    """Reads arrays, lists, dictionaries and plain values, and nothing else."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        module_name = module_name.replace("numpy.core.", "numpy._core.")  # numpy 1's name
        if (module_name, global_name) not in ALLOWED:
            raise pickle.UnpicklingError(f"loading it would call {module_name}.{global_name}")
        return super().find_class(module_name, global_name)


def unpickled(file: BinaryIO, path: Path) -> Any:
    """The content of a batch file. Raises DataError that names `path`."""
    try:
        return _Arrays(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"{path}: is not a complete batch file: {str(error) or type(error).__name__}") from error


def images(batch: Any, path: Path, labels: str, first: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 3, 32, 32] uint8 and classes [N] from 0 of a batch, from its keys `data` and `labels`.

    `first` is the smallest label. Raises DataError that names `path` if the batch has another content.
    """
    try:
        x, y = np.asarray(batch["data"]), np.asarray(batch[labels])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise DataError(f"{path}: is not a batch file with data and {labels}") from error
    if x.dtype != np.uint8 or x.shape != (len(y), np.prod(IMAGE)) or len(y) == 0:
        raise DataError(
            f"{path}: data must be {len(y)} × 3072 bytes, one row for each label, not {x.shape} of {x.dtype}"
        )
    if y.dtype.kind not in "iu" or y.ndim != 1 or y.min() < first or y.max() >= first + classes:
        raise DataError(f"{path}: {labels} must be whole numbers from {first} to {first + classes - 1}")
    return x.reshape(-1, *IMAGE), y.astype(np.int64) - first
