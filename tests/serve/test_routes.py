"""The API over a storage: what it answers, and that every error is a problem."""

import csv
import io
import json
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from helpers.commands import SMALL
from wdgrid.serve.app import make_app
from wdgrid.store import Store


def problem(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["status"] == status and told["title"]
    return told


def test_studies_are_listed_page_by_page(client):
    found = client.get("/api/studies").json()
    assert found["total"] == 2 and [one["name"] for one in found["studies"]] == ["half", "whole"]
    half, whole = found["studies"]
    assert (half["n_complete"], half["n_waiting"], half["n_cells"]) == (40, 30, 70)
    assert whole["best"] == {"panel": "sgd", "row": "1/4", "col": "0", "seed": 0, "error": 10.0}
    assert [one["name"] for one in client.get("/api/studies?first=1&at_most=1").json()["studies"]] == ["whole"]
    assert client.get("/api/studies?containing=WHO").json()["total"] == 1
    told = problem(client.get("/api/studies?at_most=0"), 422)
    assert told["faults"][0]["field"] == "query.at_most"


def test_a_study_its_map_and_its_curves(client, study):
    found = client.get("/api/studies/half").json()
    assert found["title"] == "A synthetic study" and found["definition"] == json.loads(study.canonical())
    assert (found["status"]["complete"], found["status"]["cells"], found["status"]["queue"]) == (40, 70, None)
    drawn = client.get("/api/studies/half/map").json()
    first = drawn["data"]["panels"][0]
    assert drawn["version"] == "70.40.0" and first["name"] == "sgd" and first["done"][2][0] == 1
    assert first["measures"]["test_error"][2][0] == 10.0 and first["diverged"][0][6] == 1
    curves = client.get("/api/studies/half/curves").json()
    assert len(curves["sgd"]["trials"]) == 35 - sum(map(sum, first["diverged"]))


def test_what_is_not_there_is_a_problem(client):
    for path in ("/api/studies/none", "/api/studies/none/map", "/api/studies/none/curves", "/api/studies/none/events"):
        assert "none: no such study in this storage; there: half, whole" in problem(client.get(path), 404)["detail"]
    for path in ("/api/studies/none/analysis", "/api/studies/none/files/trials.csv", "/api/compare?a=none&b=whole"):
        problem(client.get(path), 404)
    problem(client.get("/api/studies/..%2F..%2Fetc/map"), 404)
    problem(client.get("/api/nothing"), 404)
    problem(client.get("/api/studies/whole/files/passwd"), 422)
    problem(client.put("/api/studies"), 405)
    problem(client.get("/api/shipped/none"), 404)


def test_a_storage_that_goes_away_is_a_problem_and_one_that_comes_back_is_read(client, place, tmp_path):
    path = tmp_path / "study.db"
    path.rename(tmp_path / "away.db")
    problem(client.get("/api/studies"), 503)
    path.write_bytes((tmp_path / "away.db").read_bytes())
    assert client.get("/api/studies").json()["total"] == 2


LONG_AXIS = f'values = "{", ".join(map(str, range(1, 101)))}"'


@pytest.mark.parametrize(
    ("changed", "field", "at", "words"),
    [
        (("epochs = 3", "epochs = -3"), "task.epochs", "epochs = -3", "greater than or equal to 1"),
        (('optimizer = "adamw"', 'optimizer = "adamq"'), "panels.1.optimizer", "adamq", "must be one of sgd, sgdw"),
        (("unit = 0.016", "unit = 0.016\nunits = 1"), "axes.weight_decay.units", "units", "unknown key"),
        (("batch_size = 50", "batch_size = "), "", "batch_size", "not valid TOML"),
        (("model_args = { hidden = [16] }", 'model = "os:system"'), "task.model", "os:", "names code (os:system)"),
        (("train_size = 200", 'dataset = "os:system"'), "task.dataset", "os:", "names code (os:system)"),
        (
            ("train_size = 200", 'dataset = "folder"\ndataset_args = { root = "/etc" }'),
            "task.dataset_args.root",
            "dataset_args",
            "does not allow this folder",
        ),
        (("epochs = 3", "epochs = 3\n# more"), "axes", "[axes.lr]", "20000 cells; this service takes at most 4000"),
    ],
)
def test_faults_are_told_with_their_field_and_line(settings, changed, field, at, words):
    text = SMALL.replace(*changed)
    if "# more" in text:
        text = text.replace('values = "1..1/8"', LONG_AXIS).replace('values = "0, 1/4..4"', LONG_AXIS)
    line = next(k for k, one in enumerate(text.splitlines(), start=1) if at in one)
    with TestClient(make_app(replace(settings, most_cells=4000)), base_url="http://localhost") as client:
        _faults_are_told(client, text, field, line, words)


def _faults_are_told(client, text, field, line, words):
    found = client.post("/api/validate", json={"toml": text}).json()
    assert not found["valid"] and words in found["faults"][0]["message"]
    assert (found["faults"][0]["field"], found["faults"][0]["line"]) == (field, line)
    told = problem(client.post("/api/queue", json={"toml": text, "name": "mine"}), 422)
    assert told["faults"] == found["faults"] and client.get("/api/queue").json()["entries"] == []


def test_a_valid_study_goes_into_the_queue_which_can_be_changed(client, place):
    assert client.post("/api/validate", json={"toml": SMALL}).json() == {
        "valid": True,
        "cells": 48,
        "title": "small <study>",
        "faults": [],
    }
    numbers = [
        client.post("/api/queue", json={**given, "name": name}).json()["id"]
        for name, given in (("a", {"toml": SMALL}), ("b", {"shipped": "digits", "overrides": ["task.epochs=2"]}))
    ]
    found = client.get("/api/queue").json()
    assert [(one["study"], one["state"]) for one in found["entries"]] == [("a", "waiting"), ("b", "waiting")]
    assert not found["worker"] and "canonical" not in found["entries"][0]
    assert client.post(f"/api/queue/{numbers[1]}/move", json={"to": 1}).json()["study"] == "b"
    assert client.post(f"/api/queue/{numbers[0]}/pause").json()["state"] == "paused"
    assert client.post(f"/api/queue/{numbers[0]}/resume").json()["state"] == "waiting"
    assert client.post(f"/api/queue/{numbers[0]}/cancel").json()["state"] == "cancelled"
    assert "is cancelled" in problem(client.post(f"/api/queue/{numbers[0]}/pause"), 409)["detail"]
    assert "there is none" in problem(client.post("/api/queue/999/pause"), 404)["detail"]
    problem(client.post("/api/queue", json={"toml": SMALL, "name": "../../etc"}), 422)
    problem(client.post("/api/queue", json={"shipped": "none", "name": "x"}), 422)
    assert (
        "is in the queue already"
        in problem(
            client.post("/api/queue", json={"shipped": "digits", "overrides": ["task.epochs=2"], "name": "b"}), 409
        )["detail"]
    )
    with Store(place) as store:
        assert store.queue.entry(numbers[1]).canonical.count('"epochs":2') == 1


def test_another_study_under_a_stored_name_is_refused(client):
    told = problem(client.post("/api/queue", json={"toml": SMALL, "name": "whole"}), 422)
    assert "whole: task.train_size: was 900; is now 200" in told["detail"]


def test_downloads_are_refused_for_submitted_studies(client, place):
    text = SMALL.replace("model_args", 'dataset = "cifar10"\nmodel = "resnet"\n#').replace("train_size = 200", "")
    assert client.post("/api/queue", json={"toml": text, "name": "c"}).status_code == 201
    with Store(place) as store:
        definition = json.loads(store.queue.entries()[0].canonical)
    assert definition["task"]["dataset_args"]["download"] is False


@pytest.mark.slow
def test_exports_analysis_comparison_and_cost_are_those_of_the_commands(client):
    rows = list(csv.DictReader(io.StringIO(client.get("/api/studies/whole/files/trials.csv").text)))
    assert len(rows) == 70 and rows[0]["panel"] == "sgd"
    assert len(client.get("/api/studies/whole/files/trials.json").json()) == 70
    assert client.get("/api/studies/whole/files/trials.parquet").content[:4] == b"PAR1"
    picture = client.get("/api/studies/whole/files/heatmaps.png")
    assert picture.content[:4] == b"\x89PNG" and picture.headers["content-type"] == "image/png"
    assert picture.headers["content-disposition"] == 'attachment; filename="whole-heatmaps.png"'
    assert "<title>" in client.get("/api/studies/whole/files/report.html").text
    analysis = client.get("/api/studies/whole/analysis").json()
    assert [panel["panel"] for panel in analysis["panels"]] == ["sgd", "adamw"] and analysis["panels"][0]["verdict"]
    compared = client.get("/api/compare?a=whole/sgd&b=whole/adamw").json()
    assert compared["pairs"][0]["a"] == "whole/sgd" and compared["figure"].startswith("data:image/png;base64,iVBOR")
    assert "no panel" in problem(client.get("/api/compare?a=whole/sgd&b=whole/none"), 409)["detail"]
    cost = client.post("/api/plan", json={"toml": SMALL}).json()
    assert cost["panels"][0]["cells"] == 24 and "1226 parameters" in cost["check"]
    missing = SMALL.replace("model_args", 'dataset = "cifar10"\nmodel = "resnet"\n#').replace("train_size = 200", "")
    assert "cifar" in problem(client.post("/api/plan", json={"toml": missing}), 422)["detail"]


def test_pages_are_drawn_from_the_same_templates_and_escape(client):
    for path in ("/", "/studies/half", "/submit", "/queue", "/compare", "/login"):
        page = client.get(path)
        assert page.status_code == 200 and page.text.startswith("<!doctype html>") and "on" + "click=" not in page.text
        scripts = page.text.split("<script")[1:]
        assert all("src=" in one or 'type="application/json"' in one for one in scripts)  # the policy lets no other run
    evil = "<script>alert(1)</script>"
    client.post("/api/queue", json={"toml": SMALL.replace("small <study>", evil), "name": "x"})
    for path in ("/", f"/?containing={evil}", "/queue", f"/compare?a={evil}"):
        assert evil not in client.get(path).text
    problem(client.get("/studies/none"), 404)
