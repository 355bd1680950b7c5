"""Trains one cell as a user would: nn.Module, torch.optim, a cosine schedule, a test every epoch.

It imports neither Optuna nor Ray nor wdgrid.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import networks
import torch
import torch.nn.functional as F
from minibatches import Train

Report = Callable[[float, int], None]  # test error in percent, epoch


def train(
    work: dict[str, Any], name: str, lr: float, decay: float, batches: tuple[Train, Iterable[Any]], report: Report
) -> float:
    """From the first step to the last with the optimizer of that name; the last test error in percent."""
    torch.manual_seed(work["seed"])
    training, testing = batches
    model = getattr(networks, work["network"])().to(work["device"])
    optimizer = _optimizer(name, model, lr, decay)
    steps = work["epochs"] * len(training)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    shrinks = name == "sgdw" and decay > 0
    short = work["precision"] == "bfloat16"
    device, t, error = work["device"], 0, math.nan
    for epoch in range(work["epochs"]):
        model.train()
        total = 0.0
        for x, y in training:
            x, y = x.to(device), y.to(device)
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16) if short else nullcontext():
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
        wrong = images = 0
        with torch.no_grad(), torch.autocast(device, torch.bfloat16) if short else nullcontext():
            for x, y in testing:
                x, y = x.to(device), y.to(device)
                wrong += (model(x).argmax(1) != y).sum().item()
                images += len(y)
        error = 100 * wrong / images
        report(error, epoch)
    return error


def _optimizer(name: str, model: torch.nn.Module, lr: float, decay: float) -> torch.optim.Optimizer:
    """torch.optim's own; AdamW with λ/α, since its decay is multiplied by the rate."""
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
