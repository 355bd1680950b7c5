"""Records a training step as one CUDA graph, so that one call launches all of its kernels.

Otherwise kernel launches limit the speed of small networks with many cells. **Never run on a GPU**: none was at hand.
tests/engine/test_resident.py tests what it can without one: a step's operations, recorded and replayed, give the step.
"""

import os

import torch

from wdgrid.engine.cuda.resident import Step

WARM_UP = 3  # runs before the recording: in the first ones libraries choose kernels and allocate workspaces


OFF = "WDGRID_CUDA_GRAPHS"  # "off": steps are not recorded


class CaptureError(RuntimeError):
    """A step could not be recorded. The device's state is then unknown, so training continues in a new process."""


class Graphs:
    """Records the steps of a task's chunks, all on one side stream, because each stream has its own workspaces."""

    def __init__(self) -> None:
        self._side: torch.cuda.Stream | None = None

    def __call__(self, step: Step) -> Step | None:
        """A function that replays the step, or None if recording is switched off. Runs the step a few times first.

        Raises torch.OutOfMemoryError, and CaptureError if the step cannot be recorded.
        """
        if os.environ.get(OFF) == "off":
            return None
        self._side = self._side or torch.cuda.Stream()
        try:
            return _recorded(step, self._side, torch.cuda.current_stream())
        except RuntimeError as error:
            for cause in (error, error.__context__):  # if memory runs out, the recording raises another error
                if isinstance(cause, torch.OutOfMemoryError):
                    raise cause from None
            why = " ".join(str(error).split())[:200]
            raise CaptureError(f"a step cannot be recorded as a CUDA graph, training may be slower: {why}") from error


def _recorded(step: Step, side: torch.cuda.Stream, current: torch.cuda.Stream) -> Step:
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        step()
    return graph.replay
