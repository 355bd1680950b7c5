"""Divergence classes: against a plain reading of their definitions, on real training, and on Adam's late blow-up."""

import itertools
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wdgrid.engine import Checkpoint, Job, Workbench, divergence, train
from wdgrid.engine.divergence import Chance, chance, follow, restart, start, verdict
from wdgrid.engine.loop import Chunk
from wdgrid.optim.fused import Rule
from wdgrid.optim.variants import VARIANTS
from wdgrid.study import Cell, Curve
from wdgrid.study.sections import Constant, Cosine, Restarts, Task

H = math.log(10)
GUESS = Chance(H, 87.0)
LEARNED = Curve(test_error=[5.0], train_loss=[0.1])


def classify(losses, cuts=(), restarts=(), curve=LEARNED, scale=H):
    """The verdicts on losses [T, K] that come in pieces."""
    trace, cuts = start(losses.shape[1]), sorted({0, *cuts, *restarts, len(losses)})
    for begin, end in itertools.pairwise(cuts):
        if begin in restarts:
            trace = restart(trace)
        trace = follow(trace, losses[begin:end], begin, scale)
    return [verdict(trace, k, None, curve, Chance(scale, 87.0), 10) for k in range(losses.shape[1])]


def by_the_letter(losses, restarts=()):
    """One cell, as the definitions read: a list of losses, no tensors, no state but what has happened."""
    spike = risen = blown = None
    begin = 0
    for t in range(1, len(losses) + 1):
        if t - 1 in restarts:
            begin, risen = t - 1, None
        before = losses[begin : max(begin, t - 10)]
        if len(before) < 10:
            continue
        quiet = min(max(before[i : i + 10]) for i in range(len(before) - 9))
        last = losses[t - 10 : t]
        bar = max(3 * quiet, quiet + H / 10)
        if quiet < H and min(last) >= bar:
            spike, risen = spike or t - 9, risen or t - 9
        elif max(last) < bar:
            risen = None
        if quiet <= H / 100 and min(last) >= 100 * quiet and min(last) >= H / 1e5:
            blown = blown or t - 9
    if blown or risen:
        return "late blow-up", blown or risen
    return ("spike", spike) if spike else (None, None)


levels = st.floats(-1.5, 1.2) | st.floats(-8, 1)
segments = st.lists(st.tuples(levels, st.integers(5, 30), st.floats(0, 0.5)), min_size=2, max_size=7)


def drawn(pieces, seed):
    """Losses that jump from level to level, with noise."""
    random.seed(seed)
    return [10 ** (level + width * random.random()) for level, length, width in pieces for _ in range(length)]


@given(st.lists(segments, min_size=1, max_size=3), st.integers(0, 99), st.sets(st.integers(1, 200)), st.booleans())
@settings(max_examples=150, deadline=None)
def test_classes_are_those_of_the_definitions_wherever_the_losses_are_cut(cells, seed, cuts, again):
    traces = [drawn(pieces, seed) for pieces in cells]
    steps = min(map(len, traces))
    losses = torch.tensor([trace[:steps] for trace in traces], dtype=torch.float64).T
    cuts = {cut for cut in cuts if cut < steps}
    restarts = set(sorted(cuts)[:1]) if again else set()
    wanted = [by_the_letter(trace[:steps], restarts) for trace in traces]
    assert classify(losses, cuts, restarts) == wanted == classify(losses, (), restarts)


def level(*pieces):
    """Losses of one cell, with a quarter of noise on each level."""
    draw = torch.Generator().manual_seed(0)
    flat = torch.cat([torch.full((length,), float(value)) for value, length in pieces])
    return (flat * (1 + 0.25 * torch.rand(len(flat), generator=draw)))[:, None]


@pytest.mark.parametrize(
    ("pieces", "wanted"),
    [
        ([(2.3, 20), (0.1, 100)], (None, None)),
        ([(2.3, 20), (9.0, 30), (0.1, 100)], (None, None)),  # the first steps of a fast rate: nothing learned is lost
        ([(2.3, 20), (0.1, 100), (3.0, 12), (0.1, 40)], ("spike", 121)),
        ([(2.3, 20), (0.1, 100), (3.0, 9), (0.1, 40)], (None, None)),  # shorter than what noise may not do
        ([(2.3, 20), (0.1, 100), (3.0, 40)], ("late blow-up", 121)),  # did not come back
        ([(2.3, 20), (0.1, 50), (3.0, 20), (0.1, 50), (3.0, 30)], ("late blow-up", 141)),
        ([(2.3, 20), (1e-5, 200), (5e-3, 20), (1e-5, 50)], ("late blow-up", 221)),
        ([(2.3, 20), (1e-12, 200), (1e-9, 50)], (None, None)),  # rounding
        ([(2.3, 20), (0.0, 200), (1e-3, 50)], ("late blow-up", 221)),
        ([(2.3, 20), (0.02, 100), (0.1, 50)], (None, None)),  # five times little is little
    ],
)
def test_typical_losses(pieces, wanted):
    assert classify(level(*pieces)) == [wanted]


