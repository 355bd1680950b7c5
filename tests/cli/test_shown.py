"""`list`, `show`, `report` and `compare` of one stored study: what is best, of what, and whole at 80 columns."""

import json
import math
import re

import numpy as np
import pytest
from rich.cells import cell_len

from helpers.stored import make_store
from helpers.synthetic_tables import error_of, make_study
from wdgrid.cli import common, main, results

STUDY = make_study(seeds=[0, 1], panels=[{"optimizer": "sgdw"}, {"optimizer": "adamw"}])


def error(cell):
    """Known surfaces with noise; the lowest single run is in a cell whose mean is not the lowest."""
    panel = STUDY.panel_names()[cell.panel]
    rate = cell.hyperparameters["lr"] / STUDY.unit(panel, "lr")
    if cell.multiples == ("1", "4"):
        return math.inf if cell.seed else 0.5  # a seed diverged: no mean
    if cell.multiples == ("1", "0"):
        return 12.0 if cell.seed else 0.7
    draw = np.random.default_rng([cell.seed, *map(ord, "".join((cell.panel, *cell.multiples)))])
    return error_of(panel.optimizer, rate, cell.hyperparameters["weight_decay"] / 0.016) + 0.1 * draw.normal()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("shown")
    make_store(place, "two", STUDY, error)
    return place


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs a command in the folder of the study on a terminal of 80 columns; its status, stdout and stderr."""
    monkeypatch.chdir(folder)
    for module in (common, results):
        monkeypatch.setattr(module, "width", lambda: 80)

    def command(*words):
        status = main(list(words))
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return command


def test_list_and_show_agree_on_the_best_cell_and_say_of_what_it_is(run):
    status, listed, _ = run("list")
    (error, panel, rate, decay, row, col) = re.search(
        r"best ([\d.]+) % \(mean of 2 seeds\): (\w+), lr ([\d.]+), decay ([\d.]+) \(([\d/]+), ([\d/]+)\)", listed
    ).groups()
    assert status == 0 and "140 of 140 cells" in listed
    rows = json.loads(run("show", "two", "--json")[1])["panels"]
    best = min(rows, key=lambda shown: shown["best_error"])
    assert (f"{best['best_error']:.2f}", best["panel"], best["best_row"], best["best_col"]) == (error, panel, row, col)
    assert best["best_of"] == "mean of 2 seeds" and best["place"] == f"lr {rate}, decay {decay}"
    shown = run("show", "two")[1]
    assert f"{rate} ({row})" in shown and f"{decay} ({col})" in shown and "mean of 2 seeds" in shown
    assert f"torch.optim.AdamW(params, lr={rate}" in shown or panel == "sgdw"
    answer = json.loads(run("report", "two", "--json", "-q")[1])[[r["panel"] for r in rows].index(panel)]["answer"]
    assert f"lr {rate}, decay {decay}: {error} % (mean of 2 seeds)" in answer


def test_one_panel_is_shown_as_compare_names_it(run):
    status, out, _ = run("show", "two/AdamW")
    assert status == 0 and "adamw: " in out and "sgdw" not in out
    assert [row["panel"] for row in json.loads(run("show", "two/sgdw", "--json")[1])["panels"]] == ["sgdw"]
    status, _, err = run("show", "two/lion")
    assert status == 2 and err == "wdgrid: two/lion: no panel lion; there: sgdw, adamw\n"


@pytest.mark.parametrize("words", [("show", "tow"), ("report", "tow"), ("export", "tow"), ("compare", "tow", "two")])
def test_an_unknown_name_lists_the_stored_ones(run, words):
    status, _, err = run(*words)
    assert status == 2 and err == "wdgrid: tow: no such stored study, there is no studies/tow.db; stored here: two\n"


def test_everything_is_whole_at_80_columns_and_every_verdict_has_its_reason(run):
    for words in (("list",), ("show", "two"), ("show", "two/adamw")):
        lines = run(*words)[1].splitlines()
        assert all(cell_len(line) <= 80 or line.startswith("  wdgrid ") for line in lines)
    told = " ".join(run("show", "two")[1].split())
    for row in json.loads(run("show", "two", "--json")[1])["panels"]:
        assert f"{row['panel']}: {row['sentence']}" in told
    compared = " ".join(run("compare", "two/sgdw", "two/adamw")[1].split())
    rows = {row["panel"]: row for row in json.loads(run("show", "two", "--json")[1])["panels"]}
    assert f"A: {rows['sgdw']['sentence']}" in compared and f"B: {rows['adamw']['sentence']}" in compared
    values = re.findall(r"rate 0\.\d+ \([\d/]+\), decay 0\.\d+ \([\d/]+\)", compared)
    assert len(values) == 2 and "over seeds mean of 2 seeds mean of 2 seeds" in compared


@pytest.mark.slow
def test_another_measure_and_style_have_files_of_their_own(run, folder):
    for more in ([], ["--style", "paper"], ["--measure", "test_loss", "--scale", "log"]):
        assert run("report", "two", "-q", *more)[0] == 0
    written = {path.stem for path in (folder / "reports/two").iterdir() if path.suffix in (".png", ".svg", ".pdf")}
    assert written == {"heatmaps", "heatmaps-paper", "heatmaps-test_loss-log"}
    status, _, err = run("report", "two", "-q", "--measure", "validation_error")
    assert status == 2 and "--measure validation_error: not stored with this study; there: test_error" in err
