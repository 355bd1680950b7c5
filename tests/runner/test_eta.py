"""How long it will take, and what happens when memory runs out on the way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.commands import study_toml
from wdgrid.cli.event_words import span
from wdgrid.runner.eta import Pace, chunk_epochs, seconds

TASK = """\
dataset_args = { shift = 0 }
train_size = 60
test_size = 50
model = "fragile:network"
batch_size = 20
epochs = 2
device = "cpu"
"""
STUDY = study_toml(TASK, "1, 1/2, 1/4", "0, 1", 0.01, sgdw=0.1)
# A user's module whose import, in the worker, makes the engine's chunks of more than `most` cells run out of memory.
FRAGILE = """\
import torch
from wdgrid.engine.loop import Chunk

real = Chunk.__init__

def heavy(self, bench, job, cells, size):
    if size > {most}:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    real(self, bench, job, cells, size)

if Chunk.__init__ is not heavy:
    Chunk.__init__ = heavy

def network():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
"""


def test_chunk_epochs_count_chunks_of_each_panel_and_seed():
    assert chunk_epochs({("a", 0): 5, ("a", 1): 4, ("b", 0): 1}, {"a": 10, "b": 3}, 4) == (2 + 1) * 10 + 3


@given(st.integers(1, 500), st.integers(1, 8), st.floats(1e-3, 1e3))
def test_a_steady_pace_is_foreseen_exactly(to_go, workers, each):
    pace = Pace(to_go, workers)
    assert pace.left is None
    for done in range(1, to_go):
        pace.epoch(each, done * each / workers)
        assert pace.left == pytest.approx(seconds(to_go - done, each, workers))
    if to_go > workers:
        assert pace.first == pytest.approx(to_go * each / workers)


@pytest.mark.parametrize(("s", "words"), [(4.4, "4 s"), (89, "89 s"), (600, "10 min"), (3600 * 3.5, "3 h 30 min")])
def test_spans_in_words(s, words):
    assert span(s) == words


@pytest.mark.slow
@pytest.mark.parametrize(("most", "status"), [(2, 0), (0, 1)])
def test_out_of_memory_halves_the_chunk_and_loses_nothing(tmp_path, monkeypatch, capsys, most, status):
    from wdgrid.cli import main
    from wdgrid.store import Store

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "fragile.py").write_text(FRAGILE.format(most=most))
    (tmp_path / "study.toml").write_text(STUDY)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    assert main(["sweep", "study.toml", "--storage", url, "--workers", "1"]) == status
    told = capsys.readouterr().err
    with Store(url) as store:
        table, attrs = store.table("study"), store.attrs("study")
    if status:
        assert "out of memory" in told and "Traceback" not in told
        assert set(table["state"]) == {"failed"} and attrs["chunk"] == 1
    else:
        assert "memory ran out with 3 cells at once: 2 from here on" in told
        assert set(table["state"]) == {"complete"} and attrs["chunk"] == 2
        assert "3 cells" in attrs["environment"]["memory"]
        assert "were expected after the first epochs" in attrs["environment"]["training"]
