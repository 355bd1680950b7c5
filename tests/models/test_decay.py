"""Decay by parameter: patterns on names, every variant against parameter groups, L2 as a term of the loss."""

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.commands import study_toml
from helpers.plain import train_plain
from helpers.problems import problem
from helpers.synthetic_tables import SMALL as SYNTHETIC
from helpers.synthetic_tables import make_study, make_table
from helpers.training import cells_of, numbers, rate_of, run
from wdgrid import data as datasets
from wdgrid import models
from wdgrid.cli import main
from wdgrid.engine import Job, Workbench
from wdgrid.engine.fused.network import FusedNetwork
from wdgrid.errors import ModelError
from wdgrid.models.decay import multipliers, parts
from wdgrid.optim import algorithms
from wdgrid.optim.fused import Rule
from wdgrid.optim.schedule import etas
from wdgrid.optim.variants import VARIANTS
from wdgrid.report.captions import caption_lines
from wdgrid.report.findings import groups_warning
from wdgrid.report.grids import grids
from wdgrid.study import Study
from wdgrid.study.file import differences, only_adds
from wdgrid.study.sections import Constant, Cosine, Task

TASK = SYNTHETIC["task"]
SMALL = {"model_args": {"hidden": [12]}, "batch_size": 25, "epochs": 2, "train_size": 100, "device": "cpu"}
TUTORIAL = {"*": 0.0, "1.weight": 1.0, "@bias": 0.5}  # 2.* is batch norm


def decayed(name):
    return {"1.weight": 1.0, "2.bias": 0.5, "4.bias": 0.5}.get(name, 0.0)


class OwnNorm(nn.BatchNorm1d):
    pass


