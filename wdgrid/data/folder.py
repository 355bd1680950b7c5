"""Reads a folder of images, train/<class>/* and test/<class>/*, and decodes them once.

Whether a prepared file is still valid depends on the images' names, sizes and modification times: reading 60 000 files
whenever a worker starts would take longer than an epoch of training. A file that is edited or replaced has another
modification time. A copy of the folder is prepared again, which costs only time. The content of the files is hashed
when they are read and stored with the study, so that a copy or another modification time does not count as a change.
"""

import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from wdgrid.data.cache import Content, Create, Prepared, prepared
from wdgrid.data.locations import Tell, fingerprint, home, locate, reading
from wdgrid.errors import DataError

PARTS = ("train", "test")
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp", ".gif")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # at most eight bits per channel
BLOCK = 100  # images that a thread reads at a time

File = tuple[Path, int, int, int]  # path, class, bytes, modification time in ns
Files = list[File]


def image_folder(root: str, size: int | None, tell: Tell) -> Prepared:
    """The images under `root` as RGB, in a fixed order in which the first n images are balanced over the classes.

    Classes are numbered in the order of their names. `size` resizes images to size × size by averaging over areas (and
    changes the aspect ratio, as in Downsampled ImageNet, Chrabaszcz et al., 2017); without it all images must have the
    same size. Raises DataError that names the folder or file at fault.
    """
    place = locate(
        root, "train/<class>/* and test/<class>/*", lambda place: all((place / part).is_dir() for part in PARTS)
    )
    with reading(place):
        classes = _classes(place)
        files = {part: balanced(_files(place / part, classes)) for part in PARTS}
    listing = [[f"{p.parent.name}/{p.name}", bytes_, time] for part in PARTS for p, _, bytes_, time in files[part]]
    identity = fingerprint(place, size, classes, len(files["train"]), listing)
    cache = home() / "prepared" / f"{place.name}-{size or 'own'}-{fingerprint(place)[:8]}.safetensors"

    def build(create: Create) -> Content:
        first = files["train"][0][0]
        _, height, width = shape = (3, *_decoded(first, _content(first), size).shape[:2])
        arrays = create(len(files["train"]), len(files["test"]), shape)
        jobs = [(part, start) for part in PARTS for start in range(0, len(files[part]), BLOCK)]

        def read(job: tuple[str, int]) -> list[tuple[str, str]]:
            part, start = job
            held = []
            for i, (path, number, _, _) in enumerate(files[part][start : start + BLOCK], start):
                content = _content(path)
                held.append((f"{path.parent.name}/{path.name}", hashlib.sha256(content).hexdigest()))
                image = _decoded(path, content, size)
                if image.shape[:2] != (height, width):
                    raise DataError(
                        f"{path}: has {image.shape[1]}×{image.shape[0]} pixels, other images have {width}×{height}; "
                        "set task.dataset_args.size to resize them all"
                    )
                arrays[f"{part}_x"][i] = image.transpose(2, 0, 1)
                arrays[f"{part}_y"][i] = number
            return held

        total = sum(map(len, files.values()))
        read_so_far: dict[str, list[tuple[str, str]]] = {part: [] for part in PARTS}
        with ThreadPoolExecutor(min(16, _cores())) as pool:
            for (part, _), held in zip(jobs, pool.map(read, jobs), strict=True):
                read_so_far[part] += held
                tell(f"reading images of {place.name}", sum(map(len, read_so_far.values())), total)
        return fingerprint(read_so_far["train"]), fingerprint(read_so_far["test"])

    return prepared(cache, identity, build)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _classes(place: Path) -> list[str]:
    """Names of the classes, sorted. Raises DataError unless train and test have the same ones."""
    found = {
        part: sorted(e.name for e in os.scandir(place / part) if e.is_dir() and not e.name.startswith("."))
        for part in PARTS
    }
    for here, there in (PARTS, PARTS[::-1]):
        if missing := [name for name in found[here] if name not in found[there]]:
            raise DataError(f"{place / there}: has no folder {missing[0]}, but {place / here} has")
    if not found["train"]:
        raise DataError(f"{place / 'train'}: has no folders; images must be in train/<class>/")
    return found["train"]


def _files(part: Path, classes: list[str]) -> Files:
    found: Files = []
    for number, name in enumerate(classes):
        before = len(found)
        for entry in os.scandir(part / name):
            if entry.name.lower().endswith(ENDINGS) and not entry.name.startswith("."):
                status = entry.stat()
                found.append((Path(entry.path), number, status.st_size, status.st_mtime_ns))
        if len(found) == before:
            raise DataError(f"{part / name}: has no images ({', '.join(ENDINGS)})")
    return found


def balanced(files: Files) -> Files:
    """The files in an order in which the first n contain every class in proportion, to within about one image.

    Within a class, files are sorted by the SHA-256 of their names: a fixed order that is unrelated to the names. File j
    of the n files of a class is then placed at the fraction (j + 1/2)/n of the whole list.
    """
    classes: dict[int, list[tuple[bytes, File]]] = {}
    for file in files:
        path, number = file[:2]
        name = f"{path.parent.name}/{path.name}"
        classes.setdefault(number, []).append((hashlib.sha256(name.encode()).digest(), file))
    placed = [
        ((j + 0.5) / len(own), digest, file)
        for own in map(sorted, classes.values())
        for j, (digest, file) in enumerate(own)
    ]
    return [file for _, _, file in sorted(placed)]


def _content(path: Path) -> bytes:
    with reading(path):
        return path.read_bytes()


def _decoded(path: Path, content: bytes, size: int | None) -> np.ndarray:
    """One image [H, W, 3] uint8 from its file's content."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode not in MODES:
                raise DataError(f"{path}: has mode {image.mode}; images must have eight bits per channel")
            rgb = image.convert("RGB")
            return np.asarray(rgb.resize((size, size), Image.Resampling.BOX) if size else rgb)
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: is not an image") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises on bad files
        raise DataError(f"{path}: is not a complete image: {error}") from error