def test_a_rare_hard_image_is_no_blow_up():
    """Every fifth batch holds an image that costs ten thousand times the others: noise, however large."""
    losses = level((2.3, 20), (1e-5, 3000))
    losses[20::5] = 0.1
    assert classify(losses) == [(None, None)]


@given(st.permutations(range(4)), st.floats(0.01, 100))
@settings(max_examples=10, deadline=None)
def test_neither_neighbours_nor_the_unit_of_the_loss_matter(order, unit):
    cells = [level((2.3, 20), (a, 100), (b, 20), (a, 20)) for a, b in [(0.1, 3), (1e-6, 0.1), (0.5, 0.5), (0.1, 0.3)]]
    losses = torch.cat(cells, 1)
    wanted = [("spike", 121), ("late blow-up", 121), (None, None), (None, None)]
    assert classify(losses[:, order]) == [wanted[k] for k in order]
    assert classify(losses * unit, scale=H * unit) == wanted


def test_stuck_at_chance_begins_with_the_epoch_after_which_nothing_was_learned():
    def stuck(losses, errors):
        curve = Curve(test_error=errors, train_loss=[H * loss for loss in losses])
        return verdict(start(1), 0, None, curve, GUESS, 18)

    assert stuck([1.0, 1.0, 1.2], [90, 91, 88]) == ("stuck at chance", 1)
    assert stuck([0.5, 0.4, 1.0, 0.96], [30, 20, 90, 90]) == ("stuck at chance", 37)
    assert stuck([1.0, 1.0, 0.9], [90, 90, 90]) == (None, None)  # it has begun to learn by heart
    assert stuck([1.0, 1.0, 0.99], [90, 90, 40]) == (None, None)  # small logits in the right order
    assert stuck([], []) == (None, None)


def test_the_worst_class_is_named():
    trace = follow(start(1), level((2.3, 20), (0.1, 100), (3, 20), (0.1, 20)), 0, H)
    lost = Curve(test_error=[90.0], train_loss=[H])
    assert verdict(trace, 0, None, LEARNED, GUESS, 18) == ("spike", 121)
    assert verdict(trace, 0, None, lost, GUESS, 18) == ("stuck at chance", 1)
    assert verdict(trace, 0, 150, LEARNED, GUESS, 18) == ("non-finite", 150)
    stays = follow(start(1), level((2.3, 20), (0.1, 100), (3, 20)), 0, H)
    assert verdict(stays, 0, None, lost, GUESS, 18) == ("stuck at chance", 1)
    blown = follow(start(1), level((2.3, 20), (1e-5, 100), (3, 20)), 0, H)
    assert verdict(blown, 0, None, lost, GUESS, 18) == ("late blow-up", 121)


def test_chance_is_what_guessing_comes_to():
    guess = chance(torch.arange(100) % 4, torch.tensor([0] * 60 + [1] * 40))
    assert guess.loss == pytest.approx(math.log(4))
    assert guess.error == pytest.approx(40 - 3 * 100 * math.sqrt(0.6 * 0.4 / 100))
    assert chance(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1])).loss == pytest.approx(0.562335, rel=1e-5)


# Real training


@pytest.fixture(scope="module")
def digits() -> Workbench:
    return Workbench(Task(model_args={"hidden": [32]}, batch_size=50, epochs=12, train_size=900, device="cpu"))


def cells_of(optimizer, pairs):
    extra = VARIANTS[optimizer].defaults
    return [Cell("panel", 3, {"lr": lr, "weight_decay": wd, **extra}, (str(lr), str(wd))) for lr, wd in pairs]


