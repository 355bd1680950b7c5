"""Any folder of images, train/<class>/* and test/<class>/*, decoded once.

The checksum that says whether a prepared file still holds is made of the images' names, sizes and times of change:
reading 60 000 files to the end at every start of every worker would cost more than training on them for an epoch, and
a file that is edited or replaced has another time. A copy of the folder is prepared anew, which costs time only. What
the files hold is hashed while they are read: a study keeps that, and a copy or another time is no other content.
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
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # eight bits a channel: they have a meaning as RGB
BLOCK = 100  # images a thread takes at once

File = tuple[Path, int, int, int]  # path, class, bytes, time of change in ns
Files = list[File]


def image_folder(root: str, size: int | None, tell: Tell) -> Prepared:
    """The images under `root` as RGB, in a fixed order of which any beginning is balanced over the classes.

    Classes are numbered in the order of their names. `size` resizes to size × size by averaging over areas (the aspect
    is not kept, as in Downsampled ImageNet, Chrabaszcz et al., 2017); without it all images must be of one size.
    Raises DataError that names the folder or file at fault.
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
                        f"{path}: is {image.shape[1]}×{image.shape[0]} pixels, others are {width}×{height}; "
                        "give task.dataset_args.size to resize them all"
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
    """Names of the classes, sorted; the same in both parts."""
    found = {
        part: sorted(e.name for e in os.scandir(place / part) if e.is_dir() and not e.name.startswith("."))
        for part in PARTS
    }
    for here, there in (PARTS, PARTS[::-1]):
        if missing := [name for name in found[here] if name not in found[there]]:
            raise DataError(f"{place / there}: has no folder {missing[0]}, which {place / here} has")
    if not found["train"]:
        raise DataError(f"{place / 'train'}: holds no folders; images are looked for in train/<class>/")
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
            raise DataError(f"{part / name}: holds no images ({', '.join(ENDINGS)})")
    return found


def balanced(files: Files) -> Files:
    """The files in an order of which any beginning holds every class in proportion, to about one image a class.

    Within a class the order is that of the names' SHA-256: fixed, and in no relation to how images were named. Image
    j of n in its class then stands at (j + 1/2)/n of the way.
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
                raise DataError(f"{path}: is of mode {image.mode}; eight bits a channel are needed")
            rgb = image.convert("RGB")
            return np.asarray(rgb.resize((size, size), Image.Resampling.BOX) if size else rgb)
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: is no image") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises on bad files
        raise DataError(f"{path}: is not a whole image: {error}") from error
