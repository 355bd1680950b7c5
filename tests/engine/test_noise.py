"""Networks that draw random numbers, and backends of a network that only seem to be the network."""

import math
import operator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.plain import train_plain
from helpers.training import cells_of, numbers, run, whole
from wdgrid.engine import Checkpoint, Job, Workbench, train
from wdgrid.engine.fused.layouts import Value
from wdgrid.engine.fused.network import FusedNetwork
from wdgrid.engine.fused.rules import FUNCTIONS, LAYERS
from wdgrid.models.shake import shake_shake
from wdgrid.study.sections import Constant, Cosine, Task


class Dropped(nn.Sequential):
    """Dropout on maps, on whole maps and on features."""

    def __init__(self):
        convolutions = nn.Conv2d(1, 3, 3), nn.Dropout(0.2), nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)
        head = nn.Flatten(), nn.Linear(16, 9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 10)
        super().__init__(*convolutions, nn.ReLU(), nn.Dropout2d(0.4), *head)


class Functional(nn.Module):
    """Dropout of the input as a function, as many write it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 8), nn.Linear(8, 10)

    def forward(self, x):
        x = F.dropout(x.flatten(1), 0.1, training=self.training)
        return self.last(F.dropout(F.relu(self.first(x)), training=self.training))


class Noisy(Functional):
    """Layers without a stacked backend, and a user's own noise."""

    def forward(self, x):
        x = F.alpha_dropout(self.first(x.flatten(1)), 0.3, self.training)
        return self.last(x + 0.1 * torch.rand_like(x) if self.training else x)


class Hooked(Functional):
    """Noise in a hook, which torch.fx does not see."""

    def __init__(self):
        super().__init__()
        self.first.register_forward_hook(lambda layer, x, y: F.dropout(y, 0.3, layer.training))

    def forward(self, x):
        return self.last(F.relu(self.first(x.flatten(1))))


