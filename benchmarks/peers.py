"""What a user would run instead of wdgrid: Optuna's GridSampler around an ordinary training loop.

    python peers.py work.json --storage sqlite:///peers.db [--processes 2] [--style careful|usual]

nn.Module, torch.optim, DataLoader, one Optuna study a panel, a trial a cell, the test error reported every epoch.
`--processes 1` keeps torch's default threads; with more, each has one thread and all share the storage, as Optuna's
documentation recommends. Two styles:

- careful: what is slow in pure Python is done for a whole minibatch (shift, test), which favours the peer;
- usual: the shift in the dataset's `__getitem__`, the test set through a DataLoader.

Knows nothing of wdgrid; `work.json` holds the cells (see `work.py`). Prints one line of JSON.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna


def main() -> None:
    """Creates the studies, then runs them here or in processes that join."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="JSON file with the cells")
    parser.add_argument("--storage", required=True, help="Optuna storage URL")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--style", choices=("careful", "usual"), default="careful")
    parser.add_argument("--join", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    work = json.loads(options.work.read_text(encoding="utf-8"))
    storage = optuna.storages.RDBStorage(options.storage, engine_kwargs={"connect_args": {"timeout": 60}})
    if not options.join:
        for panel in work["panels"]:
            optuna.create_study(study_name=panel["optimizer"], storage=storage, direction="minimize")
    if options.processes > 1 and not options.join:
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [sys.executable, *sys.argv, "--join"]
        joined = [subprocess.Popen(command, env=one_thread) for _ in range(options.processes)]
        statuses = [process.wait() for process in joined]
        if any(statuses):
            sys.exit(1)
    else:
        sweep(work, storage, options.style, one_thread=options.join)
    if not options.join:
        print(json.dumps(_told(work, storage)))


def sweep(work: dict[str, Any], storage: optuna.storages.BaseStorage, style: str, *, one_thread: bool) -> None:
    """Every panel's grid, until it is exhausted."""
    import torch

    if one_thread:
        torch.set_num_threads(1)
    data = _data()
    for panel in work["panels"]:
        grid = {"lr": panel["lr"], "weight_decay": panel["weight_decay"]}
        sampler = optuna.samplers.GridSampler(grid, seed=0)
        study = optuna.load_study(study_name=panel["optimizer"], storage=storage, sampler=sampler)
        if not sampler.is_exhausted(study):
            study.optimize(_objective(work, panel, data, style))


def _told(work: dict[str, Any], storage: optuna.storages.BaseStorage) -> dict[str, int]:
    """Trials that ran (GridSampler repeats some between processes) and the cells they cover."""
    trials, cells, reports = 0, 0, 0
    for panel in work["panels"]:
        done = optuna.load_study(study_name=panel["optimizer"], storage=storage).get_trials(deepcopy=False)
        trials += len(done)
        cells += len({tuple(sorted(t.params.items())) for t in done if t.state.is_finished()})
        reports += sum(len(t.intermediate_values) for t in done)
    return {"trials": trials, "cells": cells, "reports": reports}


def _data() -> tuple[Any, Any, Any, Any]:
    """scikit-learn's digits, split and standardised as wdgrid does."""
    import torch
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)[order]
    y = torch.tensor(classes, dtype=torch.int64)[order]
    x = (x - x[:900].mean()) / x[:900].std()
    return x[:900], y[:900], x[900:1797], y[900:1797]


def _objective(work: dict[str, Any], panel: dict[str, Any], data: Any, style: str) -> Callable[..., float]:
    """One trial: one cell trained from its first step to its last, tested every epoch."""
    import networks
    import torch
    import torch.nn.functional as F

    train, test = _loaders(work["batch_size"], data, style)
    lrs, decays = panel["lr"], panel["weight_decay"]

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", min(lrs), max(lrs))
        decay = trial.suggest_float("weight_decay", min(decays), max(decays))
        torch.manual_seed(work["seed"])
        model = getattr(networks, work["network"])()
        optimizer = _optimizer(panel["optimizer"], model, lr, decay)
        steps = work["epochs"] * len(train)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        shrinks = panel["optimizer"] == "sgdw" and decay > 0
        t, error = 0, math.nan
        for epoch in range(work["epochs"]):
            model.train()
            total = 0.0
            for images, y in train:
                x = _shifted(images) if style == "careful" else images
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                if shrinks:  # torch.optim has no SGDW: the decay by hand, before the step
                    with torch.no_grad():
                        for parameter in model.parameters():
                            parameter.mul_(1 - (0.5 + 0.5 * math.cos(math.pi * t / steps)) * decay)
                optimizer.step()
                scheduler.step()
                total += loss.item()
                t += 1
            model.eval()
            with torch.no_grad():
                wrong = sum((model(x).argmax(1) != y).sum().item() for x, y in test)
            error = 100 * wrong / len(data[2])
            trial.report(error, epoch)
        return error

    return objective


def _optimizer(name: str, model: Any, lr: float, decay: float) -> Any:
    """torch.optim's own; AdamW with λ/α, since its decay is multiplied by the rate."""
    import torch

    match name:
        case "sgd":
            return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=decay)
        case "sgdw":
            return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        case "adam":
            return torch.optim.Adam(model.parameters(), lr=lr, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=decay / lr)
    raise ValueError(name)


def _loaders(batch_size: int, data: Any, style: str) -> tuple[Any, Any]:
    """Minibatches to train on (a DataLoader) and to test on."""
    from torch.utils.data import DataLoader, TensorDataset

    train_x, train_y, test_x, test_y = data
    if style == "careful":
        train = DataLoader(TensorDataset(train_x, train_y), batch_size, shuffle=True, drop_last=True)
        return train, [(test_x, test_y)]
    train = DataLoader(_Shifting(train_x, train_y), batch_size, shuffle=True, drop_last=True)  # type: ignore[arg-type]
    return train, DataLoader(TensorDataset(test_x, test_y), 1024)


class _Shifting:
    """A dataset that moves each image by up to one pixel when it is fetched: pad and crop, as torchvision does."""

    def __init__(self, x: Any, y: Any) -> None:
        import torch.nn.functional as F

        self.padded, self.y = F.pad(x, [1] * 4), y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        import torch

        top, left = torch.randint(0, 3, (2,)).tolist()
        return self.padded[index, :, top : top + 8, left : left + 8], self.y[index]


def _shifted(x: Any) -> Any:
    """A minibatch [B, 1, 8, 8], each image moved by up to one pixel both ways, zeros moving in."""
    import torch
    import torch.nn.functional as F

    padded = F.pad(x, [1] * 4)
    image = torch.arange(len(x))[:, None, None]
    rows = (torch.randint(0, 3, (len(x), 1)) + torch.arange(8))[:, :, None]
    columns = (torch.randint(0, 3, (len(x), 1)) + torch.arange(8))[:, None, :]
    return padded[image, 0, rows, columns][:, None]


if __name__ == "__main__":
    main()
