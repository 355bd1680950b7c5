"""The engine against an independent loop, and the promises it makes about cells and chunks."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.compiled import needs_compiler
from helpers.plain import train_plain
from helpers.training import bench_of, cells_of, numbers, rate_of, run, whole
from wdgrid.engine import Checkpoint, Job, Workbench, train
from wdgrid.engine.fused.network import FusedNetwork
from wdgrid.errors import ModelError
from wdgrid.optim.variants import VARIANTS
from wdgrid.study.sections import Constant, Cosine, Restarts, Step, Task

BACKENDS = [pytest.param("native", marks=needs_compiler), "stacked"]
SCHEDULES = [Constant(), Step(), Cosine(), Restarts(period=1, multiplier=2)]


@pytest.fixture(scope="module", params=BACKENDS)
def exact(request) -> Workbench:
    args = {"hidden": [12, 9]}
    return bench_of(request.param, model_args=args, batch_size=25, epochs=3, train_size=110, precision="float64")


@pytest.fixture(scope="module", params=BACKENDS)
def single(request) -> Workbench:
    return bench_of(request.param, model_args={"hidden": [12]}, batch_size=25, epochs=2, train_size=100)


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.kind)
@pytest.mark.parametrize("optimizer", VARIANTS)
def test_a_chunk_is_a_loop_over_independent_implementations(exact, optimizer, schedule, size):
    unit = rate_of(optimizer)
    rates = [unit, unit / 2, unit / 4, 2 * unit, unit][:size]
    cells = cells_of(optimizer, rates, [0.02, 0.01, 0.0, 0.005, 0.04][:size])
    job = Job(optimizer, schedule, 3, False)
    for cell, outcome in zip(cells, run(exact, job, cells, size), strict=True):
        expected = train_plain(exact, job, cell)
        for name, value in expected.items():
            assert getattr(outcome, name) == pytest.approx(value, rel=1e-9, abs=1e-12), (name, cell)
        assert len(outcome.curve.test_error) == 3


@pytest.mark.parametrize(("l2", "decoupled"), [("sgd", "sgdw"), ("adam", "adamw"), ("adam", "adamw-torch")])
def test_without_decay_l2_and_decoupled_are_equal_to_the_bit(single, l2, decoupled):
    rates = [0.1, 0.01, 0.003]
    results = [
        [numbers(o) for o in run(single, Job(v, Cosine(), 2, False), cells_of(v, rates, [0.0] * 3), 4)]
        for v in (l2, decoupled)
    ]
    assert results[0] == results[1]


@given(order=st.permutations(range(7)), split=st.integers(1, 6))
@settings(max_examples=10, deadline=None)
def test_a_cell_does_not_depend_on_its_chunk(single, order, split):
    """To the bit, whatever the neighbours, their number and the slot."""
    for optimizer in ("sgd", "adamw", "kalman"):
        job = Job(optimizer, Cosine(), 1, False)
        rates = [0.5 / 2**i for i in range(7)]
        cells = cells_of(optimizer, rates, [0.001 * i for i in range(7)])
        together = [numbers(o) for o in run(single, job, cells, 8)]
        shuffled = [cells[i] for i in order]
        apart = run(single, job, shuffled[:split], 8) + run(single, job, shuffled[split:], 8)
        assert [together[i] for i in order] == [numbers(o) for o in apart]


@pytest.mark.parametrize("backend", BACKENDS)
def test_slots_do_not_matter_at_the_shapes_of_the_digits_study(backend):
    bench = bench_of(backend, batch_size=50, epochs=1, train_size=900)
    job = Job("adam", Cosine(), 1, False)
    cells = cells_of("adam", [0.1 / 2 ** (i % 11) for i in range(31)], [0.001 * i for i in range(31)])
    forward = [numbers(o) for o in run(bench, job, cells, 31)]
    backward = [numbers(o) for o in run(bench, job, cells[::-1], 31)]
    assert forward == backward[::-1]


@pytest.mark.parametrize("optimizer", VARIANTS)
def test_a_diverging_neighbour_changes_nothing(single, optimizer):
    job = Job(optimizer, Constant(), 2, False)
    quiet = cells_of(optimizer, [0.01, 0.01, 0.02, 0.005], [0.01, 0.0, 0.02, 0.03])
    loud = cells_of(optimizer, [0.01, 1e38, 0.02, 0.005], [0.01, 1e30, 0.02, 0.03])
    calm, wild = (run(single, job, cells, 4) for cells in (quiet, loud))
    assert wild[1].test_error == math.inf
    assert wild[1].diverged_at is not None and 1 <= wild[1].diverged_at <= 8
    assert len(wild[1].curve.test_error) == (wild[1].diverged_at - 1) // 4
    for k in (0, 2, 3):
        assert numbers(calm[k]) == numbers(wild[k])


def test_normalised_decay_is_raw_decay_times_its_factor(exact):
    factor = math.sqrt(25 / (110 * 2))
    raw = run(exact, Job("adamw", Cosine(), 2, False), cells_of("adamw", [0.01], [0.05 * factor]), 1)
    normalised = run(exact, Job("adamw", Cosine(), 2, True), cells_of("adamw", [0.01], [0.05]), 1)
    assert raw[0].weight_norm == pytest.approx(normalised[0].weight_norm, rel=1e-12)
    assert raw[0].l2_term == pytest.approx(normalised[0].l2_term, rel=1e-12)


class Residual(nn.Module):
    """A small convolutional network with a skip connection, as a user would write it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4 * 4 * 4, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.nn.functional.relu(x + self.conv(x))
        return self.head(torch.flatten(nn.functional.max_pool2d(x, 2), 1))


