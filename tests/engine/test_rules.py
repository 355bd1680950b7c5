"""Every stacked rule against the module itself, in float64, and equal cells in every slot, in float32."""

import copy

import pytest
import torch
from torch import nn

from helpers.layer_table import MAPS, TOKENS, WITHOUT_RULE, table
from helpers.small_networks import WHOLE
from wdgrid.engine import Workbench, randomness
from wdgrid.engine.fused.network import FusedNetwork, Kind
from wdgrid.engine.fused.verification import same_bits_in_all_slots
from wdgrid.study.sections import Task

BATCH = 5
STACKED = Kind("stacked", random=True)
WIDTHS = 8, 9
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def built(make, shape, dtype=torch.float64):
    """A network whose lazy layers know their width, and a batch."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, *shape, dtype=dtype)
    module = make().to(dtype)
    module(x)
    return module, x


def assert_equal(module, x, cells):
    """Logits, gradients and buffers of different cells, in training and in tests; twice, for buffers change."""
    fused = FusedNetwork(module, cells, x, STACKED)
    plain = [copy.deepcopy(module) for _ in range(cells)]
    for k in range(cells):
        fused.theta[k] *= 1 + 0.1 * k
        with torch.no_grad():
            for parameter in plain[k].parameters():
                if parameter.requires_grad:
                    parameter *= 1 + 0.1 * k
    for noise in (1, 2):
        logits = fused(x, training=True, noise=noise)
        fused.backward(logits.square().mean((1, 2)))
        for k, one in enumerate(plain):
            randomness.seed(randomness.generators(x.device), noise)
            expected = one.train()(x)
            torch.testing.assert_close(logits[k], expected, **CLOSE)
            one.zero_grad()
            expected.square().mean().backward()
            for name, parameter in one.named_parameters():
                if parameter.requires_grad:
                    own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    torch.testing.assert_close(
                        fused.gradients[name][k], own, **CLOSE, msg=lambda m, n=name: f"{n}: {m}"
                    )
            for name, buffer in one.named_buffers():
                torch.testing.assert_close(fused.buffers[name][k], buffer, **CLOSE)
        with torch.no_grad():
            tested = fused(x, training=False, noise=noise)
            for k, one in enumerate(plain):
                randomness.seed(randomness.generators(x.device), noise)
                torch.testing.assert_close(tested[k], one.eval()(x), **CLOSE)
    return fused


@pytest.mark.parametrize("width", WIDTHS)
def test_every_rule_is_the_layer(width):
    wrong, rules = [], 0
    for name, network, shape in table(width):
        for cells in (1, 2, 7):
            module, x = built(lambda network=network: network, shape)
            try:
                fused = assert_equal(module, x, cells)
                assert fused.fallback == ()
            except Exception as error:
                wrong.append(f"{name}, K = {cells}: {type(error).__name__}: {error}")
        rules += 1
    assert not wrong, "\n".join(wrong)
    assert rules > 85


@pytest.mark.parametrize("products", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("width", [*WIDTHS, 17])
def test_equal_cells_are_equal_in_every_slot(width, products):
    differ = []
    for name, network, shape in table(width):
        for cells in (2, 7):
            module, x = built(lambda network=network: network, shape, torch.float32)
            fused = FusedNetwork(module, cells, x, STACKED, products)
            if not same_bits_in_all_slots(fused, x, torch.arange(BATCH)):
                differ.append(f"{name}, K = {cells}")
    assert differ == []


@pytest.mark.parametrize("width", WIDTHS)
def test_frozen_parameters_stay_stacked(width):
    """Every other parameter is frozen."""
    wrong = []
    for name, network, shape in table(width):
        module, x = built(lambda network=network: network, shape)
        for parameter in [*module.parameters()][:-1:2]:
            parameter.requires_grad_(False)
        try:
            assert assert_equal(module, x, 2).fallback == ()
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)


class Twice(nn.Module):
    """Layers that are called twice, and one parameter in two layers."""

    def __init__(self, *layers, shape):
        super().__init__()
        self.layers, self.shape = nn.Sequential(*layers), shape
        self.one, self.two, self.last = nn.Linear(10, 10), nn.Linear(10, 10), nn.LazyLinear(10)
        self.two.weight = self.one.weight

    def forward(self, x):
        x = self.layers(self.layers(x))
        return self.two(torch.tanh(self.one(self.last(x.flatten(1)))))


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((nn.Linear(7, 7), nn.LayerNorm(7), nn.RMSNorm(7), nn.GELU()), TOKENS),
        ((nn.Conv2d(3, 3, 3, padding=1), nn.GroupNorm(3, 3), nn.SiLU()), MAPS),
        ((nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()), MAPS),
        ((nn.TransformerEncoderLayer(7, 1, 5, batch_first=True),), TOKENS),
    ],
)
def test_gradients_of_shared_parameters_are_added(layers, shape):
    for cells in (1, 2, 7):
        module, x = built(lambda: Twice(*layers, shape=shape), shape)
        assert assert_equal(module, x, cells).fallback == ()
    module, x = built(lambda: Twice(*layers, shape=shape), shape, torch.float32)
    assert same_bits_in_all_slots(FusedNetwork(module, 7, x, STACKED), x, torch.arange(BATCH))


@pytest.mark.parametrize("name", WITHOUT_RULE)
def test_a_node_without_a_rule_runs_a_cell_at_a_time(name):
    for width in WIDTHS:
        shape = MAPS if name.startswith("maps") else TOKENS
        for cells in (1, 2, 7):
            module, x = built(lambda width=width: WITHOUT_RULE[name](width), shape)
            fallback = assert_equal(module, x, cells).fallback
            assert 1 <= len(fallback) <= 2, fallback
        module, x = built(lambda width=width: WITHOUT_RULE[name](width), shape, torch.float32)
        assert same_bits_in_all_slots(FusedNetwork(module, 7, x, STACKED), x, torch.arange(BATCH))


@pytest.mark.parametrize("name", WHOLE)
def test_whole_networks(name):
    for cells in (1, 2, 7):
        module, x = built(WHOLE[name], (1, 8, 8))
        fused = assert_equal(module, x, cells)
        assert fused.fallback == (("rnn (LSTM)",) if name == "LSTM" else ("rnn (GRU)",) if name == "GRU" else ())
    module, x = built(WHOLE[name], (1, 8, 8), torch.float32)
    assert same_bits_in_all_slots(FusedNetwork(module, 7, x, STACKED), x, torch.arange(BATCH))
    assert FusedNetwork(module, 2, x).backend == "stacked"


def test_the_probe_names_the_nodes_without_a_rule():
    task = Task(model="helpers.small_networks:Recurrent", batch_size=25, epochs=1, train_size=50, device="cpu")
    bench = Workbench(task)
    probe = bench.probe(3)
    assert (probe.backend, probe.fallback) == ("stacked", ("rnn (LSTM)",))
    assert probe.slots_compared and not probe.slots_differ and bench.probe(3) is probe
    assert Workbench(task.model_copy(update={"model": "helpers.small_networks:mixer"})).probe(1).fallback == ()


class Unmapped(nn.Module):
    """A hook, which torch.fx does not see, with an operator for which vmap has no rule."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(7, 6), nn.Linear(6, 10)
        self.first.register_forward_hook(lambda layer, x, y: y + y.detach().renorm(2, 0, 0.5))

    def forward(self, x):
        return self.last(self.first(x[:, 0]))


def test_no_warning_of_torch_is_printed(recwarn):
    module, x = built(Unmapped, TOKENS)
    fused = FusedNetwork(module, 3, x)
    assert fused.backend == "vmap"
    fused.backward(fused(x, training=True).square().mean((1, 2)))
    assert [str(warning.message) for warning in recwarn] == []
