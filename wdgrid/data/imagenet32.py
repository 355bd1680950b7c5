"""Reads Downsampled ImageNet at 32 × 32 (Chrabaszcz, Loshchilov and Hutter, 2017) from its published batch files."""

import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from wdgrid.data.batches import IMAGE, images, unpickled
from wdgrid.data.cache import Content, Create, Prepared, prepared
from wdgrid.data.locations import Tell, fingerprint, home, locate, reading
from wdgrid.errors import DataError

CLASSES = 1000
FILES = {"train": [f"train_data_batch_{i}" for i in range(1, 11)], "test": ["val_data"]}
SOURCE = "Downsampled ImageNet, from image-net.org"
FOLDERS = ("", "Imagenet32_train", "Imagenet32_val", "Imagenet32_train_npz", "Imagenet32_val_npz")  # as archives unpack


def imagenet32(root: str, tell: Tell) -> Prepared:
    """Training and test images (the published validation images) in the published order, which is shuffled.

    Converts one of the eleven files at a time, so that memory for one is enough. Raises DataError that names the file
    at fault and says where it is published.
    """
    place = locate(root, f"{FILES['train'][0]} ({SOURCE})", _has_any)
    paths = {part: [_found(place, name) for name in names] for part, names in FILES.items()}
    total = 2 * sum(map(len, paths.values()))
    with reading(place):
        facts = [(p, p.stat().st_size, p.stat().st_mtime_ns) for part in paths.values() for p in part]

    def build(create: Create) -> Content:
        done = 0

        def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
            nonlocal done
            done += 1
            tell(f"reading {path.name}", done, total)
            with _published():
                return images(_content(path), path, "labels", 1, CLASSES)

        # Files are read twice: first to check them and count the images, then to store them.
        sizes = {part: [len(read(path)[1]) for path in files] for part, files in paths.items()}
        arrays = create(sum(sizes["train"]), sum(sizes["test"]), IMAGE)
        found = {part: hashlib.sha256() for part in paths}
        for part, files in paths.items():
            end = 0
            for path, size in zip(files, sizes[part], strict=True):
                found[part].update(_sha256(path))
                begin, end = end, end + size
                arrays[f"{part}_x"][begin:end], arrays[f"{part}_y"][begin:end] = read(path)
        return found["train"].hexdigest(), found["test"].hexdigest()

    cache = home() / "prepared" / f"imagenet32-{fingerprint(place)[:8]}.safetensors"
    return prepared(cache, fingerprint(facts), build)


def _candidates(place: Path, name: str) -> list[Path]:
    return [place / folder / (name + ending) for folder in FOLDERS for ending in ("", ".npz")]


def _has_any(place: Path) -> bool:
    return any(path.is_file() for path in _candidates(place, FILES["train"][0]))


def _found(place: Path, name: str) -> Path:
    for path in _candidates(place, name):
        if path.is_file():
            return path
    looked = f"also searched: {', '.join(FOLDERS[1:])}, and the name with .npz"
    raise DataError(f"{place / name}: is missing ({looked}); it is part of {SOURCE}")


@contextmanager
def _published() -> Generator[None]:
    """Adds to a DataError where the file is published."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}; download it again: {SOURCE}") from error


def _sha256(path: Path) -> bytes:
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _content(path: Path) -> Any:
    """A batch file's data and labels: a pickle, or the .npz file that is published as an alternative."""
    with reading(path), path.open("rb") as file:
        if path.suffix != ".npz":
            return unpickled(file, path)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in ("data", "labels")}
        except Exception as error:  # a damaged archive may raise anything
            raise DataError(f"{path}: is not a complete batch file: {str(error) or type(error).__name__}") from error