class Pooled(Residual):
    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.nn.functional.relu(x + self.conv(x))
        return self.head(torch.flatten(self.pool(x), 1))


class LayerNormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(64, 8), nn.LayerNorm(8), nn.Linear(8, 10)

    def forward(self, x):
        return self.last(self.norm(self.first(x.flatten(1))))


class Hooked(LayerNormed):
    def __init__(self):
        super().__init__()
        self.norm.register_forward_hook(lambda layer, x, y: y.clamp(max=0.1))  # torch.fx does not see it


class Branching(LayerNormed):
    def forward(self, x):
        x = self.norm(self.first(x.flatten(1)))
        return self.last(x if x.sum() > 0 else -x)


@pytest.mark.parametrize(
    ("factory", "backend"),
    [(Pooled, "stacked"), (Residual, "stacked"), (LayerNormed, "stacked"), (Hooked, "vmap"), (Branching, "one by one")],
)
def test_every_backend_of_a_users_network_is_the_network(factory, backend):
    torch.manual_seed(0)
    x, y = torch.randn(20, 1, 8, 8, dtype=torch.float64), torch.randint(0, 10, (20,))
    module = factory().double()
    network = FusedNetwork(module, 3, x)
    assert network.backend == backend
    for k in range(3):  # three different cells
        network.theta[k] *= 1 + 0.1 * k
    logits = network(x, training=True)
    losses = torch.stack([nn.functional.cross_entropy(cell, y) for cell in logits])
    network.backward(losses)
    for k in range(3):
        plain = factory().double()
        plain.load_state_dict(module.state_dict())
        with torch.no_grad():
            for p in plain.parameters():
                p *= 1 + 0.1 * k
        loss = nn.functional.cross_entropy(plain(x), y)
        loss.backward()
        assert losses[k].item() == pytest.approx(loss.item(), rel=1e-10)
        for name, p in plain.named_parameters():
            own = network._view(network.gradient, name)[k]
            torch.testing.assert_close(own, p.grad, rtol=1e-8, atol=1e-10)
        for name, b in plain.named_buffers():
            torch.testing.assert_close(network.buffers[name][k], b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "kalman"])
