"""The study files that ship with wdgrid: found by name anywhere, what they cost, and that they are the paper's."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from stored import make_store
from synthetic_tables import make_study
from torch.utils.flop_counter import FlopCounterMode

from wdgrid import models, shipped
from wdgrid.analysis.surface import paper_surfaces
from wdgrid.cli import main
from wdgrid.cli.again import SweepCommand, sweep_of
from wdgrid.cli.common import database_folder, stored
from wdgrid.engine import Job, Workbench, train
from wdgrid.models.decay import multipliers
from wdgrid.schedule import etas, periods
from wdgrid.studyfile import StudyFileError, load_study

ROOT = Path(__file__).parents[1]
NAMES = shipped.names()
FILES = {name: shipped.folder() / f"{name}.toml" for name in NAMES}
ONE_CELL = ["--set", "axes.lr.values=[1]", "--set", "axes.weight_decay.values=[1]", "--set", "task.epochs=1"]


def task_of(name):
    return load_study(FILES[name]).task


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_study_is_a_file_then_a_file_of_the_folder_then_a_shipped_one(here):
    assert shipped.study_path("digits") == FILES["digits"]
    (here / "studies").mkdir()
    (here / "studies/digits.toml").touch()
    assert shipped.study_path("digits") == Path("studies/digits.toml")
    (here / "digits").touch()
    assert shipped.study_path("digits") == Path("digits")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("digit", "digit: no such file, and no study of that name ships with wdgrid; did you mean digits?"),
        ("elsewhere/digits.toml", "did you mean digits?"),
        ("xyzzy", "xyzzy: no such file, and no study of that name ships with wdgrid; wdgrid studies lists them"),
    ],
)
@pytest.mark.parametrize("command", ["sweep", "plan"])
def test_an_unknown_name_is_one_line_that_names_those_near_it(here, capsys, command, word, says):
    assert main([command, word]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err and err.count("\n") == 1
    assert list(here.iterdir()) == []


def test_where_the_database_of_a_study_goes(here):
    (here / "mine").mkdir()
    assert database_folder("mine/own.toml", "own") == Path("mine")
    assert database_folder("digits", "digits") == Path()
    (here / "digits.db").touch()
    (here / "studies").mkdir()
    assert database_folder("digits", "digits") == Path()  # one that was begun here is gone on with here
    assert database_folder("digits", "another-name") == Path("studies")
    (here / "studies/digits.db").touch()
    assert stored("digits", None) == ("digits", "sqlite:///studies/digits.db")
    assert stored("mine/own.toml", None) == ("own", "sqlite:///mine/own.db")
    assert stored("digits", "sqlite:///x.db") == ("digits", "sqlite:///x.db")


def test_stored_studies_go_by_name_without_a_studies_folder(here, capsys):
    panels = [{"optimizer": "sgd", "lr_unit": 1.0}, {"optimizer": "adamw", "lr_unit": 0.1}]
    make_store(here, "digits", make_study(panels=panels), lambda cell: 5 + cell.hyperparameters["lr"])
    (here / "studies/digits.db").rename(here / "digits.db")
    shutil.rmtree(here / "studies")
    (here / "notes.db").write_bytes(b"SQLite format 3\0")
    assert main(["show", "digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cells"] == {"complete": 70}
    assert main(["report", "digits", "--out", "drawn", "-q"]) == 0
    capsys.readouterr()
    assert (here / "drawn/digits/heatmaps.png").exists()
    assert main(["compare", "digits/sgd", "digits/adamw", "-q"]) == 0
    assert "digits/adamw" in capsys.readouterr().out
    assert main(["list", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [(s["name"], s["storage"]) for s in json.loads(out)] == [("digits", "sqlite:///digits.db")]
    assert "left out" in err and "notes.db" in err


def test_how_to_go_on_is_said_as_the_study_was_called(here):
    command = SweepCommand("digits", ("task.epochs=1",))
    assert str(command) == "wdgrid sweep digits --set task.epochs=1"
    store = SimpleNamespace(attrs=lambda name: {"digits": command.attrs(), "other": command.attrs()}[name])
    assert sweep_of(store, "digits", "sqlite:///digits.db", "digits") == command
    coarse = sweep_of(store, "digits@coarse", "sqlite:///digits.db", "digits@coarse")
    assert str(coarse) == "wdgrid sweep digits --set task.epochs=1 --coarse"
    (here / "studies").mkdir()  # where the default is now another place, the storage is named
    moved = sweep_of(store, "digits", "sqlite:///digits.db", "digits")
    assert moved.storage == "sqlite:///digits.db"
    other = sweep_of(store, "other", "sqlite:///studies/other.db", "other")
    assert str(other).endswith("--name other --set task.epochs=1")


def test_a_shipped_study_can_be_planned_by_name(here, capsys):
    assert main(["plan", "digits", *ONE_CELL, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["study"] == "digits"
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_a_shipped_study_is_swept_anywhere_and_each_panel_has_its_own_decay(here):
    """√(b/(B T)) is 1/4 for T = 4: a unit four times as large gives the same cells, bit for bit."""
    raw, normalized = ('{name="raw", optimizer="adamw"', '{name="norm", optimizer="adamw", decay="normalized"')
    panels = f"panels=[{raw}}}, {normalized}, weight_decay_unit=0.064}}]"
    code = "import sys; from wdgrid.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "sweep", "budgets-small", "--workers", "1"]
    command += ["--set", panels, "--set", "task.epochs=4", "--set", "seeds=[0]"]
    for says in ("54 cells to train", "54 of 54 cells are there, nothing to train"):
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=120, check=True)
        assert says in done.stderr
    assert (here / "reports/budgets-small/report.html").is_file()
    assert [p for p in here.rglob("*.db*") if not p.name.endswith(("-wal", "-shm"))] == [here / "budgets-small.db"]
    table = pd.read_csv(here / "reports/budgets-small/trials.csv").set_index(["row", "col"])
    same = [table[table["panel"] == name][["test_error", "train_loss", "weight_norm"]] for name in ("raw", "norm")]
    pd.testing.assert_frame_equal(*(frame.sort_index() for frame in same), check_exact=True)


def test_listing_them_costs_no_torch():
    code = (
        "import sys; from wdgrid.cli import main; main(['studies', '--json'])\n"
        "heavy = {'torch', 'optuna', 'pandas', 'matplotlib', 'sqlalchemy'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    told = json.loads(done.stdout)
    assert [one["name"] for one in told] == NAMES
    (digits,) = [one for one in told if one["name"] == "digits"]
    assert (digits["cells"], digits["epochs"], digits["images"]) == (484, [100], 900)
    # 2 FLOPs a product; in training twice as much again for gradients, but for the first layer's with respect to images
    products = 64 * 64 * 3 + 64 * 10
    epoch = 900 * (6 * products - 2 * 64 * 64) + 897 * 2 * products
    assert digits["pflop"] == pytest.approx(484 * 100 * epoch / 1e15, rel=1e-12)


def test_the_list_is_one_line_each(capsys):
    assert main(["studies"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["study", *NAMES]
    for name, line in zip(NAMES, lines[1:], strict=True):
        assert line.endswith(load_study(FILES[name]).title) and len(line) <= 160
    assert "wdgrid plan" in err


@pytest.mark.parametrize("name", NAMES)
def test_every_file_says_what_it_shows_and_costs(name):
    lines = FILES[name].read_text(encoding="utf-8").splitlines(keepends=True)
    heading = "".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    study = load_study(FILES[name])
    one = shipped.cost(study)
    assert f"# Cost: {one.cells} cells, {float(f'{one.pflop:.3g}'):g} PFLOP." in heading
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


def test_the_tables_flops_are_torchs():
    """Counted on torch's meta device: shapes without numbers."""
    seen = {}
    for task in {shipped.network_name(task): task for task in map(task_of, NAMES)}.values():
        side = int(shipped.network_name(task).rpartition("×")[2])
        shape = torch.Size([1 if task.dataset == "digits" else 3, side, side])
        with torch.device("meta"):
            module = models.build(task, shape, 10, seed=0)
            x, y = torch.zeros(2, *shape), torch.zeros(2, dtype=torch.int64)
            counter = FlopCounterMode(display=False)
            with counter:
                torch.nn.functional.cross_entropy(module(x), y).backward()
            train = counter.get_total_flops()
            with torch.no_grad(), counter:
                module.eval()(x)
        seen[shipped.network_name(task)] = (train // 2, counter.get_total_flops() // 2)
    assert seen == shipped.FLOPS


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
        less += ["task.dataset='test_studies:photographs'", "task.dataset_args={}"]
    study = load_study(FILES[name], less)
    bench = Workbench(study.task)
    for panel, cells in study.cells().items():
        one = study.panel_names()[panel]
        job = Job(one.optimizer, one.schedule, 1, study.normalized(one))
        gentle = sorted(cells, key=lambda cell: cell.hyperparameters["lr"])[:2]
        outcomes = train(bench, job, gentle, 2, lambda done: None)
        assert all(len(o.curve.train_loss) == 1 and o.diverged_at is None for o in outcomes)


@pytest.mark.slow
def test_the_wheel_holds_every_study_file_and_no_database(tmp_path):
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        pytest.skip("needs uv, which builds the wheel")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("wdgrid", "studies"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.db*"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    (copy / "studies/mine.db").touch()
    (copy / "studies/mine.db.checkpoints").mkdir()
    (copy / "studies/mine.db.checkpoints/x.toml").touch()
    subprocess.run([uv, "build", "--wheel", "--quiet", "-o", str(tmp_path), str(copy)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = [path for path in archive.namelist() if "studies/" in path]
        assert sorted(inside) == sorted(f"wdgrid/studies/{name}.toml" for name in NAMES)
        archive.extractall(tmp_path / "installed")
    code = "from wdgrid import shipped; print(shipped.folder(), *shipped.names())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert told.stdout.split() == [str(tmp_path / "installed/wdgrid/studies"), *NAMES]


def test_near_names_are_those_of_the_folder(monkeypatch):
    monkeypatch.setattr(shipped, "names", lambda: ["figure1", "figure1-small", "digits"])
    with pytest.raises(StudyFileError) as caught:
        shipped.study_path("figure-1")
    assert caught.value.lines[0].endswith("did you mean figure1, figure1-small?")
