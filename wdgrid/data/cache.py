"""Stores prepared images in one file, which is written once, atomically, and mapped into memory by every process.

The file has the safetensors format. Its header is written first, so that images can be written one after another, and a
dataset larger than memory can be prepared.
"""

import json
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wdgrid.data.augment import moments
from wdgrid.data.locations import tidied
from wdgrid.data.own import cache_folder, is_own, private_folder
from wdgrid.errors import DataError

FORMAT = "2"
TYPES = {"I64": np.int64, "F64": np.float64, "U8": np.uint8}
Create = Callable[[int, int, tuple[int, int, int]], dict[str, np.ndarray]]
Content = tuple[str, str]  # SHA-256 of the files behind the training and the test images, as hexadecimal digits


@dataclass(frozen=True)
class Prepared:
    """uint8 images [N, C, H, W] and int64 classes [N] for training and testing; mean and deviation [C] of the former.

    `sha256` [2, 32] holds the two hashes of Content as bytes.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    mean: Tensor
    std: Tensor
    sha256: Tensor

    @property
    def content(self) -> Content:
        """SHA-256 of the files from which the images were read."""
        train, test = (bytes(part.tolist()).hex() for part in self.sha256)
        return train, test


def prepared(path: Path, identity: str, build: Callable[[Create], Content]) -> Prepared:
    """The images prepared at `path` if they have this identity; else `build` prepares them.

    `build` calls `create(n, m, (C, H, W))` once to get the arrays train_x, train_y, test_x and test_y, fills them, and
    returns their Content. If several processes need the file, one builds it and the others wait. Raises DataError if
    the file cannot be written, and what `build` raises; no file is left behind then. A process that is killed leaves a
    `.part` and a `.lock` file, which are never read and which the next build overwrites and removes.
    A file that another user can write to is not read: a file in this user's own cache replaces it.
    """
    path = _trusted(path)
    if found := _read(path, identity):
        return found
    with tidied(path.parent), _locked(path):
        if not _read(path, identity):  # another process may have built it while this one waited
            _write(path, identity, build)
    if not (found := _read(path, identity)):
        raise DataError(f"{path}: was written but cannot be read")
    return found


def _trusted(path: Path) -> Path:
    """`path`, or, if another user can write to that file, the same name in this user's own cache."""
    if not path.exists() or is_own(path):
        return path
    try:
        own = private_folder(cache_folder() / "prepared") / path.name
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: belongs to another user, and there is no own cache: {error}") from error
    if own.exists() and not is_own(own):
        raise DataError(f"{own}: can be written by another user: delete it")
    return own


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """Holds a lock file beside `path`; creates the folder if it is missing."""
    lock = path.with_suffix(".lock")
    held = FileLock(lock)
    with _writing(path):
        while not held.is_locked:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # the process that held it failed and removed the empty folder
                held.acquire()
    try:
        yield
    finally:
        with suppress(OSError):  # some systems cannot remove an open file
            lock.unlink()  # a process that waits for it notices and creates a new one
        held.release()


@contextmanager
def _writing(path: Path) -> Generator[None]:
    """Turns an OSError while writing into a DataError that names the file and where prepared data is stored."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{error.filename or path}: cannot be written: {error.strerror or error}; "
            "prepared data goes to $WDGRID_DATA, or ~/.cache/wdgrid"
        ) from error


def _read(path: Path, identity: str) -> Prepared | None:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            if (metadata["format"], metadata["identity"]) != (FORMAT, identity):
                return None
            return Prepared(**{name: file.get_tensor(name) for name in Prepared.__dataclass_fields__})
    except (OSError, SafetensorError, KeyError, TypeError):
        return None


def _write(path: Path, identity: str, build: Callable[[Create], Content]) -> None:
    part = path.with_suffix(".part")
    arrays: dict[str, np.ndarray] = {}

    def create(n: int, m: int, image: tuple[int, int, int]) -> dict[str, np.ndarray]:
        with _writing(part):
            arrays.update(_lay_out(part, identity, n, m, image))
        return arrays

    try:
        content = build(create)
        arrays["sha256"][:] = np.frombuffer(bytes.fromhex("".join(content)), np.uint8).reshape(2, -1)
        arrays["mean"][:], arrays["std"][:] = (t.numpy() for t in moments(torch.from_numpy(arrays["train_x"])))
        arrays.clear()  # unmap them
        with _writing(path):
            with part.open("rb") as written:
                os.fsync(written.fileno())
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _lay_out(part: Path, identity: str, n: int, m: int, image: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Creates the file at its full size; returns its arrays, mapped for writing. Raises OSError if the disk is full."""
    channels = [image[0]]
    # The widest numbers come first, so that each array is aligned to the size of its numbers.
    shapes = {"mean": ("F64", channels), "std": ("F64", channels), "train_y": ("I64", [n]), "test_y": ("I64", [m])}
    shapes |= {"train_x": ("U8", [n, *image]), "test_x": ("U8", [m, *image]), "sha256": ("U8", [2, 32])}
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "identity": identity}}
    end = 0
    for name, (kind, shape) in shapes.items():
        begin, end = end, end + int(np.prod(shape)) * np.dtype(TYPES[kind]).itemsize
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    start = 8 + len(text)
    with part.open("wb") as file:
        part.chmod(0o644)  # independent of the umask, because a file that others can write to is not read again
        file.write(len(text).to_bytes(8, "little") + text)
        file.flush()
        if hasattr(os, "posix_fallocate"):  # without this, a full disk would kill a process that writes
            os.posix_fallocate(file.fileno(), 0, start + end)
        else:
            file.truncate(start + end)
    return {
        name: np.memmap(part, TYPES[kind], "r+", start + header[name]["data_offsets"][0], tuple(shape))
        for name, (kind, shape) in shapes.items()
    }
