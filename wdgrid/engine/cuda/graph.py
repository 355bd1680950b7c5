"""Records a training step as one CUDA graph, so that one call launches all of its kernels.

Otherwise kernel launches limit the speed of small networks with many cells. **Never run on a GPU**: none was at hand.
tests/engine/test_resident.py tests what it can without one: a step's operations, recorded and replayed, give the step.
"""

import sys

import torch

from wdgrid.engine.cuda.resident import Step

WARM_UP = 3  # runs before the recording: in the first ones libraries choose kernels and allocate workspaces


class Graphs:
    """Records the steps of a task's chunks. If one cannot be recorded, warns once and records no other."""

    def __init__(self) -> None:
        self._refused = False

    def __call__(self, step: Step) -> Step | None:
        """A function that replays the step, or None if the step cannot be recorded. Runs the step a few times first.

        Raises torch.OutOfMemoryError.
        """
        if self._refused:
            return None
        current = torch.cuda.current_stream()
        try:
            return _recorded(step, current)
        except RuntimeError as error:
            torch.cuda.set_stream(current)
            torch.cuda.synchronize()  # the work on the side stream must have finished
            for cause in (error, error.__context__):  # if memory runs out, the recording raises another error
                if isinstance(cause, torch.OutOfMemoryError):
                    raise cause from None
            self._refused = True
            why = " ".join(str(error).split())[:200]
            print(f"wdgrid: could not record a step as a CUDA graph, training may be slower: {why}", file=sys.stderr)
            return None


def _recorded(step: Step, current: torch.cuda.Stream) -> Step:
    side = torch.cuda.Stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        step()
    return graph.replay
