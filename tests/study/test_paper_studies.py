"""What the study files that ship with wdgrid hold: that it is the paper's, and how many cells it has."""

import itertools
import re
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from wdgrid import models
from wdgrid.analysis.surface import paper_surfaces
from wdgrid.engine import Job, Workbench, train
from wdgrid.models.decay import multipliers
from wdgrid.optim.schedule import etas, periods
from wdgrid.study import bundled, load_study

NAMES = bundled.names()
FILES = {name: bundled.folder() / f"{name}.toml" for name in NAMES}


def task_of(name):
    return load_study(FILES[name]).task


@pytest.mark.parametrize("name", NAMES)
def test_every_file_says_what_it_shows_and_costs(name):
    lines = FILES[name].read_text(encoding="utf-8").splitlines(keepends=True)
    heading = "".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    study = load_study(FILES[name])
    cells = sum(map(len, study.cells().values()))
    epochs = sorted({study.panel_epochs(panel) for panel in study.panels})
    assert f"# Cost: {cells} cells × {' or '.join(map(str, epochs))} epochs." in heading
    assert study.title and heading.count("\n") >= 3
    if name.endswith("-small"):
        assert "# Shows: " in heading and "Does not show: " in heading.replace("\n# ", " ")


def test_every_experiment_has_its_twin():
    full = {"figure1", "figure2", "budgets", "restarts", "generalization", "epsilon", "tf_tutorial"}
    assert set(NAMES) >= {"digits"} | full | {f"{name}-small" for name in full}


@pytest.mark.parametrize(("name", "figure"), [("figure1", 1), ("figure2", 2)])
def test_the_papers_figures_to_the_cell(name, figure):
    """Every panel has exactly the rates and decays that stand at the published figure's axes."""
    surfaces = paper_surfaces(figure=figure)
    study = load_study(FILES[name])
    schedules = {"fixed": "constant", "step": "step", "cos": "cosine"}
    found = {}
    for panel, cells in study.cells().items():
        one = study.panel_names()[panel]
        found[one.optimizer, one.schedule.kind] = {
            tuple(c.hyperparameters[a] for a in ("lr", "weight_decay")) for c in cells
        }
        assert len(cells) == len(found[one.optimizer, one.schedule.kind]) == (88 if figure == 1 else 121)
    wanted = {}
    for title, surface in surfaces.items():
        optimizer, _, schedule = title.lower().partition(" ")
        grid = {(float(row), float(col)) for row in surface.rows for col in surface.cols}
        wanted[optimizer, schedules.get(schedule, "cosine")] = grid
        assert study.axes["lr"].values == tuple(map(Fraction, surface.row_labels))
        assert study.axes["weight_decay"].values == tuple(map(Fraction, surface.col_labels))
    assert found == wanted
    assert study.task.epochs == 100 and study.task.batch_size == 128 and study.report.error_range == (3, 7)


def test_the_budgets_are_those_of_the_supplement():
    study = load_study(FILES["budgets"])
    decays = {n: {c.hyperparameters["weight_decay"] for c in cells} for n, cells in study.cells().items()}
    for epochs in (25, 100, 400):
        assert decays[f"raw-{epochs}"] == {0.001 / 2**i for i in range(5)}
        assert decays[f"normalized-{epochs}"] == {1 / 5, 1 / 10, 1 / 20, 1 / 40, 1 / 80}
    normalized = [study.normalized(panel) for panel in study.panels]
    assert normalized == [False] * 3 + [True] * 3 and [p.epochs for p in study.panels] == [25, 100, 400] * 2


def test_the_restarts_are_the_papers():
    study = load_study(FILES["restarts"])
    for panel in study.panels:
        ends = list(itertools.accumulate(periods(panel.schedule, study.panel_epochs(panel))))
        assert ends == ([100, 300, 700, 1500] if panel.schedule.kind == "restarts" else [1500])


def test_the_restarts_other_half_is_the_headers_command():
    text = FILES["restarts"].read_text(encoding="utf-8")
    study = load_study(FILES["restarts"], re.findall(r"--set ([\w.]+=\w+)", text))
    assert study.task.dataset == "imagenet32" and study.task.dataset_args["root"] == "FOLDER"
    for panel in study.panels:
        ends = list(itertools.accumulate(periods(panel.schedule, study.panel_epochs(panel))))
        assert ends == ([10, 30, 70, 150] if panel.schedule.kind == "restarts" else [150])


@pytest.mark.parametrize("name", ["tf_tutorial", "tf_tutorial-small"])
def test_the_tutorial_decays_two_layers(name):
    """Its own setting is a cell of the grid, and the row of its rate is the same in both panels (Proposition 1)."""
    study = load_study(FILES[name])
    sgd, sgdw = ([c.hyperparameters for c in cells] for cells in study.cells().values())
    assert {"lr": 0.1, "weight_decay": 0.004, "momentum": 0.0} in sgd
    for l2, decoupled in zip(sgd, sgdw, strict=True):
        assert l2["lr"] == decoupled["lr"] and 0.1 * l2["weight_decay"] == pytest.approx(decoupled["weight_decay"])
    with torch.device("meta"):
        module = models.build(study.task, torch.Size([3, 24, 24]), 10, seed=0)
    assert sum(p.numel() for p in module.parameters()) == 1_068_298
    decayed = {parameter for parameter, m in multipliers(module, study.task.decay_multipliers).items() if m}
    assert decayed == {"fc3.weight", "fc4.weight"}
    if name == "tf_tutorial":
        table = etas(study.panels[0].schedule, study.task.epochs, 1)
        assert [table.index(eta) for eta in dict.fromkeys(table)] == [0, 350, 700, 1050]


def photographs(n=60):
    """Noise in the place of CIFAR-10, which tests cannot download."""
    random = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 3, 32, 32), generator=random, dtype=torch.uint8)
    y = torch.arange(n) % 10
    return x[:40], y[:40], x[40:], y[40:]


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("-small")])
def test_a_miniature_trains(name, monkeypatch):
    """An epoch of two cells a panel, on little data, as a worker would train them."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    less = ["task.device=cpu", "task.train_size=40", "task.test_size=20", "task.batch_size=20"]
    if task_of(name).dataset != "digits":
        less += ["task.dataset='test_paper_studies:photographs'", "task.dataset_args={}"]
    study = load_study(FILES[name], less)
    bench = Workbench(study.task)
    for panel, cells in study.cells().items():
        one = study.panel_names()[panel]
        job = Job(one.optimizer, one.schedule, 1, study.normalized(one))
        gentle = sorted(cells, key=lambda cell: cell.hyperparameters["lr"])[:2]
        outcomes = train(bench, job, gentle, 2, lambda done: None)
        assert all(len(o.curve.train_loss) == 1 and o.diverged_at is None for o in outcomes)
