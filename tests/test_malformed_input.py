"""Malformed input of every kind is answered with one line a fault, within two seconds of computing, or is accepted."""

import math
import random
import shutil
import signal
from contextlib import contextmanager

import pytest
import torch

from helpers import mutations
from wdgrid.analysis.surface import PAPER_FIGURES, paper_surfaces
from wdgrid.engine import Checkpoint
from wdgrid.errors import WdgridError
from wdgrid.optim.schedule import etas
from wdgrid.store import Store
from wdgrid.study import Study, bundled, load_study
from wdgrid.study.coarse import coarse_study

SECONDS = 2
KINDS = ("study file", "override", "URL", "table", "checkpoint")


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
    Store(f"sqlite:///{folder}/study.db").close()
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
    else:
        (path,) = originals.glob("chunk-*.safetensors")
        (folder / path.name).write_bytes(mutations.mutated(path.read_bytes(), draw))
        Checkpoint(folder / "chunk", "this", 0, warn=lambda text: None).load()


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
    for seed in range(60 * part, 60 * (part + 1)):
        check(seed, originals, tmp_path)


@pytest.mark.slow
def test_5000_malformed_inputs_are_answered(originals, tmp_path):
    for seed in range(10_000, 15_000):
        check(seed, originals, tmp_path)
