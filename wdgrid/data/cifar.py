"""Reads CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from the published Python files; downloads them if asked.

The names, MD5 sums and address of the files are those in torchvision.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wdgrid.data.batches import IMAGE, images, unpickled
from wdgrid.data.cache import Content, Create, Prepared, prepared
from wdgrid.data.download import fetch
from wdgrid.data.locations import Tell, fingerprint, home, places, reading
from wdgrid.errors import DataError

LABELS = {"cifar10": ("labels", 10), "cifar100": ("fine_labels", 100)}
Read = Callable[[str], bytes]  # a batch file's content by its name


@dataclass(frozen=True)
class _Source:
    """The published files: torchvision's class, the folder or archive, and a function that reads a file in it."""

    published: Any  # torchvision's class
    place: Path
    read: Read


def cifar(name: str, root: str, download: bool, tell: Tell) -> Prepared:
    """`cifar10` or `cifar100` in the published order: 50 000 training and 10 000 test images of 10 or 100 classes.

    Searches `root` for what torchvision downloads: the folder of batch files, or the archive. Every file must have the
    published MD5, so the prepared file does not depend on the root. Raises DataError that names the file at fault and
    says how to get it.
    """

    def build(create: Create) -> Content:
        from torchvision import datasets

        source = _find({"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name], root, download, tell)
        files = {"train": source.published.train_list, "test": source.published.test_list}
        total = sum(map(len, files.values()))
        read: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {part: [] for part in files}
        for part, listed in files.items():
            for file, md5 in listed:
                read[part].append(_batch(source, file, md5, *LABELS[name]))
                tell(f"reading {name}", sum(map(len, read.values())), total)
        sizes = {part: sum(len(y) for _, y in batches) for part, batches in read.items()}
        arrays = create(sizes["train"], sizes["test"], IMAGE)
        for part, batches in read.items():
            for axis, values in zip("xy", zip(*batches, strict=True), strict=True):
                np.concatenate(values, out=arrays[f"{part}_{axis}"])
        return fingerprint(files["train"]), fingerprint(files["test"])

    return prepared(home() / "prepared" / f"{name}.safetensors", name, build)


def _find(published: Any, root: str, download: bool, tell: Tell) -> _Source:
    """The folder or archive under root, or the downloaded archive."""
    for place in places(root):
        for folder in (place / published.base_folder, place):
            if folder.name == published.base_folder and folder.is_dir():
                return _Source(published, folder, lambda name, folder=folder: (folder / name).read_bytes())
        if (archive := place / published.filename).is_file():
            return _archive(published, archive)
    looked = ", ".join(map(str, places(root)))
    fault = f"task.dataset_args.root = {root}: neither {published.base_folder} nor {published.filename} is in {looked}"
    by_hand = f"put the archive (MD5 {published.tgz_md5}), unpacked or not, into one of these folders"
    if not download:
        offer = f"task.dataset_args.download = true gets it from {published.url}"
        raise DataError(f"{fault}; {offer}; or {by_hand}")
    archive = home() / Path(root).expanduser() / published.filename
    try:
        fetch(published.url, published.tgz_md5, archive, tell)
    except DataError as error:
        raise DataError(f"{fault}; {error}; to get it by hand, {by_hand}") from error
    return _archive(published, archive)


def _archive(published: Any, path: Path) -> _Source:
    with reading(path), path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    _must_be(path, found, published.tgz_md5, "remove it to download it again")

    def read(name: str) -> bytes:
        with tarfile.open(path) as archive:
            file = archive.extractfile(f"{published.base_folder}/{name}")
            return file.read() if file else b""

    return _Source(published, path, read)


def _batch(source: _Source, name: str, md5: str, labels: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and classes of one batch file."""
    path = source.place / name
    again = f"the archive is at {source.published.url}"
    try:
        with reading(path):
            content = source.read(name)
    except DataError as error:
        raise DataError(f"{error}; {again}") from error
    _must_be(path, hashlib.md5(content, usedforsecurity=False).hexdigest(), md5, again)
    return images(unpickled(io.BytesIO(content), path), path, labels, 0, classes)


def _must_be(path: Path, found: str, published: str, otherwise: str) -> None:
    if found != published:
        raise DataError(
            f"{path}: has MD5 {found}, but the published file has {published}: incomplete or changed; {otherwise}"
        )