class Mixed(nn.Module):
    """Names that say nothing, and some that mislead."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), OwnNorm(4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4))
        self.attention = nn.MultiheadAttention(4, 2)
        self.normal = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4))


def test_norm_and_bias_are_known_without_names():
    found = multipliers(Mixed(), {"@bias": 0.5, "@norm": 0.0})
    norms = {f"body.{i}.{p}" for i in (1, 2, 3) for p in ("weight", "bias")} | {"body.4.weight"}
    biases = {"body.0.bias", "attention.in_proj_bias", "attention.out_proj.bias", "normal.bias"}
    assert {name for name, m in found.items() if m == 0.0} == norms
    assert {name for name, m in found.items() if m == 0.5} == biases
    assert {m for name, m in found.items() if name not in norms | biases} == {1.0}
    assert list(found) == [name for name, _ in Mixed().named_parameters()]


def test_frozen_parameters_do_not_decay():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    assert list(multipliers(network, {"*.weight": 0.5}).values()) == [0.5, 1.0]
    with pytest.raises(ModelError, match=r"matches 0\.\*; it has 1\.weight, 1\.bias$"):
        multipliers(network, {"0.*": 0.0})


def test_of_several_patterns_the_last_one_counts():
    network = nn.ModuleDict({f"fc{i}": nn.Linear(2, 2) for i in (3, 4, 5)})
    tutorial = {"*": 0.0, "fc3.weight": 1.0, "fc4.weight": 1.0}
    assert [n for n, m in multipliers(network, tutorial).items() if m] == ["fc3.weight", "fc4.weight"]
    assert set(multipliers(network, {"fc3.weight": 1.0, "*": 0.0}).values()) == {0.0}
    assert multipliers(network, {"fc[34].*": 2.0, "*.bias": 0.25}) == {
        "fc3.weight": 2.0, "fc3.bias": 0.25, "fc4.weight": 2.0, "fc4.bias": 0.25, "fc5.weight": 1.0, "fc5.bias": 0.25,
    }  # fmt: skip


def test_patterns_that_match_nothing_are_refused_with_the_names_there_are():
    with pytest.raises(ModelError) as caught:
        multipliers(nn.Sequential(nn.Linear(2, 2)), {"*.weight": 0, "@norm": 0, "fc.*": 0})
    assert str(caught.value) == (
        "task.decay_multipliers: no parameter of the network matches @norm, fc.*; it has 0.weight, 0.bias"
    )


STUDY = study_toml('model_args = { hidden = [8] }\ntrain_size = 100\ndevice = "cpu"', "1..1/2", "0, 1", adamw=1.0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ('{"*.bais"=0}', "no parameter of the network matches *.bais; it has 1.weight, 2.weight, 2.bias, 4.weight"),
        ('{"@layer"=0}', "task.decay_multipliers.@layer = 0.0: the names with @ are @norm and @bias"),
        ('{"*"=-1}', "task.decay_multipliers.* = -1: input should be greater than or equal to 0"),
        ('{"*"=nan}', "task.decay_multipliers.* = NaN"),
        ("3", "task.decay_multipliers = 3"),
    ],
)
def test_bad_multipliers_are_one_line_and_status_2(tmp_path, capsys, given, says):
    (tmp_path / "small.toml").write_text(STUDY)
    assert main(["plan", str(tmp_path / "small.toml"), "--set", f"task.decay_multipliers={given}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


@pytest.mark.slow
def test_a_sweep_refuses_them_before_it_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(STUDY)
    assert main(["sweep", "small.toml", "--set", 'task.decay_multipliers={"*.bais"=0}']) == 2
    assert "it has 1.weight, 2.weight, 2.bias" in capsys.readouterr().err


@given(values=st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=3, max_size=3))
@settings(max_examples=30, deadline=None)
def test_parts_cover_every_column_once(values):
    network = FusedNetwork(nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2, bias=False)), 2, torch.randn(4, 5))
    by_name = dict(zip(network.columns, values, strict=True))
    found = parts(network.columns, by_name)
    for (before, m), (after, other) in pairwise(found):
        assert before.stop == after.start and m != other
    assert (found[0][0].start, found[-1][0].stop) == (0, network.theta.shape[1])
    for name, m in by_name.items():  # the parameter's own numbers, wherever it lies
        network._view(network.theta, name).fill_(m)
    network.gradient.zero_()
    for columns, m in found:
        network.gradient[:, columns] = m
    assert all(torch.equal(network._view(network.gradient, n), network._view(network.theta, n)) for n in by_name)


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("optimizer", VARIANTS)
def test_fast_twin_follows_the_reference_where_parameters_decay_differently(optimizer, kernel):
    theta, hyper, gradients = problem(optimizer)
    places = [(slice(0, 16), 1.0), (slice(16, 24), 0.0), (slice(24, 40), 0.25)]
    vector = torch.cat([torch.full((columns.stop - columns.start,), m).double() for columns, m in places])
    table = etas(Cosine(), 6, 10)
    rule = Rule(optimizer, theta.clone(), hyper, places)
    if not kernel:
        rule.kernel = None
    state = ()
    for t, gradient in enumerate(gradients, start=1):
        theta, state = algorithms.step(optimizer, theta, gradient, state, hyper, table[t - 1], t, vector)
        rule.update_(gradient.clone(), table[t - 1], t)
        torch.testing.assert_close(rule.theta, theta, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(rule.decayed_squares(), (vector * theta**2).sum(dim=1), rtol=1e-12, atol=0)


@pytest.fixture(scope="module")
def tutorial() -> Workbench:
    return Workbench(Task(**SMALL, precision="float64", decay_multipliers=TUTORIAL))


@pytest.mark.parametrize("optimizer", VARIANTS)
def test_a_chunk_is_a_loop_over_parameter_groups(tutorial, optimizer):
    """torch.optim's own groups for Adam, written out for the rest (tests/plain.py)."""
    unit = rate_of(optimizer)
    cells = cells_of(optimizer, [unit, unit / 2, unit], [0.02, 0.1, 0.0])
    job = Job(optimizer, Cosine(), 2, False)
    for cell, outcome in zip(cells, run(tutorial, job, cells, 3), strict=True):
        expected = train_plain(tutorial, job, cell, decayed)
        for name, value in expected.items():
            assert getattr(outcome, name) == pytest.approx(value, rel=1e-9, abs=1e-12), (name, cell)


@pytest.mark.parametrize("optimizer", VARIANTS)
def test_multipliers_of_one_change_no_bit(optimizer):
    cells = cells_of(optimizer, [0.01, 0.1], [0.03, 0.01])
    job = Job(optimizer, Cosine(), 2, False)
    plain, ones = (Workbench(Task(**SMALL, decay_multipliers=m)) for m in ({}, {"*": 0.0, "@norm": 1.0, "[14].*": 1.0}))
    assert [numbers(o) for o in run(plain, job, cells, 2)] == [numbers(o) for o in run(ones, job, cells, 2)]


