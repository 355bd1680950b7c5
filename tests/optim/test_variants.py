"""The table of variants: it agrees with the algorithms and their twins, and is all that a new variant needs."""

import ast
from pathlib import Path

import pytest
import torch

from helpers.compiled import needs_compiler
from helpers.problems import problem
from helpers.training import bench_of, cells_of, numbers, run
from wdgrid.cli import main
from wdgrid.engine import Job
from wdgrid.optim import algorithms, fused
from wdgrid.optim.algorithms import ALGORITHMS
from wdgrid.optim.conversion import convert
from wdgrid.optim.fused import UPDATES, Rule, Update
from wdgrid.optim.variants import VARIANTS, Decay, Variant
from wdgrid.report.captions import panel_title
from wdgrid.report.grids import axis_title
from wdgrid.study import Study
from wdgrid.study.sections import Constant, Cosine

SMALL = {"model_args": {"hidden": [12]}, "batch_size": 25, "epochs": 2, "train_size": 110, "precision": "float64"}
PACKAGE = Path(algorithms.__file__).parents[1]


def test_the_three_tables_have_the_same_variants():
    assert set(VARIANTS) == set(ALGORITHMS) == set(UPDATES)
    assert [variant.name for variant in VARIANTS.values()] == list(VARIANTS)
    assert {name: function.__name__ for name, function in ALGORITHMS.items()} == {
        n: n.replace("-", "_") for n in VARIANTS
    }


def compared(node):
    """Strings that code branches on or looks something up by."""
    match node:
        case ast.Compare():
            near = [node.left, *node.comparators]
        case ast.Dict():
            near = node.keys
        case ast.Call(func=ast.Attribute(attr="startswith" | "endswith" | "removesuffix" | "removeprefix")):
            near = node.args
        case ast.MatchValue():
            near = [node.value]
        case _:
            return
    for inner in (inner for one in near if one for inner in ast.walk(one)):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value


def test_only_the_tables_know_a_variant_by_its_name():
    tables = {PACKAGE / "optim" / name for name in ("algorithms.py", "fused.py")}
    asked = {
        f"{path.relative_to(PACKAGE)}: {text}"
        for path in set(PACKAGE.rglob("*.py")) - tables
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for text in compared(node)
        if text in VARIANTS or text == "-torch"
    }
    assert asked == set()


def signsgdw(theta, gradient, state, hyper, eta, t):
    """Without any state: what no other variant is."""
    return theta - eta * (hyper.lr * gradient.sign() + hyper.weight_decay * theta), ()


def _sign_(theta, state, g, now):
    theta.addcmul_(g.sign_(), now["-rate"])


@pytest.fixture
def sign(monkeypatch):
    """All that it needs: one record, one algorithm, one fused update."""
    record = Variant("signsgdw", "SignSGDW", None, Decay.PAPER, {})
    monkeypatch.setitem(VARIANTS, record.name, record)
    monkeypatch.setitem(ALGORITHMS, record.name, signsgdw)
    monkeypatch.setitem(UPDATES, record.name, Update((), lambda hyper, rate, eta, t: {"-rate": -rate}, _sign_))
    return record.name


def test_a_new_variant_follows_its_algorithm(sign):
    theta, hyper, gradients = problem(sign)
    rule, state = Rule(sign, theta.clone(), hyper), ()
    for t, gradient in enumerate(gradients, start=1):
        theta, state = algorithms.step(sign, theta, gradient, state, hyper, 0.5, t)
        rule.update_(gradient.clone(), 0.5, t)
    torch.testing.assert_close(rule.theta, theta, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("backend", ["stacked", pytest.param("native", marks=needs_compiler)])
def test_a_new_variant_trains_beside_a_cell_that_diverges(sign, backend):
    bench = bench_of(backend, **SMALL)
    calm = cells_of(sign, [0.01, 0.003, 0.01], [0.0, 0.02, 0.5])
    loud = [*calm[:2], *cells_of(sign, [1e308], [0.0])]
    one, two = (run(bench, Job(sign, Cosine(), 2, False), cells, 3) for cells in (calm, loud))
    assert two[2].diverged_at is not None
    assert [numbers(o) for o in one[:2]] == [numbers(o) for o in two[:2]]
    assert one[2].weight_norm < 0.6 * one[0].weight_norm


@needs_compiler
def test_an_update_that_native_code_lacks_gives_what_torch_gives(monkeypatch):
    """The same network and rule, with native.c's own update and with torch's on native.c's gradients."""
    bench = bench_of("native", **SMALL)
    job, cells = Job("adamw", Constant(), 2, True), cells_of("adamw", [0.01, 1e308, 0.002], [0.02, 0.1, 0.3])
    own = run(bench, job, cells, 4)
    monkeypatch.setitem(UPDATES, "adamw", Update((0.0, 0.0), fused.ADAM.coefficients, fused.ADAM.apply_))
    for compiled, stepped in zip(own, run(bench, job, cells, 4), strict=True):
        assert compiled.diverged_at == stepped.diverged_at
        assert compiled.curve.train_loss == pytest.approx(stepped.curve.train_loss, rel=1e-9)
        assert compiled.weight_norm == pytest.approx(stepped.weight_norm, rel=1e-9, nan_ok=True)


def test_a_new_variant_is_known_to_studies_figures_and_conversion(sign, capsys):
    study = Study.model_validate(
        {
            "task": {},
            "axes": {"lr": {"values": [1, 2]}, "weight_decay": {"values": [0, 1]}},
            "panels": [{"optimizer": sign}],
        }
    )
    assert study.hyperparameters(study.panels[0]) == {}
    assert panel_title(study, sign) == "SignSGDW"
    assert axis_title("weight_decay", 1, sign, False) == "Weight decay (× 1)"
    assert main(["convert", "--lr", "0.1", "--weight-decay", "0.01", "--optimizer", sign, "--to", "paper"]) == 0
    assert "signsgdw: lr = 0.1, weight_decay = 0.01" in capsys.readouterr().out
    assert convert(0.1, 0.01, sign, "torch").value is None


def test_a_hyperparameter_that_a_variant_lacks_is_a_fault(sign):
    axes = {"lr": {"values": [1]}, "weight_decay": {"values": [0]}}
    with pytest.raises(ValueError, match="signsgdw has no momentum"):
        Study.model_validate({"task": {}, "axes": axes, "panels": [{"optimizer": sign, "momentum": 0.5}]})
