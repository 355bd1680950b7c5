"""Checkpoint files: what is written is read back exactly, and a damaged file is never used."""

import errno
import os
import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.compiled import needs_compiler
from helpers.training import bench_of, cells_of, numbers, run, whole
from wdgrid.engine import Checkpoint, Job, StoppedError, train
from wdgrid.engine.cuda.resident import Resident
from wdgrid.study.sections import Cosine

TENSORS = {
    "theta": torch.arange(12, dtype=torch.float32).reshape(3, 4).t(),  # not contiguous
    "alive": torch.tensor([True, False]),
    "steps": torch.tensor(7),
    "one": torch.tensor(7).expand(1),  # its stride is 0
    "half": torch.ones(3, dtype=torch.bfloat16),
    "none": torch.empty(0, 2),
}
PLAIN = {"diverged_at": [None, 3], "curves": [{"test_error": [1.5]}]}


def checkpoint(tmp_path, warnings, identity="this"):
    return Checkpoint(tmp_path / "chunk", identity, every=0, warn=warnings.append)


def test_what_is_saved_is_loaded(tmp_path):
    warnings = []
    checkpoint(tmp_path, warnings).save(3, (TENSORS, PLAIN))
    epoch, (tensors, plain) = checkpoint(tmp_path, warnings).load()
    assert (epoch, plain, warnings) == (3, PLAIN, [])
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


def test_the_newest_epoch_is_loaded_beyond_six_digits(tmp_path):
    for epoch in (999_999, 1_000_000):
        checkpoint(tmp_path, []).save(epoch, (TENSORS, PLAIN))
    assert checkpoint(tmp_path, []).load()[0] == 1_000_000


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_file_with_one_flipped_bit_is_never_used(tmp_path, where, bit):
    """Everywhere in the file, its padding and its header's length included."""
    warnings = []
    own = checkpoint(tmp_path, warnings)
    own.save(1, (TENSORS, PLAIN))
    own.save(2, (TENSORS, PLAIN))
    path = tmp_path / "chunk-000002.safetensors"
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    path.write_bytes(content)
    loaded = own.load()
    assert loaded is not None and loaded[1][1] == PLAIN
    same = all(torch.equal(loaded[1][0][name], tensor) for name, tensor in TENSORS.items())
    assert same and (loaded[0] == 1) == bool(warnings)
    if warnings:
        assert str(path) in warnings[0] and "damaged" in warnings[0] and "\n" not in warnings[0]
    own.clear()
    assert list(tmp_path.iterdir()) == []


def test_without_an_undamaged_file_the_chunk_starts_again(tmp_path):
    draw, warnings = random.Random(0), []
    checkpoint(tmp_path, []).save(1, (TENSORS, PLAIN))
    path = tmp_path / "chunk-000001.safetensors"
    path.write_bytes(draw.randbytes(len(path.read_bytes())))
    assert checkpoint(tmp_path, warnings).load() is None and len(warnings) == 1


def test_a_checkpoint_without_a_digest_is_not_used(tmp_path):
    """An earlier version wrote such files; a flipped bit in one would go unnoticed."""
    from safetensors.torch import save_file

    warnings = []
    save_file({"a": torch.ones(2)}, tmp_path / "chunk-000001.safetensors", {"identity": "this", "epoch": "1"})
    assert checkpoint(tmp_path, warnings).load() is None and "SHA-256" in warnings[0]


@pytest.mark.parametrize("killed", [".part", ".safetensors"])
def test_clearing_leaves_nothing(tmp_path, killed):
    (tmp_path / f"chunk-000009{killed}").write_bytes(b"")
    (tmp_path / "chunk2-000009.safetensors").write_bytes(b"")
    checkpoint(tmp_path, []).clear()
    assert [path.name for path in tmp_path.iterdir()] == ["chunk2-000009.safetensors"]


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    warnings = []
    own = Checkpoint(tmp_path / "file" / "chunk", "this", every=0, warn=warnings.append)
    own.save(1, (TENSORS, PLAIN))
    assert own.load() is None
    own.clear()
    assert len(warnings) == 1 and "checkpoints cannot be written" in warnings[0] and "\n" not in warnings[0]


