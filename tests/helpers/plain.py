"""An independent training loop: one cell, plain nn.Module, float64, recursions written out or torch.optim."""

import math

import torch
import torch.nn.functional as F

from wdgrid import data as datasets
from wdgrid import models
from wdgrid.engine import Job, Workbench
from wdgrid.study import Cell
from wdgrid.study.sections import Cosine, Restarts, Step


def eta(schedule, t, epochs, steps):
    """η_t, written from the paper's formulas and not from wdgrid.optim.schedule."""
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
    """Algorithm 1 where torch.optim has another one: a parameter at a time, in place; `decays` [one a parameter]."""

    def __init__(self, parameters, optimizer, h, decays):
        self.parameters, self.optimizer, self.h, self.decays = parameters, optimizer, h, decays
        self.m = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, eta):
        lr, beta = self.h["lr"], self.h["momentum"]
        for p, m, wd in zip(self.parameters, self.m, self.decays, strict=True):
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

    def __init__(self, parameters, optimizer, h, decays):
        self.parameters, self.optimizer, self.h, self.decays = parameters, optimizer, h, decays
        inside = optimizer in ("adam", "adamw-torch")
        groups = [{"params": [p], "weight_decay": wd * inside} for p, wd in zip(parameters, decays, strict=True)]
        if optimizer == "sgdw-torch":
            self.inner = torch.optim.SGD(groups, lr=h["lr"], momentum=h["momentum"])
        else:
            kind = torch.optim.AdamW if optimizer == "adamw-torch" else torch.optim.Adam
            self.inner = kind(groups, lr=h["lr"], betas=(h["beta1"], h["beta2"]), eps=h["eps"])

    def step(self, eta):
        for group in self.inner.param_groups:
            group["lr"] = eta * self.h["lr"]
        beside = {"adamw": eta, "sgdw-torch": eta * self.h["lr"]}.get(self.optimizer, 0.0)
        old = [p.detach().clone() for p in self.parameters]
        self.inner.step()
        with torch.no_grad():
            for p, before, wd in zip(self.parameters, old, self.decays, strict=True):
                p -= beside * wd * before


class Filter:
    """The Kalman filter in information form and in the weights' own units: mean p, variance, precision n² g²."""

    def __init__(self, parameters, optimizer, h, decays):
        self.parameters, self.h, self.decays = parameters, h, decays
        kappa = 1 - h["beta2"]
        self.prior, self.observations = h["lr"] ** 2 / kappa, kappa / (h["lr"] * h["eps"])
        self.variance = [torch.full_like(p, self.prior) for p in parameters]

    @torch.no_grad()
    def step(self, eta):
        for p, variance, wd in zip(self.parameters, self.variance, self.decays, strict=True):
            drift = (eta * self.h["lr"]) ** 2 * (1 - variance / self.prior)
            g = eta * self.observations * p.grad  # of the observations' negative log-likelihood
            variance.copy_(1 / (1 / (variance + drift) + g**2))
            p.copy_((1 - eta * wd) * p - variance * g)


def train_plain(bench: Workbench, job: Job, cell: Cell, multiplier=lambda name: 1.0) -> dict[str, float]:
    """What one cell comes to, trained alone; `multiplier` of a parameter's name is what its decay is multiplied by."""
    data, task = bench.data, bench.task
    module = models.build(task, data.prepared(data.train_x[:1]).shape[1:], data.classes, cell.seed).double()
    kind = {"sgd": Recursion, "sgdw": Recursion, "kalman": Filter}.get(job.optimizer, TorchOptim)
    decays = [multiplier(name) * cell.hyperparameters["weight_decay"] for name, _ in module.named_parameters()]
    optimizer = kind(list(module.parameters()), job.optimizer, cell.hyperparameters, decays)
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
            "l2_term": sum(wd / 2 * p.square().sum().item() for p, wd in zip(module.parameters(), decays, strict=True)),
        }
