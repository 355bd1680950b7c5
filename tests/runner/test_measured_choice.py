"""A long study measures its backends before it trains, and stores the choice; who resumes takes the same."""

import pytest

from wdgrid import load_study
from wdgrid.engine.choice import Choice
from wdgrid.runner import coordinator
from wdgrid.runner.environment import stored_environment
from wdgrid.runner.eta import repays_measuring
from wdgrid.runner.events import Notice
from wdgrid.runner.run import Settings, sweep
from wdgrid.store import Store

STUDY = {
    "task": {"epochs": 1, "train_size": 50, "test_size": 20, "batch_size": 50, "device": "cpu"},
    "axes": {"lr": {"values": "1, 1/2"}, "weight_decay": {"values": "0, 1", "unit": 0.016}},
    "panels": [{"optimizer": "sgd"}],
}
STUDY["task"]["model"] = "helpers.small_networks:mixer"


@pytest.fixture
def store(tmp_path):
    with Store(f"sqlite:///{tmp_path}/s.db", create=True) as opened:
        yield opened


def swept(store, tmp_path, study=STUDY, **given):
    events = []
    sweep(store, "s", load_study(study), Settings(tmp_path, in_process=True, **given), events.append)
    return store.attrs("s"), [event.text for event in events if isinstance(event, Notice)]


def test_a_short_study_takes_the_rules_choice(store, tmp_path):
    attributes, notices = swept(store, tmp_path)
    assert "backend" not in attributes and notices == []
    assert stored_environment(attributes)["backend"] == "stacked"


def test_the_choice_is_stored_and_taken_again(store, tmp_path, monkeypatch):
    monkeypatch.setattr(coordinator, "repays_measuring", lambda *_: True)
    best = Choice("one by one", 1, {"stacked × 4": 20.0, "one by one × 1": 10.0})
    monkeypatch.setattr("wdgrid.engine.choice.fastest", lambda *_: best)
    attributes, notices = swept(store, tmp_path)
    assert (attributes["backend"], attributes["chunk"]) == ("one by one", 1)
    line = "one by one × 1 is taken; µs a step of a cell, measured: stacked × 4 20, one by one × 1 10"
    assert notices == [line] and stored_environment(attributes)["measured"] == line
    assert stored_environment(attributes)["backend"] == "one by one"
    monkeypatch.setattr("wdgrid.engine.choice.fastest", None)  # nothing is measured again
    more = STUDY | {"seeds": [0, 1]}
    attributes, notices = swept(store, tmp_path, more, extend=True)
    assert notices == [] and stored_environment(attributes)["backend"] == "one by one"


def test_the_rules_choice_may_be_the_fastest(store, tmp_path, monkeypatch):
    monkeypatch.setattr(coordinator, "repays_measuring", lambda *_: True)
    monkeypatch.setattr("wdgrid.engine.choice.SAMPLE_S", 0.001)
    monkeypatch.setattr("wdgrid.engine.choice.CLEARLY", 0.0)
    attributes, notices = swept(store, tmp_path)
    assert (attributes["backend"], attributes["chunk"]) == ("stacked", 4) and len(notices) == 1


def test_measuring_that_fails_leaves_the_rules_choice(store, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("a clock that stands still")

    monkeypatch.setattr(coordinator, "repays_measuring", lambda *_: True)
    monkeypatch.setattr("wdgrid.engine.choice.fastest", broken)
    attributes, _ = swept(store, tmp_path)
    assert (attributes["backend"], attributes["chunk"]) == ("stacked", 4)
    assert store.count("s").n_complete == 4


def test_only_long_studies_repay_measuring():
    assert not repays_measuring(steps=10_000, pass_seconds=0.01, workers=2)  # 25 s of training
    assert repays_measuring(steps=200_000, pass_seconds=0.01, workers=2)  # 500 s
    assert not repays_measuring(steps=500, pass_seconds=1.0, workers=2)  # hardly longer than measuring
