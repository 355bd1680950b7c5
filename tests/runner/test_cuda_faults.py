"""What a worker does after a fault of CUDA's: played without a GPU, by a chunk that raises."""

import multiprocessing
from types import SimpleNamespace

import pytest
import torch

from wdgrid.engine.cuda.graph import OFF, CaptureError
from wdgrid.runner import worker
from wdgrid.runner.events import Notice
from wdgrid.runner.messages import Fault, OutOfMemory, Ready, Restart
from wdgrid.study.sections import Task

TASK = Task(model_args={"hidden": [4]}, train_size=50, device="cpu")


@pytest.fixture
def served(monkeypatch):
    """The messages of a worker, in this process, to which three chunks are sent, each of which raises `error`."""

    def serve(error, device="cuda"):
        def fail(*_):
            raise error

        bench = SimpleNamespace(device=torch.device(device))
        monkeypatch.setattr(worker, "_workbench", lambda *_: bench)
        monkeypatch.setattr(worker, "_probe", lambda *_: Ready({}, 1, None))
        monkeypatch.setattr(worker, "_restart", lambda *_: None)
        monkeypatch.setattr(worker, "_checkpoint", lambda *_: SimpleNamespace(clear=lambda: None))
        monkeypatch.setattr(worker, "_train", fail)
        ours, theirs = multiprocessing.Pipe()
        for _ in range(3):
            ours.send("a chunk")
        ours.send(None)
        monkeypatch.setattr(worker, "_on_sigterm", lambda handler: worker.contextlib.nullcontext())
        messages = []
        while_open = SimpleNamespace(recv=lambda: theirs.recv() or _end(), send=messages.append)
        worker._serve(while_open, TASK, 1, 1, None, worker.Ending(), own_process=True)
        return messages[1:]

    return serve


def _end():
    raise EOFError


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: device-side assert triggered",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    ],
)
def test_a_worker_leaves_after_an_error_of_cudas(served, words):
    (fault,) = served(torch.AcceleratorError(words) if hasattr(torch, "AcceleratorError") else RuntimeError(words))
    assert isinstance(fault, Fault) and words in fault.why


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    ],
    ids=str,
)
def test_a_worker_stays_where_memory_ran_out(served, error):
    assert [type(message) for message in served(error)] == [OutOfMemory] * 3


def test_a_failed_recording_asks_for_a_new_worker_without_graphs(served):
    warned, restart = served(CaptureError("a step cannot be recorded as a CUDA graph"))
    assert isinstance(warned, Notice) and "cannot be recorded" in warned.text
    assert restart == Restart({OFF: "off"})


def test_on_a_cpu_a_worker_stays(served):
    assert [type(message) for message in served(RuntimeError("it broke"), device="cpu")] == [Fault] * 3
