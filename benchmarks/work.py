"""Defines the work of all contenders: a study file for wdgrid, and the same cells as JSON for the peers.

The grid is the digits study's (four panels, 11 × 11 cells each); smaller work takes evenly spaced rows and columns of
it. FLOPs are counted on the plain module by torch's own counter.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import photos

ROWS = ["1", *(f"1/{2**k}" for k in range(1, 11))]
COLUMNS = ["0", *(f"1/{2**k}" for k in range(5, 0, -1)), "1", "2", "4", "8", "16"]
PANELS = {"sgd": 1.0, "sgdw": 1.0, "adam": 0.1, "adamw": 0.1}  # with their units of the learning rate
FULL_CELLS, FULL_EPOCHS = 484, 100

STUDY = """\
title = "benchmark"
[task]
{images}
model = "{model}"
model_args = {{ {model_args} }}
batch_size = {batch}
epochs = {epochs}
device = "{device}"
[axes.lr]
values = {rows}
[axes.weight_decay]
values = {columns}
unit = 0.016
"""
PANEL = """\
[[panels]]
optimizer = "{optimizer}"
lr_unit = {unit}
"""


@dataclass(frozen=True)
class Images:
    """What is trained and tested on: how many of what shape [C, H, W], in minibatches of how many."""

    shape: tuple[int, int, int]
    train: int
    test: int
    batch: int
    toml: str  # how a study file names them
    jpeg: bool = False  # whether they are files, made anew for every run

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return self.train // self.batch


DIGITS = Images((1, 8, 8), 900, 897, 50, 'dataset = "digits"\ndataset_args = { shift = 1 }\ntrain_size = 900')
DIGITS_64 = Images((1, 8, 8), 896, 897, 64, 'dataset = "digits"\ndataset_args = { shift = 1 }\ntrain_size = 896')
PHOTOS = Images(
    (3, 32, 32), 896, 448, 128, 'dataset = "folder"\ndataset_args = { crop = 4, flip = true, root = ROOT }', jpeg=True
)


@dataclass(frozen=True)
class Network:
    """One row of the table: how wdgrid and the peers call the network, and how much of it is measured by default."""

    title: str
    model: str
    factory: str
    cells: int
    epochs: int
    full: bool = False  # whether wdgrid runs the full study too
    model_args: str = ""
    images: Images = DIGITS
    style: str = "careful"  # in which the peers are written
    contenders: tuple[str, ...] = ("wdgrid", "loop", "two")


NETWORKS = {
    "mlp": Network(
        "MLP 64-64-64-10, batch norm", "mlp", "mlp", 48, 20, full=True,
        model_args="hidden = [64, 64, 64], batch_norm = true",
        contenders=("wdgrid", "wdgrid-torch", "loop", "two"),
    ),
    "small-cnn": Network("small CNN, 8 channels at 8 × 8", "networks:small_cnn", "small_cnn", 96, 20),
    "cnn": Network("CNN, 16–32 channels at 8 × 8", "networks:cnn", "cnn", 48, 15),
    "mixer": Network(
        "residual MLP, width 96, layer norm, GELU, dropout", "networks:mixer", "mixer", 96, 20, images=DIGITS_64
    ),
    "vit": Network("ViT, dim 64, depth 3, 16 tokens", "networks:ViT", "ViT", 32, 8, images=DIGITS_64),
    "gn-cnn": Network("CNN, group norm, SiLU, 16–32 channels", "networks:gn_cnn", "gn_cnn", 48, 15, images=DIGITS_64),
    "gpt": Network("GPT, dim 32, depth 2, 64 tokens", "networks:GPT", "GPT", 16, 4, images=DIGITS_64),
    "resnet8": Network(
        "ResNet-8, width 16, 32 × 32 JPEG", "resnet", "ResNet8", 16, 6,
        model_args="depth = 8, width = 16", images=PHOTOS, style="usual",
        contenders=("wdgrid", "wdgrid-bf16", "loop", "two", "loop-bf16"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """So many cells of one network for so many epochs."""

    network: Network
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    epochs: int
    panels: tuple[str, ...] = tuple(PANELS)

    @property
    def cells(self) -> int:
        """Cells of all panels."""
        return len(self.rows) * len(self.columns) * len(self.panels)

    @property
    def cell_steps(self) -> int:
        """Steps of all cells."""
        return self.cells * self.epochs * self.network.images.steps

    def __str__(self) -> str:
        """As the tables say it."""
        return f"{self.cells} × {self.epochs}"

    def write(self, folder: Path, device: str = "cpu") -> tuple[Path, Path]:
        """The study file and the peers' JSON, with the very numbers that wdgrid reads from its file; JPEG files."""
        from wdgrid.study import load_study

        images, root = self.network.images, folder / "images"
        if images.jpeg:
            photos.make(root, images.train, images.test)
        study_path, peers_path = folder / "study.toml", folder / "work.json"
        study_path.write_text(self._toml(root, device), encoding="utf-8")
        panels: list[dict[str, Any]] = []
        for name, cells in load_study(study_path).cells().items():
            values = {axis: sorted({c.hyperparameters[axis] for c in cells}) for axis in ("lr", "weight_decay")}
            panels.append({"optimizer": name, **values})
        told = {"network": self.network.factory, "panels": panels, "epochs": self.epochs, "seed": 0, "device": device}
        told |= {"batch_size": images.batch, "images": str(root) if images.jpeg else None}
        peers_path.write_text(json.dumps(told), encoding="utf-8")
        return study_path, peers_path

    def _toml(self, root: Path, device: str) -> str:
        network, images = self.network, self.network.images
        head = STUDY.format(
            images=images.toml.replace("ROOT", json.dumps(str(root))), batch=images.batch, epochs=self.epochs,
            model=network.model, model_args=network.model_args, device=device,
            rows=json.dumps(self.rows), columns=json.dumps(self.columns),
        )  # fmt: skip
        return head + "".join(PANEL.format(optimizer=name, unit=PANELS[name]) for name in self.panels)