@pytest.mark.parametrize("schedule", [Constant(), Cosine(), Restarts(period=4, multiplier=1)], ids=lambda s: s.kind)
@pytest.mark.parametrize(("optimizer", "unit"), [("sgdw", 1.0), ("adamw", 0.1)])
def test_healthy_cells_of_a_digits_study_have_no_class_and_bad_ones_have(digits, optimizer, unit, schedule):
    healthy = [(unit / 2**i, decay) for i in range(2, 8) for decay in (0.0, 0.0005)]
    bad = [(unit / 256, 0.25), (1e38, 0.001)]
    cells = cells_of(optimizer, healthy + bad)
    results = train(digits, Job(optimizer, schedule, 12, False), cells, 16, lambda done: None)
    assert max(o.test_error for o in results[:-2]) < 40
    assert [o.divergence for o in results] == [None] * len(healthy) + ["stuck at chance", "non-finite"]
    assert [o.divergence_step for o in results[-2:]] == [1, results[-1].diverged_at]
    assert math.isfinite(results[-2].test_error) and results[-2].diverged_at is None


def test_a_checkpoint_keeps_what_is_known_of_the_losses(digits, tmp_path):
    job, cells = Job("sgdw", Constant(), 3, False), cells_of("sgdw", [(0.1, 0.0), (0.2, 0.001)])
    chunk, fresh, older = (Chunk(digits, job, cells, 2) for _ in range(3))
    chunk.epoch(0)
    chunk.trace = chunk.trace._replace(spike_at=torch.tensor([0, 7]))
    Checkpoint(tmp_path / "c", "this", every=0).save(1, chunk.state())
    _, (tensors, plain) = Checkpoint(tmp_path / "c", "this", every=0).load()
    fresh.restore((tensors, plain))
    assert all(torch.equal(a, b) for a, b in zip(fresh.trace, chunk.trace, strict=True))
    assert fresh.trace.recent.isfinite().any()
    older.restore(({name: t for name, t in tensors.items() if not name.startswith("trace.")}, plain))
    assert torch.equal(older.network.theta, chunk.network.theta) and not older.trace.recent.isfinite().any()


def test_a_rise_of_the_loss_during_training_is_found_at_its_step(digits, monkeypatch):
    """From step 100 to 129 cell 1's loss (not its gradient) is three times that of guessing."""
    step = iter(range(1, 10_000))
    real = divergence.follow

    def risen(trace, losses, done, chance_loss):
        for row in losses:
            row[1] += 3 * H if 100 <= next(step) < 130 else 0.0
        return real(trace, losses, done, chance_loss)

    monkeypatch.setattr(divergence, "follow", risen)
    results = train(
        digits,
        Job("sgdw", Cosine(), 12, False),
        cells_of("sgdw", [(0.1, 0.0), (0.1, 0.0)]),
        2,
        lambda done: None,
    )
    assert [(o.divergence, o.divergence_step) for o in results] == [(None, None), ("spike", 100)]


EPSILONS = (1e-8, 1e-4, 1e-2, 1e-1)


@pytest.mark.parametrize("inputs", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_adams_late_blow_up_is_found_and_an_epsilon_of_a_tenth_prevents_it(inputs):
    """Linear 1000 → 1, 64 samples, summed squared error, α = 1e-3, float32, 20 000 steps of full batches.

    ε̂ is added to the uncorrected √v: in Algorithm 2's terms it is ε = ε̂/√(1 − β2^t), which is set every step.
    """
    draw = torch.Generator().manual_seed(inputs)
    x, y = torch.randn(64, 1000, generator=draw), torch.randn(64, generator=draw)
    hats = torch.tensor(EPSILONS, dtype=torch.float64)
    fixed = {"lr": 1e-3, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999}
    hyper = {**{name: torch.full((4,), value, dtype=torch.float64) for name, value in fixed.items()}, "eps": hats}
    rule = Rule("adam", torch.zeros(4, 1000), hyper)
    losses, images = torch.empty(20_000, 4), x.T.contiguous()
    for t in range(1, len(losses) + 1):
        residual = rule.theta @ images - y
        losses[t - 1] = residual.square().sum(1)
        rule.hyper["eps"] = hats / math.sqrt(1 - 0.999**t)
        rule.update_(2 * residual @ x, 1.0, t)
    quietest = losses[:1000].min(0)
    later = [losses[int(quietest.indices[k]) :, k].max().item() for k in range(4)]
    assert (quietest.values < 2e-12).all()
    assert all(4e-3 < loss < 2e-2 for loss in later[:3]) and later[3] < 1e-9
    found = classify(losses, range(0, 20_000, 500), scale=y.square().sum().item())
    assert [kind for kind, _ in found] == ["late blow-up"] * 3 + [None]
    assert all(int(quietest.indices[k]) < found[k][1] < 20_000 for k in range(3))
