"""Equal cells are equal to the bit in every slot of a chunk: all layers, odd and even widths, several processors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.commands import study_toml, trials, wdgrid
from wdgrid.engine import Job, Workbench, processor, train, workbench
from wdgrid.engine.fused.network import CELLS, FusedNetwork, Kind
from wdgrid.engine.fused.verification import same_bits_in_all_slots
from wdgrid.models.resnet import resnet
from wdgrid.models.shake import shake_shake
from wdgrid.models.tf_tutorial import tf_tutorial
from wdgrid.optim.fused import Rule
from wdgrid.optim.variants import VARIANTS
from wdgrid.study import Cell
from wdgrid.study.sections import Constant, Task

SMOOTH = [
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.SiLU(inplace=True),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.ELU(),
    nn.Softplus(),
]
POOLS = [nn.MaxPool2d(2), nn.AvgPool2d(3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((2, 3)), nn.Identity()]
BATCH = 25


class Branches(nn.Module):
    """A sum, a concatenation, and dropout of numbers and of maps."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, width, 3), nn.Conv2d(3, width, 3)
        self.maps, self.numbers, self.last = nn.Dropout2d(0.3), nn.Dropout(0.2), nn.LazyLinear(10)

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        x = torch.cat([self.maps(a + b), torch.tanh(b)], 1)
        return self.last(self.numbers(x.flatten(1)))


def mlp(width, between, after):
    return nn.Sequential(nn.Linear(12, width), between, nn.Linear(width, after), nn.ReLU(), nn.Linear(after, 10))


def cnn(width, *layers):
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), *layers, nn.Flatten(), nn.LazyLinear(9), nn.Linear(9, 10))


def networks():
    """Name, network and shape of an image: every stacked layer at odd and even widths."""
    for width in (5, 8, 9, 16, 17, 64, 65):
        for after in (8, 17, 100):
            yield f"linear {width} {after}", mlp(width, nn.ReLU(), after), (12,)
        yield f"batch norm {width}", mlp(width, nn.Sequential(nn.BatchNorm1d(width), nn.ReLU()), 9), (12,)
        for layer in SMOOTH:
            yield f"{layer} {width}", mlp(width, layer, 9), (12,)
    for width in (3, 4, 8, 17):
        for layer in (*POOLS, nn.GELU(), nn.ELU(), nn.LocalResponseNorm(3), nn.LocalResponseNorm(4)):
            yield f"{layer} maps {width}", cnn(width, layer), (3, 9, 7)
        yield f"batch norm maps {width}", cnn(width, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)), (3, 9, 7)
        yield f"strided {width}", cnn(width, nn.Conv2d(width, width + 1, 3, 2), nn.SiLU()), (3, 9, 7)
        yield f"branches {width}", Branches(width), (3, 9, 7)
    for width in (3, 4):
        yield f"resnet {width}", resnet(3, 10, depth=8, width=width), (3, 8, 8)
        yield f"shake {width}", shake_shake(3, 10, depth=8, width=width, level="image"), (3, 8, 8)
    yield "tutorial", tf_tutorial(3, 12, 12, 10), (3, 12, 12)


def unequal(dtype, products, cells):
    """Names of the networks of which equal cells end a step in other bits, and how many were tried."""
    torch.manual_seed(0)
    tried = []
    for name, module, shape in networks():
        x, y = torch.randn(BATCH, *shape, dtype=dtype), torch.randint(0, 10, (BATCH,))
        module.to(dtype)(x)  # lazy layers learn their width
        fused = FusedNetwork(module, cells, x, Kind("stacked", True), products)
        tried.append((name, same_bits_in_all_slots(fused, x, y)))
    return [name for name, same in tried if not same], len(tried)


@pytest.mark.parametrize(
    ("dtype", "products"),
    [(torch.float32, None), (torch.float32, torch.bfloat16), (torch.float64, None)],
    ids=["float32", "bfloat16", "float64"],
)
def test_equal_cells_are_equal_in_every_slot(dtype, products):
    for cells in (2, 7):
        names, tried = unequal(dtype, products, cells)
        assert names == [] and tried > 120


