"""Compiled code against torch's own modules, which networks go that way, and what happens without a compiler."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.compiled import needs_compiler
from wdgrid.engine.fused.network import FusedNetwork
from wdgrid.engine.native import backend as engine_native
from wdgrid.engine.native.backend import Native
from wdgrid.engine.native.matcher import chain, computed
from wdgrid.optim.fused import Rule

pytestmark = needs_compiler


def perceptron(widths, norms, bias=True):
    layers = [nn.Flatten()]
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs, bias=bias), *[nn.BatchNorm1d(outputs, momentum=0.3)] * norms, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:]))


def native_of(module, x, y, cells, optimizer="sgd", **hyper):
    """Compiled code for `cells` cells of a module, the k-th with weights 1 + k/10 times the module's."""
    layers = chain(module, x[:8], int(y.max()) + 1)
    assert layers is not None and computed(layers, module, x[:8], y[:8])
    network = FusedNetwork(module, cells, x)
    for k in range(cells):
        network.theta[k] *= 1 + k / 10
    hyper = {"lr": 0.1, "weight_decay": 0.0, "momentum": 0.9, **hyper}
    rule = Rule(optimizer, network.theta, {name: torch.full((cells,), value) for name, value in hyper.items()})
    return network, Native(layers, network, rule, [1.0] * 4, [1.0] * 4, len(x))


