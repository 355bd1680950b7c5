"""A folder of small images whose pixels are known, and its loading."""

import numpy as np
import torch
from PIL import Image

from wdgrid import data as datasets
from wdgrid.study.sections import Task

CLASSES = ("ant", "bee", "cow")


def pixels(part, name, i, side=6):
    return np.random.default_rng([ord(part[1]), ord(name[0]), i]).integers(0, 256, (side, side, 3), dtype=np.uint8)


def make(root):
    """30 images for training, 12 for testing, and what is no image."""
    for part, count in (("train", 10), ("test", 4)):
        for name in CLASSES:
            folder = root / part / name
            folder.mkdir(parents=True)
            (folder / ".hidden.png").write_bytes(b"")
            (folder / "readme.txt").write_text("no image")
            for i in range(count):
                Image.fromarray(pixels(part, name, i)).save(folder / f"{i}.png")
    return root


def task(root, **rest):
    args = {"root": str(root), **rest.pop("args", {})}
    return Task(dataset="folder", dataset_args=args, device="cpu", **rest)


def load(root, **rest):
    return datasets.load(task(root, **rest), torch.device("cpu"), torch.float32)


def torn(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