@pytest.mark.slow
@pytest.mark.parametrize(
    "instructions",
    [
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
        {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
        {"MKL_CBWR": "AVX512,STRICT"},
    ],
    ids=["AVX2", "SSE4.1", "AVX512,STRICT"],
)
def test_with_other_instructions_too(instructions):
    assert elsewhere(instructions) == []


def elsewhere(environment):
    """`unequal` of seven cells in float32, in a process of its own with these variables."""
    code = "import json, torch, test_slots as t; torch.set_num_threads(1)\n"
    code += "print(json.dumps(t.unequal(torch.float32, None, 7)[0]))"
    given = {**{k: v for k, v in os.environ.items() if k != processor.MODE}, **environment}
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    run = subprocess.run(
        [sys.executable, "-c", code], env={**given, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.slow
@pytest.mark.skipif(processor.is_intel(), reason="on Intel's processors MKL was not seen to round by slot")
def test_the_comparison_sees_cells_that_differ():
    """Without a mode, MKL rounds by alignment on this processor; an empty variable is none, and is left as it is."""
    assert any(name.startswith("linear") for name in elsewhere({processor.MODE: ""}))


@pytest.mark.parametrize("optimizer", list(VARIANTS))
@pytest.mark.parametrize("width", [16, 48, 80, 144])
def test_an_optimizer_step_is_the_same_in_every_slot(optimizer, width):
    """Of rows that fill whole registers, and of some that leave half a block over."""
    torch.manual_seed(1)
    cells = 7
    theta = torch.randn(width).repeat(cells, 1)
    hyper = {"lr": 0.013, "weight_decay": 0.07, **VARIANTS[optimizer].defaults}
    rule = Rule(optimizer, theta, {n: torch.full((cells,), v, dtype=torch.float64) for n, v in hyper.items()})
    for t in range(1, 6):
        rule.update_(torch.randn(width).repeat(cells, 1), 0.7, t)
    for tensor in (theta, *rule.state):
        assert torch.equal(tensor, tensor[:1].expand_as(tensor))


def odd():
    """The network of the issue: widths 9 and 17, GELU."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.GELU(), nn.Linear(9, 17), nn.GELU(), nn.Linear(17, 10))


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return Workbench(Task(model="test_slots:odd", batch_size=25, epochs=1, train_size=60, device="cpu"))


def test_where_slots_differ_a_slower_backend_trains_the_same_cells(bench, monkeypatch):
    monkeypatch.setattr(workbench, "same_bits_in_all_slots", lambda fused, x, y: fused.backend != "stacked")
    assert bench.network(0, 1).backend == "stacked"  # alone, no cell has another slot
    assert bench.network(0, 3).backend == "vmap"
    assert bench.probe(3).slots_differ and "differed" in bench.probe(3).slots
    cells = [Cell("p", 0, {"lr": lr, "weight_decay": 0.0, "momentum": 0.9}, (str(lr), "0")) for lr in (0.1, 0.05)]
    job = Job("sgd", Constant(), 1, False)
    one, two = (train(bench, job, c, 3, lambda done: None) for c in (cells, cells[::-1]))
    assert [o.test_loss for o in one] == [o.test_loss for o in two[::-1]]


def test_the_last_backend_is_not_compared(bench, monkeypatch):
    monkeypatch.setattr(workbench, "same_bits_in_all_slots", lambda *_: False)
    assert bench.network(0, CELLS).backend == "one by one"


MINE = """\
import os
from pathlib import Path
import torch
from torch import nn

def odd():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.GELU(), nn.Linear(9, 17), nn.GELU(), nn.Linear(17, 10))

def maps():
    first = nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 5, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(2)
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(20, 9), nn.ReLU(), nn.Linear(9, 10))

def without_mode():
    if not (asked := Path("asked")).exists():
        asked.touch()
        del os.environ["MKL_CBWR"]
    from sklearn.datasets import load_digits
    x, y = map(torch.from_numpy, load_digits(return_X_y=True))
    x = x.reshape(-1, 1, 8, 8).float() / 16
    return x[:200], y[:200], x[200:400], y[200:400]
"""


def orders(here, task):
    """The tables of one study, trained with its axis values in one order and in the other."""
    (here / "mine.py").write_text(MINE)
    task = f'{task}\nbatch_size = 25\nepochs = 2\ndevice = "cpu"'
    for name, lr, weight_decay in (("one", "1..1/8", "0, 1/4..4"), ("two", "1/8, 1/4, 1/2, 1", "4, 2, 1, 1/2, 1/4, 0")):
        (here / f"{name}.toml").write_text(study_toml(task, lr, weight_decay, 0.016, sgd=1.0, adamw=0.1))
        done = wdgrid("sweep", f"{name}.toml", "--workers", "1", "--quiet", cwd=here)
        assert done.returncode == 0, done.stderr
    return trials(here, "one"), trials(here, "two")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["odd", "maps"])
def test_a_study_in_another_order_of_its_cells_is_the_same_study(tmp_path, model):
    one, two = orders(tmp_path, f'model = "mine:{model}"\ntrain_size = 100')
    assert len(one) == 48 and one.to_csv() == two.to_csv()


@pytest.mark.slow
def test_a_worker_whose_cells_differ_is_started_again_in_a_strict_mode(tmp_path):
    """The first worker multiplies without a mode, as on Intel's processors."""
    one, two = orders(tmp_path, 'model = "mine:odd"\ndataset = "mine:without_mode"')
    assert one.to_csv() == two.to_csv()
    mode = json.loads(wdgrid("show", "one", "--json", cwd=tmp_path).stdout)["environment"]["mkl_mode"]
    assert mode == "default" if processor.is_intel() else mode.endswith("STRICT")