class Shaken(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * torch.rand(len(x), 1, dtype=x.dtype)

    @staticmethod
    def backward(ctx, g):
        return g * torch.rand(len(g), 1, dtype=g.dtype)


class Backward(Functional):
    """Noise in the backward pass, which neither torch.fx nor vmap can follow."""

    def forward(self, x):
        x = F.relu(self.first(x.flatten(1)))
        return self.last(Shaken.apply(x) if self.training else 0.5 * x)


def shake():
    """The built-in network that draws."""
    torch.manual_seed(0)
    return shake_shake(1, 10, depth=8, width=2, level="image")


BACKENDS = [
    (Dropped, "stacked"),
    (shake, "stacked"),
    (Functional, "stacked"),
    (Noisy, "stacked"),
    (Hooked, "vmap"),
    (Backward, "one by one"),
]


@pytest.fixture
def bench(monkeypatch):
    """A workbench for a network of this file."""
    monkeypatch.syspath_prepend(Path(__file__).parent)

    def make(network, precision="float32"):
        model = f"test_noise:{network.__name__}"
        return Workbench(Task(model=model, batch_size=25, epochs=3, train_size=60, precision=precision, device="cpu"))

    return make


@pytest.mark.parametrize(("network", "backend"), BACKENDS, ids=lambda p: getattr(p, "__name__", p))
def test_a_chunk_with_noise_is_a_loop_over_cells_with_the_same_noise(bench, network, backend):
    exact = bench(network, "float64")
    assert exact.network(0, 3).backend == backend
    job = Job("adamw", Cosine(), 2, False)
    cells = cells_of("adamw", [0.01, 0.02, 0.005], [0.01, 0.0, 0.03])
    for cell, outcome in zip(cells, run(exact, job, cells, 3), strict=True):
        for name, value in train_plain(exact, job, cell).items():
            assert getattr(outcome, name) == pytest.approx(value, rel=1e-9), (name, cell)


@pytest.mark.parametrize("network", [pair[0] for pair in BACKENDS], ids=lambda n: n.__name__)
def test_with_noise_a_cell_still_does_not_depend_on_its_chunk(bench, network):
    single, job = bench(network), Job("sgd", Constant(), 1, False)
    cells = cells_of("sgd", [0.1, 1e38, 0.05, 0.02], [0.01, 0.0, 0.0, 0.02])
    together = [numbers(o) for o in run(single, job, cells, 4)]
    torch.rand(1)  # wherever the generator stands
    apart = run(single, job, cells[2:], 4) + run(single, job, cells[1::-1], 4)
    assert [numbers(o) for o in apart] == [together[i] for i in (2, 3, 1, 0)]


def test_seeds_and_steps_draw_different_noise(bench):
    network = bench(Functional).network(0, 1)
    x = torch.ones(4, 64)
    first, again, other = (network(x, training=True, noise=n) for n in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("network", [pair[0] for pair in BACKENDS], ids=lambda n: n.__name__)
def test_going_on_from_a_checkpoint_draws_the_same_noise(bench, tmp_path, network):
    single, job = bench(network), Job("adam", Cosine(), 3, False)
    cells = cells_of("adam", [0.01, 0.02], [0.01, 0.0])
    reference = [numbers(o) for o in run(single, job, cells, 2)]

    def stop(done):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(single, job, cells, 2, stop, Checkpoint(tmp_path / "chunk", "this", every=0))
    torch.rand(1)  # another process
    seen = []
    resumed = train(bench(network), job, cells, 2, seen.append, Checkpoint(tmp_path / "chunk", "this", every=1e9))
    assert whole(seen) == [2, 3] and [numbers(o) for o in resumed] == reference


def test_a_network_that_draws_nothing_leaves_the_generators_alone(monkeypatch):
    seeded = []
    bench = Workbench(Task(model_args={"hidden": [8]}, batch_size=25, epochs=1, train_size=60, device="cpu"))
    bench.network(0, 2)  # looked at once
    before = torch.get_rng_state()
    monkeypatch.setattr("wdgrid.engine.fused.network.seed", lambda of, number: seeded.extend(of))
    run(bench, Job("sgd", Constant(), 1, False), cells_of("sgd", [0.1], [0.0]), 2)
    assert torch.equal(before, torch.get_rng_state()) and not seeded


class StraightThrough(torch.autograd.Function):
    """A forward pass that torch.fx takes for the whole: the backward pass is another."""

    @staticmethod
    def forward(ctx, x):
        return x.relu()

    @staticmethod
    def backward(ctx, g):
        return g


class Straight(Functional):
    def forward(self, x):
        return self.last(StraightThrough.apply(self.first(x.flatten(1))))


class Clamped(Functional):
    """A hook that shows in large activations only, and that torch.fx does not see."""

    def __init__(self):
        super().__init__()
        nn.init.constant_(self.first.weight, 1 / 64)
        self.first.register_forward_hook(lambda layer, x, y: y.clamp(max=0.6))

    def forward(self, x):
        return self.last(F.relu(self.first(x.flatten(1))))


class Frozen(Clamped):
    """A first layer that is not to be trained."""

    def __init__(self):
        super().__init__()
        self.first.requires_grad_(False)


@pytest.mark.parametrize(("factory", "backend"), [(Straight, "one by one"), (Clamped, "vmap"), (Frozen, "vmap")])
def test_a_backend_that_agrees_by_accident_is_refused(factory, backend):
    torch.manual_seed(0)
    x = 0.1 * torch.rand(8, 1, 8, 8, dtype=torch.float64)
    module = factory().double()
    network = FusedNetwork(module, 3, x)
    assert network.backend == backend
    network.backward(network(2 * x, training=True).square().sum(dim=(1, 2)))
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(module(2 * x).square().sum(), list(trained.values()))
    assert list(network.parameters) == list(trained)
    for name, gradient in zip(trained, gradients, strict=True):
        for own in network.gradients[name]:
            torch.testing.assert_close(own, gradient, rtol=1e-10, atol=1e-12)


def _other_noise(run, layer, x):
    return Value(F.dropout(x.tensor, layer.module.p, layer.module.training), x.layout)


def _neighbours(run, a, b):
    return Value(a.tensor + b.tensor.roll(1, 0), a.layout)


class Sum(Functional):
    def forward(self, x):
        x = F.relu(self.first(x.flatten(1)))
        return self.last(x + self.middle(x))

    def __init__(self):
        super().__init__()
        self.middle = nn.Linear(8, 8)


@pytest.mark.parametrize(
    ("table", "kind", "replacement", "factory"),
    [(LAYERS, nn.Dropout, _other_noise, Dropped), (FUNCTIONS, operator.add, _neighbours, Sum)],
    ids=["other noise", "neighbours"],
)
def test_a_broken_layer_does_not_get_through(monkeypatch, table, kind, replacement, factory):
    """Noise that is not the plain layer's, and cells that see their neighbours."""
    torch.manual_seed(0)
    x = torch.randn(8, 1, 8, 8)
    assert FusedNetwork(factory(), 2, x).backend == "stacked"
    monkeypatch.setitem(table, kind, replacement)
    assert FusedNetwork(factory(), 2, x).backend == "vmap"


def test_dropout_keeps_the_mean():
    """Of whole maps and of single numbers, shared by the cells: the share that is kept, and what it is scaled to."""
    torch.manual_seed(0)
    x = torch.ones(400, 1, 8, 8, dtype=torch.float64)
    for layer, draws in ((nn.Dropout(0.25), 400 * 8 * 8), (nn.Dropout2d(0.25), 400)):
        module = nn.Sequential(nn.Conv2d(1, 1, 1), layer, nn.Flatten()).double()
        nn.init.ones_(module[0].weight)
        nn.init.zeros_(module[0].bias)
        kept = FusedNetwork(module, 2, x[:8])(x, training=True, noise=5)
        assert set(kept.unique().tolist()) == {0.0, 1 / 0.75}
        assert kept.mean().item() == pytest.approx(1, abs=4 * math.sqrt(0.25 / 0.75 / draws))
        assert torch.equal(kept[0], kept[1])