@settings(max_examples=40, deadline=None)
@given(
    widths=st.lists(st.integers(1, 75), min_size=2, max_size=4),
    classes=st.integers(2, 40),
    images=st.integers(8, 61),
    norms=st.booleans(),
    bias=st.booleans(),
)
def test_losses_gradients_statistics_and_tests_are_torchs(widths, classes, images, norms, bias):
    """Whatever the widths: rows that are no whole vectors, tiles that are not full."""
    torch.manual_seed(sum(widths) + images)
    module = perceptron([*widths, classes], norms, bias).double()
    x, y = torch.randn(images, widths[0], dtype=torch.float64), torch.randint(classes, (2 * images,))[::2]
    network, native = native_of(module, x, y, cells=2)
    losses = native.gradients(x, y)
    for k in range(2):
        plain = copy.deepcopy(module)
        with torch.no_grad():
            for parameter in plain.parameters():
                parameter *= 1 + k / 10
        loss = F.cross_entropy(plain(x), y)
        loss.backward()
        assert float(losses[k]) == pytest.approx(loss.item(), rel=1e-11)
        for name, parameter in plain.named_parameters():
            torch.testing.assert_close(network.gradients[name][k], parameter.grad, rtol=1e-9, atol=1e-12)
        for name, buffer in plain.named_buffers():
            torch.testing.assert_close(network.buffers[name][k], buffer, rtol=1e-12, atol=1e-14)
        logits = plain.eval()(x)
        errors, sums = native.test([(x[:7], y[:7]), (x[7:], y[7:])])
        assert float(sums[k]) == pytest.approx(F.cross_entropy(logits, y, reduction="sum").item(), rel=1e-11)
        assert int(errors[k]) == int((logits.argmax(1) != y).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_is_right_where_logits_are_far_apart(dtype):
    """exp() of large differences is zero, and neither it nor the sum overflows."""
    module = nn.Sequential(nn.Linear(1, 3, bias=False)).to(dtype)
    x, y = torch.ones(8, 1, dtype=dtype), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    network, native = native_of(module, x, y, cells=1)
    for logits in ([0.0, 800.0, -800.0], [1e4, 1e4, -1e4], [-90.0, -3.0, 30.0], [5e-3, 0.0, -5e-3]):
        network.theta[0, :3] = torch.tensor(logits, dtype=dtype)
        expected = F.cross_entropy(network.theta[0, :3].double().expand(8, 3), y).item()
        assert float(native.gradients(x, y)[0]) == pytest.approx(expected, rel=10 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_a_number_comes_through_and_stays_in_its_cell(bad):
    torch.manual_seed(0)
    module = perceptron([5, 20, 4], norms=True).double()
    x, y = torch.randn(9, 5, dtype=torch.float64), torch.randint(4, (9,))
    after = []
    for spoilt in (False, True):
        network, native = native_of(module, x, y, cells=3, optimizer="adamw", beta1=0.9, beta2=0.999, eps=1e-8)
        native.train(lambda _: (x, y), 0, 2)
        if spoilt:
            network.parameters["1.weight"].data[1, 3, 2] = bad
        losses = native.train(lambda _: (x, y), 2, 2)
        errors, sums = native.test([(x, y)])
        after.append((network.theta[[0, 2]], losses[:, [0, 2]], errors[[0, 2]], sums[[0, 2]]))
        assert torch.isfinite(losses[:, [0, 2]]).all()
    assert not torch.isfinite(losses[:, 1]).any() and torch.isnan(losses[1, 1]) and torch.isnan(sums[1])
    assert network.theta[1].eq(0).all()
    assert all(map(torch.equal, *after))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_steps_do_not_depend_on_how_many_go_into_a_call(monkeypatch, optimizer):
    torch.manual_seed(0)
    module = perceptron([5, 20, 4], norms=True).double()
    x, y = torch.randn(4, 9, 5, dtype=torch.float64), torch.randint(4, (4, 9))
    after = []
    for block in (1, 9 * 5 * 8 * 3, 1024**2):  # one step a call, three, all
        monkeypatch.setattr(engine_native, "BLOCK_BYTES", block)
        network, native = native_of(module, x[0], y[0], cells=2, optimizer=optimizer, beta1=0.9, beta2=0.9, eps=1e-8)
        losses = native.train(lambda i: (x[i], y[i]), 0, 4)
        assert network.buffers["2.num_batches_tracked"].tolist() == [4, 4]
        after.append((losses, network.theta.clone(), network.buffers["2.running_var"].clone()))
    for other in after[1:]:
        assert all(map(torch.equal, after[0], other))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(F.relu(self.first(torch.flatten(x, 1))))


class Methods(Functional):
    def forward(self, x):
        return self.last(self.first(x.flatten(1)).relu())


class Twice(Functional):
    def forward(self, x):
        return self.last(F.relu(self.first(torch.relu(F.pad(self.first(x), (0, 1))))))


class Residual(Functional):
    def forward(self, x):
        x = self.first(x)
        return self.last(x + F.relu(x))


class OnlyInTests(Functional):
    def forward(self, x):
        x = self.first(x)
        return self.last(F.relu(x) if self.training else x)


def _frozen():
    module = Functional()
    module.first.weight.requires_grad_(False)
    return module


@pytest.mark.parametrize(
    ("module", "is_chain"),
    [
        (Functional(), True),
        (Methods(), True),
        (nn.Sequential(nn.Linear(6, 3)), True),
        (Twice(), False),
        (Residual(), False),
        (OnlyInTests(), False),
        (_frozen(), False),
        (nn.Sequential(nn.Linear(6, 4), nn.GELU(), nn.Linear(4, 3)), False),
        (nn.Sequential(nn.Linear(6, 4), nn.Dropout(), nn.Linear(4, 3)), False),
        (nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 3)), False),
        (nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 3)), False),
        (nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)), False),
        (nn.Sequential(nn.Linear(6, 3), nn.ReLU()), False),  # the loss works in the last layer's place
        (nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), False),
        (nn.Sequential(nn.Linear(6, 500), nn.Linear(500, 400), nn.Linear(400, 3)), True),
        (nn.Sequential(nn.Linear(6, 500), nn.Linear(500, 600), nn.Linear(600, 3)), False),  # too large for it
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_chains_of_known_layers_are_compiled(module, is_chain):
    x, y = torch.randn(8, 6), torch.randint(3, (8,))
    found = chain(module, x, 3)
    assert (found is not None) == is_chain
    assert found is None or computed(found, module, x, y)
    assert chain(module, x, 4) is None  # a class without an output
    assert chain(module, torch.randn(8, 7), 3) is None  # an input too many