def test_a_disk_that_is_full_leaves_no_half_a_file_and_the_checkpoint_before(tmp_path, monkeypatch):
    from wdgrid.engine import checkpoint as module

    warnings = []
    own = checkpoint(tmp_path, warnings)
    own.save(1, (TENSORS, PLAIN))

    def full(_tensors, path, _header):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "save_file", full)
    own.save(2, (TENSORS, PLAIN))
    assert [path.name for path in tmp_path.iterdir()] == ["chunk-000001.safetensors"]
    assert own.load()[0] == 1 and len(warnings) == 1 and "No space left on device" in warnings[0]


@pytest.mark.parametrize("backend", [pytest.param("native", marks=needs_compiler), "stacked", "resident"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "kalman"])
def test_training_that_was_asked_to_end_again_and_again_comes_to_the_same_bits(tmp_path, backend, optimizer):
    """Within epochs, before and within tests, with cells that diverge in between, and a validation split."""
    task = {"model_args": {"hidden": [12]}, "batch_size": 10, "train_size": 80, "validation_size": 30, "epochs": 3}
    bench = bench_of("native" if backend == "native" else "stacked", **task)
    if backend == "resident":
        bench.steps = lambda *given: Resident(*given)
    job, cells = Job(optimizer, Cosine(), 3, False), cells_of(optimizer, [0.01, 1e38, 0.02], [0.01, 1e30, 0.02])
    expected = [numbers(outcome) for outcome in run(bench, job, cells, 4)]
    checkpoint = Checkpoint(tmp_path / "chunk", "this", every=1e9)
    outcomes, ends = None, 0
    while outcomes is None and ends < 100:
        looks = [False] * (ends % 3)  # asked at the first, second or third look
        try:
            outcomes = train(
                bench, job, cells, 4, lambda done: None, checkpoint, lambda left=looks: not left or left.pop()
            )
        except StoppedError as stopped:
            assert stopped.saved
            ends += 1
    assert [numbers(outcome) for outcome in outcomes] == expected and ends > 5


def test_a_step_that_is_the_last_of_its_chunk_is_saved_like_any_other(tmp_path):
    bench = bench_of("stacked", model_args={"hidden": [4]}, batch_size=50, train_size=50, epochs=1)
    job, cells = Job("sgd", Cosine(), 1, False), cells_of("sgd", [0.1], [0.0])
    checkpoint = Checkpoint(tmp_path / "chunk", "this", every=1e9)
    epochs = []
    with pytest.raises(StoppedError):
        train(bench, job, cells, 1, epochs.append, checkpoint, lambda: 1 in epochs)
    assert whole(epochs) == [1] and checkpoint.load()[0] == 1
    assert [numbers(o) for o in train(bench, job, cells, 1, epochs.append, checkpoint)] == [
        numbers(o) for o in run(bench, job, cells, 1)
    ]
    assert whole(epochs) == [1]


def test_a_long_epoch_is_saved_while_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("wdgrid.engine.loop.PAUSE_S", 0.0)
    bench = bench_of("stacked", model_args={"hidden": [4]}, batch_size=10, train_size=50, epochs=1)
    checkpoint, looks = Checkpoint(tmp_path / "chunk", "this", every=0), []

    def killed():
        looks.append(1)
        if len(looks) == 4:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        cells = cells_of("sgd", [0.1], [0.0])
        train(bench, Job("sgd", Cosine(), 1, False), cells, 1, lambda done: None, checkpoint, killed)
    epoch, (tensors, _) = checkpoint.load()
    assert epoch == 0 and len(tensors["losses"]) == 3