def test_going_on_from_a_checkpoint_is_never_having_stopped(single, tmp_path, optimizer):
    job = Job(optimizer, Cosine(), 5, False)
    cells = cells_of(optimizer, [0.01, 1e38, 0.02], [0.01, 1e30, 0.02])
    reference = [numbers(o) for o in run(single, job, cells, 4)]

    def stop_at_3(done):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(single, job, cells, 4, stop_at_3, Checkpoint(tmp_path / "chunk", "this", every=0))
    kept = sorted(tmp_path.iterdir())
    assert [p.name for p in kept] == ["chunk-000002.safetensors", "chunk-000003.safetensors"]
    seen = []
    resumed = train(single, job, cells, 4, seen.append, Checkpoint(tmp_path / "chunk", "this", every=1e9))
    assert whole(seen) == [4, 5] and [numbers(o) for o in resumed] == reference
    kept[1].write_bytes(kept[1].read_bytes()[:100])  # torn: the one before it is used
    seen.clear()
    with pytest.warns(UserWarning, match="000003.safetensors: the checkpoint is damaged"):
        resumed = train(single, job, cells, 4, seen.append, Checkpoint(tmp_path / "chunk", "this", every=1e9))
    assert whole(seen) == [3, 4, 5] and [numbers(o) for o in resumed] == reference
    kept[1].unlink()
    other = Checkpoint(tmp_path / "chunk", "another study", every=1e9)
    assert other.load() is None
    other.clear()
    assert list(tmp_path.iterdir()) == []


def test_a_convolutional_network_trains_on_shifted_images(tmp_path, monkeypatch):
    """Shifted images of one channel once came in a memory format that the stacked backend could not flatten."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    task = Task(model="test_engine:Pooled", batch_size=25, epochs=1, train_size=100, precision="float64", device="cpu")
    bench = Workbench(task)
    assert bench.network(0, 2).backend == "stacked"
    job = Job("adamw", Cosine(), 1, False)
    (cell,) = cells_of("adamw", [0.01], [0.02])
    (outcome,) = run(bench, job, [cell], 3)
    expected = train_plain(bench, job, cell)
    assert outcome.test_loss == pytest.approx(expected["test_loss"], rel=1e-9)


@pytest.mark.parametrize("model", ["mlp", "resnet"])
def test_bfloat16_products_keep_float32_weights_and_come_close(model):
    outcomes = {}
    for precision in ("float32", "bfloat16"):
        task = Task(
            model=model, batch_size=25, epochs=3, train_size=400, test_size=200, precision=precision, device="cpu"
        )
        bench = Workbench(task)
        network = bench.network(0, 3)
        assert network.backend == "stacked" and network.theta.dtype == torch.float32
        x = bench.data.prepared(bench.data.train_x[:25])
        logits = network(x, training=True)
        assert logits.dtype == torch.float32
        cells = cells_of("adamw", [0.01] * 3, [0.0, 0.01, 0.0])
        first, _, third = run(bench, Job("adamw", Cosine(), 3, False), cells, 3)
        assert numbers(first) == numbers(third)  # the slot does not matter
        outcomes[precision] = first, logits.detach()
    exact, short = outcomes["float32"], outcomes["bfloat16"]
    assert not torch.equal(exact[1], short[1])
    torch.testing.assert_close(exact[1], short[1], rtol=0.1, atol=0.1)
    assert exact[0].test_error < 30 and abs(exact[0].test_error - short[0].test_error) < 10


def test_batch_norm_of_single_images_is_refused():
    with pytest.raises(ModelError, match=r"mlp: on inputs .* more than 1 value"):
        Workbench(Task(batch_size=1, train_size=8, device="cpu"))
    Workbench(Task(batch_size=1, train_size=8, device="cpu", model_args={"batch_norm": False})).network(0, 1)


def test_tf32_is_refused_on_a_cpu():
    with pytest.raises(RuntimeError, match="tf32"):
        Workbench(Task(precision="tf32", device="cpu"))


def test_forms_are_compared_in_full_precision_before_tf32_is_allowed(single, monkeypatch):
    bench, seen = Workbench(single.task), []
    bench.task = single.task.model_copy(update={"precision": "tf32"})

    def compared(*given):
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return FusedNetwork(*given)

    monkeypatch.setattr("wdgrid.engine.workbench.FusedNetwork", compared)
    try:
        bench.network(0, 2)
        *compared_in, used_in = seen
    finally:
        single.network(0, 2)
    assert set(compared_in) == {("highest", False)} and used_in == ("high", True)
    assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