def subset(network: Network, cells: int, epochs: int) -> Work:
    """About `cells` cells: a nearly square, evenly spaced part of each panel's grid."""
    each = max(1, min(cells, FULL_CELLS) // len(PANELS))
    rows = max(r for r in range(1, len(ROWS) + 1) if r * r <= each)
    columns = min(len(COLUMNS), each // rows)
    return Work(network, _spaced(ROWS, rows), _spaced(COLUMNS, columns), epochs)


def full(network: Network) -> Work:
    """The digits study's grid: 484 cells, 100 epochs."""
    return Work(network, tuple(ROWS), tuple(COLUMNS), FULL_EPOCHS)


def least(network: Network) -> Work:
    """One cell, one epoch: what it costs to start."""
    return Work(network, ("1/32",), ("1",), 1, ("sgd",))


def _spaced(values: list[str], n: int) -> tuple[str, ...]:
    if n == 1:
        return (values[len(values) // 2],)
    return tuple(values[round(i * (len(values) - 1) / (n - 1))] for i in range(n))


def flops(network: Network) -> tuple[float, float]:
    """Floating-point operations of one step (forward and backward of a minibatch) and of one test of all images.

    Matrix products and convolutions only; no optimizer, no normalisation. The first layer's input needs no gradient,
    so a step of P weights in linear layers is a little under 6·P·B.
    """
    import networks
    import torch
    import torch.nn.functional as F
    from torch.utils.flop_counter import FlopCounterMode

    module, images = getattr(networks, network.factory)(), network.images
    x, y = torch.randn(images.batch, *images.shape), torch.zeros(images.batch, dtype=torch.int64)
    with FlopCounterMode(display=False) as step:
        F.cross_entropy(module(x), y).backward()
    with FlopCounterMode(display=False) as test, torch.no_grad():
        module.eval()(torch.randn(images.test, *images.shape))
    return float(step.get_total_flops()), float(test.get_total_flops())
