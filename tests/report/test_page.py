"""The report's page: what stands in it, read without a browser (what it does: `test_page_in_browser.py`)."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from helpers.pages import EVIL, example, picture, write
from helpers.synthetic_tables import make_study, make_table
from wdgrid.report.payload import page_data


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return example(tmp_path_factory.mktemp("page"))


class Page(HTMLParser):
    """Elements as (tag, attributes), and the text inside each element that has an id."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.inside, self.visible = [], {}, [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "input", "br"):
            self.inside.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if not any(tag in ("script", "style") for tag, _ in self.inside):
            self.visible += data
        for _, name in self.inside:
            if name:
                self.texts[name] = self.texts.get(name, "") + data


@pytest.fixture(scope="module")
def page(report):
    return Page(report.read_text("utf-8"))


def test_text_of_the_study_is_escaped_everywhere(page, report):
    assert page.texts["study"].count("</script><script>") == 1 and EVIL in page.visible
    assert len([1 for tag, attrs in page.elements if tag == "img"]) == 1
    assert not any("onerror" in attrs for _, attrs in page.elements)
    assert len([1 for tag, _ in page.elements if tag == "script"]) == 6
    assert "<script>document.title" not in report.read_text("utf-8")


def test_embedded_data_holds_the_tables_values(page):
    data = json.loads(page.texts["data"])
    study = make_study(seeds=[0, 1])
    table = make_table(study, noise=0.02)
    cells = table[table["panel"] == "adamw"].groupby(["row", "col"])["test_error"].mean()
    panel = next(p for p in data["panels"] if p["name"] == "adamw")
    assert panel["row_labels"][0] == "1" and panel["col_labels"][0] == "0" and panel["row_values"][0] == 0.1
    for i, row in enumerate(panel["row_labels"]):
        for j, col in enumerate(panel["col_labels"]):
            shown, error = panel["measures"]["test_error"][i][j], cells[row, col]
            assert shown == pytest.approx(error, rel=1e-4) if np.isfinite(error) else shown is None
    assert panel["diverged"][0][6] == 2 and panel["diverged_at"][0][6] == 17 and len(panel["best"]) == 10
    assert panel["done"][0][0] == 1  # one of its two seeds still waits
    curves = json.loads(page.texts["curve-data"])["adamw"]
    assert curves["epochs"] == [1, 2, 3] and curves["kinds"] == ["test_error", "test_loss", "train_loss"]
    _, number, error = panel["trials"][1][1][0]
    assert curves["trials"][str(number)][0][-1] == pytest.approx(error, rel=1e-3)
    assert [len(c) for c in curves["trials"][str(panel["trials"][0][6][0][1])]] == [1, 1, 1]


def test_numbers_best_cells_study_and_environment_stand_in_the_page_without_scripts(page):
    for words in (
        "sgdw",
        "interaction",
        "slope s",
        "cost",
        "regret",
        "90 %",
        "SHA-256",
        "mean of 2 seeds",
        "decay in one",
    ):
        assert words in page.visible, words
    assert json.loads(page.texts["study"])["seeds"] == [0, 1]
    assert "versions.torch" in page.texts["environment"] and "2.15" in page.texts["environment"]
    assert "1/2 = 0.008" in page.visible


def test_best_cell_is_told_in_other_libraries_terms(page):
    lines = page.visible[page.visible.index("The best cell, to paste") :]
    assert "torch.optim.SGD(" in lines and "torch.optim.AdamW(" in lines and "optax" in lines


def test_nothing_is_asked_of_a_network(page):
    for tag, attrs in page.elements:
        for name in ("src", "href", "action", "data", "srcset"):
            assert attrs.get(name, "data:").startswith(("data:", "#")), (tag, name)
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"url\(|@import", page.texts.get("style", ""))


def test_a_study_with_nothing_trained_has_a_page(tmp_path):
    study = make_study()
    table = make_table(study).assign(state="waiting", test_error=np.nan)
    text = write(tmp_path / "r.html", study, table, picture(tmp_path)).read_text("utf-8")
    assert "no cell is finished" in text


def test_panels_go_by_their_titles_and_errors_have_intervals(page):
    words = " ".join(page.visible.split())
    assert re.search(r"SGDW: tune them separately: it costs \d\.\d\d points; separable: the best decay hardly", words)
    assert "SGD, best axes: p = " in words and "regret, decaytuned at awrong rate" in words
    cell = r"AdamW\s?separable\s?\d\.\d\d % \(mean of 2 seeds\) \[\d\.\d\d, \d\.\d\d\]"
    cell += r"lr 0\.\d+ \(1/\d+\), decay 0\.\d+ \(\d\)"
    assert re.search(cell, words)
    assert "the best error's own is over the cell's seeds" in words
    assert "trained with the learning rate of its row and the weight decay of its column" in page.visible
    verdicts = {p["title"]: p["verdict"] for p in json.loads(page.texts["data"])["panels"]}
    answers = {p["title"]: p["answer"] for p in json.loads(page.texts["data"])["panels"]}
    assert re.fullmatch(
        r"SGDW: lr 0\.\d+, decay 0\.\d+: \d\.\d\d % \(mean of 2 seeds\)\. "
        r"Tune them separately: it costs \d\.\d\d points\.",
        answers["SGDW"],
    )
    assert words.index("Tune them separately") < words.index("Heatmaps")
    assert verdicts["SGD"].startswith("coupled (s = −") and verdicts["SGDW"].startswith("separable (s = ")


def test_steps_of_an_epoch_are_the_trainings_own():
    """τ in epochs is drawn with them: 910 images in minibatches of 50 are 18 steps, the rest waits."""
    study = make_study()
    study = study.model_copy(update={"task": study.task.model_copy(update={"train_size": 910, "batch_size": 50})})
    panels, table = [], make_table(study)
    assert page_data(study, panels, table, {})["steps_per_epoch"] == 18
    assert page_data(study, panels, table, {}, 7)["steps_per_epoch"] == 7
