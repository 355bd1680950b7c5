"""An independent training loop: one cell, plain nn.Module, float64, recursions written out or torch.optim."""

import math

import torch
import torch.nn.functional as F

from wdgrid import data as datasets
from wdgrid import models
from wdgrid.cells import Cell
from wdgrid.engine import Job, Workbench
from wdgrid.sections import Cosine, Restarts, Step


def eta(schedule, t, epochs, steps):
    """η_t, written from SCIENCE's formulas and not from wdgrid.schedule."""
    share = t / (epochs * steps)
    if isinstance(schedule, Step):
        return math.prod(schedule.factor for m in schedule.milestones if share >= m)
    if isinstance(schedule, Cosine):
        return 0.5 + 0.5 * math.cos(math.pi * share)
    if isinstance(schedule, Restarts):
        epoch, length = t / steps, schedule.period
        while epoch >= length:
            epoch, length = epoch - length, length * schedule.multiplier
        return 0.5 + 0.5 * math.cos(math.pi * epoch / length)
    return 1.0


class Recursion:
    """Algorithms 1 and 2 where torch.optim has another one: a parameter at a time, in place."""

    def __init__(self, parameters, optimizer, h):
        self.parameters, self.optimizer, self.h = list(parameters), optimizer, h
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.t = 0

    @torch.no_grad()
    def step(self, eta):
        self.t += 1
        lr, wd, beta = self.h["lr"], self.h["weight_decay"], self.h.get("momentum")
        for p, m in zip(self.parameters, self.m, strict=True):
            old = p.clone()
            if self.optimizer == "sgd":
                m.copy_(beta * m + eta * lr * (p.grad + wd * old))
                p -= m
            elif self.optimizer == "sgdw":
                m.copy_(beta * m + eta * lr * p.grad)
                p.copy_(old - m - eta * wd * old)
            else:
                raise AssertionError(self.optimizer)


class TorchOptim:
    """torch.optim, where it is the same algorithm; the paper's decoupled decay is subtracted beside it."""

    def __init__(self, parameters, optimizer, h):
        self.parameters, self.optimizer, self.h = list(parameters), optimizer, h
        if optimizer == "sgdw-torch":
            self.inner = torch.optim.SGD(self.parameters, lr=h["lr"], momentum=h["momentum"])
        else:
            kind, decay = {
                "adam": (torch.optim.Adam, h["weight_decay"]),
                "adamw": (torch.optim.Adam, 0.0),
                "adamw-torch": (torch.optim.AdamW, h["weight_decay"]),
            }[optimizer]
            betas = (h["beta1"], h["beta2"])
            self.inner = kind(self.parameters, lr=h["lr"], betas=betas, eps=h["eps"], weight_decay=decay)

    def step(self, eta):
        self.inner.param_groups[0]["lr"] = eta * self.h["lr"]
        shrink = {"adamw": eta * self.h["weight_decay"], "sgdw-torch": eta * self.h["lr"] * self.h["weight_decay"]}
        old = [p.detach().clone() for p in self.parameters]
        self.inner.step()
        with torch.no_grad():
            for p, before in zip(self.parameters, old, strict=True):
                p -= shrink.get(self.optimizer, 0.0) * before


def train_plain(bench: Workbench, job: Job, cell: Cell) -> dict[str, float]:
    """What one cell comes to, trained alone."""
    data, task = bench.data, bench.task
    module = models.build(task, data.prepared(data.train_x[:1]).shape[1:], data.classes, cell.seed).double()
    kind = Recursion if job.optimizer in ("sgd", "sgdw") else TorchOptim
    optimizer = kind(module.parameters(), job.optimizer, cell.hyperparameters)
    steps = bench.steps_per_epoch
    for epoch in range(job.epochs):
        batches = datasets.epoch(data, cell.seed, epoch, task.batch_size)
        losses = []
        for i in range(steps):
            x, y = batches(i)
            module.zero_grad()
            torch.manual_seed(datasets.counter(cell.seed, epoch * steps + i, datasets.NOISE))
            loss = F.cross_entropy(module(x), y)
            loss.backward()
            optimizer.step(eta(job.schedule, epoch * steps + i, job.epochs, steps))
            losses.append(loss.item())
    module.eval()
    with torch.no_grad():
        logits = module(data.prepared(data.test_x))
        return {
            "test_error": 100 * (logits.argmax(1) != data.test_y).double().mean().item(),
            "test_loss": F.cross_entropy(logits, data.test_y).item(),
            "train_loss": sum(losses) / steps,
            "weight_norm": math.sqrt(sum(p.square().sum().item() for p in module.parameters())),
        }