def test_l2_is_a_term_of_the_loss(tutorial):
    """½ λ Σ m_i θ_i² added to the cross-entropy: its gradient is the L2 variants' λ m θ, its value the l2_term."""
    lam, factors = 0.05, tutorial.probe(1).decay_multipliers
    network = tutorial.network(seed=0, cells=1)
    x, y = tutorial.data.prepared(tutorial.data.train_x[:25]), tutorial.data.train_y[:25]
    network.backward(nn.functional.cross_entropy(network(x, training=True)[0], y)[None])
    gradients = {name: network.gradient[0, columns] for name, columns in network.columns.items()}
    plain = models.build(tutorial.task, x.shape[1:], tutorial.data.classes, seed=0).to(x)
    term = torch.zeros((), dtype=torch.float64)
    for name, p in plain.named_parameters():
        term = term + lam * factors[name] * (p**2).sum() / 2  # as TensorFlow's l2_loss
    (nn.functional.cross_entropy(plain(x), y) + term).backward()
    for name, p in plain.named_parameters():
        form = gradients[name][: p.numel()] + (lam * factors[name] * p).flatten()
        torch.testing.assert_close(form, p.grad.flatten(), rtol=1e-12, atol=1e-14)
    rule = Rule("sgd", network.theta, {}, parts(network.columns, factors))
    assert (lam / 2 * rule.decayed_squares()).item() == pytest.approx(term.item(), rel=1e-12)


def test_training_on_the_sum_of_losses_is_training_with_l2(tutorial):
    """A user who adds the term to the loss gets the same weights and, at the end, the same term."""
    lam, rate = 0.05, 0.1
    (cell,) = cells_of("sgd", [rate], [lam])
    (outcome,) = run(tutorial, Job("sgd", Constant(), 2, False), [cell], 1)
    network = models.build(tutorial.task, tutorial.data.train_x.shape[1:], 10, cell.seed).double()
    torch_sgd = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9)

    def term():
        return lam * sum(decayed(name) * (p**2).sum() / 2 for name, p in network.named_parameters())

    for epoch in range(2):
        batches = datasets.epoch(tutorial.data, cell.seed, epoch, 25)
        for i in range(tutorial.steps_per_epoch):
            x, y = batches(i)
            torch_sgd.zero_grad()
            (nn.functional.cross_entropy(network(x), y) + term()).backward()
            torch_sgd.step()
    norm = torch.cat([p.detach().flatten() for p in network.parameters()]).norm().item()
    assert outcome.weight_norm == pytest.approx(norm, rel=1e-10)
    assert outcome.l2_term == pytest.approx(term().item(), rel=1e-10)


def test_multipliers_are_part_of_a_study_only_where_given():
    study = make_study()
    same = make_study(task=TASK | {"decay_multipliers": {}})
    assert "decay_multipliers" not in study.identity()["task"] and same.digest() == study.digest()
    given = make_study(task=TASK | {"decay_multipliers": {"*": 0, "@bias": 1}})
    turned = make_study(task=TASK | {"decay_multipliers": {"@bias": 1, "*": 0}})
    assert len({study.digest(), given.digest(), turned.digest()}) == 3
    assert Study.model_validate_json(given.canonical()) == given
    assert not only_adds(given.canonical(), turned)
    assert differences(given.canonical(), turned) == [
        'task.decay_multipliers: was [["*", 0.0], ["@bias", 1.0]]; is now [["@bias", 1.0], ["*", 0.0]]'
    ]
    assert json.loads(study.canonical())["task"]["decay_multipliers"] == {}


def test_a_report_says_what_decays():
    study = make_study(task=TASK | {"decay_multipliers": {"@norm": 0, "@bias": 0.5}})
    lines = caption_lines(study, "small", grids(study, make_table(study)), "")
    words = "Decay multipliers by parameter name (the last pattern that matches counts)"
    assert f"{words}:  @norm × 0, @bias × 0.5" in lines
    assert groups_warning(study) == "for parameter groups multiply the decay: @norm × 0, @bias × 0.5"
    assert groups_warning(make_study()) == ""
    assert not any("multiplied" in line for line in caption_lines(make_study(), "small", [], ""))
