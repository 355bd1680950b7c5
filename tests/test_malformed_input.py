"""Malformed input of every kind is answered with one line a fault, within two seconds of computing, or is accepted."""

import io
import math
import os
import random
import shutil
import signal
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

from helpers import mutations
from helpers.commands import SMALL
from helpers.synthetic_tables import make_study
from wdgrid.analysis.surface import PAPER_FIGURES, paper_surfaces
from wdgrid.cli import main
from wdgrid.engine import Checkpoint
from wdgrid.errors import WdgridError
from wdgrid.optim.schedule import etas
from wdgrid.runner import reconcile
from wdgrid.store import Store
from wdgrid.study import Study, bundled, load_study
from wdgrid.study.coarse import coarse_study

SECONDS = 2
SHOW = warnings.showwarning
KINDS = ("study file", "override", "URL", "table", "checkpoint", "another's checkpoint", "options")


@contextmanager
def limited():
    """At most SECONDS of this process's own time: what other processes take does not count."""

    def too_long(*_):
        raise AssertionError(f"no answer after {SECONDS} s")

    before = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A folder with a valid file of each kind."""
    folder = tmp_path_factory.mktemp("originals")
    for path in bundled.folder().glob("*.toml"):
        shutil.copy(path, folder)
    lines = PAPER_FIGURES.read_bytes().splitlines(keepends=True)
    (folder / "table.csv").write_bytes(b"".join(lines[:130]))  # one panel
    state = {"theta": torch.randn(4, 30), "alive": torch.ones(4, dtype=torch.bool)}
    Checkpoint(folder / "chunk", "this", 0).save(3, (state, {"diverged_at": [None], "curves": []}))
    Checkpoint(folder / "other", "another study", 0).save(3, (state, {"diverged_at": [None], "curves": []}))
    with Store(f"sqlite:///{folder}/study.db") as store:
        reconcile.plan(store, "small", make_study())
    refused = SMALL.replace("[task]", '[task]\nmodel = "mine:net"').replace("model_args", "# model_args")
    (folder / "refused").write_text(refused)  # there is no such module
    return folder


def read_study(path, overrides=()):
    study = load_study(path, overrides)
    assert Study.model_validate_json(study.canonical()).digest() == study.digest()
    if math.prod(len(axis.values) for axis in study.axes.values()) * len(study.panels) * len(study.seeds) < 20_000:
        study.cells()
    for panel in study.panels:
        epochs = study.panel_epochs(panel)
        if epochs <= 1000:
            assert len(etas(panel.schedule, epochs, 3)) == 3 * epochs
    coarse_study(study)


def attempt(kind, draw, originals, folder):
    """Reads one mutated input of a kind."""
    studies = sorted(originals.glob("*.toml"))
    if kind == "study file":
        path = folder / "study.toml"
        path.write_bytes(mutations.mutated(draw.choice(studies).read_bytes(), draw))
        read_study(path)
    elif kind == "override":
        read_study(draw.choice(studies), [mutations.override(draw) for _ in range(draw.randint(1, 3))])
    elif kind == "URL":
        shutil.copy(originals / "study.db", folder / "study.db")
        with Store(mutations.url(draw, folder), create=False) as store:
            store.studies()
    elif kind == "table":
        path = folder / "table.csv"
        path.write_bytes(mutations.mutated((originals / "table.csv").read_bytes(), draw))
        paper_surfaces(path)
    elif kind == "options":
        answer(mutations.arguments(draw, folder), originals, folder)
    elif kind == "another's checkpoint":
        (path,) = originals.glob("other-*.safetensors")
        (folder / path.name.replace("other", "chunk")).write_bytes(path.read_bytes())
        assert Checkpoint(folder / "chunk", "this", 0, warn=lambda text: None).load() is None
        (folder / path.name.replace("other", "chunk")).write_bytes(mutations.mutated(path.read_bytes(), draw))
        assert Checkpoint(folder / "chunk", "this", 0, warn=lambda text: None).load() is None
    else:
        (path,) = originals.glob("chunk-*.safetensors")
        (folder / path.name).write_bytes(mutations.mutated(path.read_bytes(), draw))
        Checkpoint(folder / "chunk", "this", 0, warn=lambda text: None).load()


def answer(words, originals, folder):
    """Gives a command; what it may write and what it says of it."""
    shutil.copy(originals / "study.db", folder / "study.db")
    shutil.copy(originals / "refused", folder / "refused.toml")
    said, here = io.StringIO(), Path.cwd()
    os.chdir(folder)
    try:
        with redirect_stderr(said), redirect_stdout(io.StringIO()):
            status = main(words)
    finally:
        os.chdir(here)
        warnings.showwarning = SHOW
    assert status in (0, 1, 2, 3), words
    assert "Traceback" not in said.getvalue() and (status == 0 or said.getvalue().strip()), (words, said.getvalue())
    assert "\x1b[2J" not in said.getvalue() and "\u202e" not in said.getvalue(), (words, said.getvalue())


def check(seed, originals, folder):
    kind = KINDS[seed % len(KINDS)]
    with limited():
        try:
            attempt(kind, random.Random(seed), originals, folder)
        except WdgridError as error:
            lines = str(error).splitlines()
            assert lines and all(line.strip() for line in lines) and len(lines) <= 31
            assert all(len(line) < 2000 for line in lines)
            assert ":secret@" not in str(error) and "=secret" not in str(error)


@pytest.mark.parametrize("part", range(5))
def test_malformed_input_is_answered(originals, tmp_path, part):
    for seed in range(42 * part, 42 * (part + 1)):
        check(seed, originals, tmp_path)


@pytest.mark.slow
def test_5000_malformed_inputs_are_answered(originals, tmp_path):
    for seed in range(10_000, 15_000):
        check(seed, originals, tmp_path)
