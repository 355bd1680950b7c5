"""A training step as one CUDA graph: Python names its kernels once, the device runs them all at one call.

Small networks with many cells are bound by launches otherwise. **Never run on a device**: no GPU was at hand. What can
be tested without one is in tests/engine/test_resident.py: a step's operations, recorded and run again, are the step.
"""

import sys

import torch

from wdgrid.engine.cuda.resident import Step

WARM_UP = 3  # runs before the recording: in the first ones libraries choose their kernels and take their workspaces


class Graphs:
    """Records the steps of a task's chunks. Where one cannot be recorded it says so, once, and tries no other."""

    def __init__(self) -> None:
        self._refused = False

    def __call__(self, step: Step) -> Step | None:
        """What replays the step, None where it has to be run as it is; the step is run a few times before.

        Raises torch.OutOfMemoryError.
        """
        if self._refused:
            return None
        current = torch.cuda.current_stream()
        try:
            return _recorded(step, current)
        except RuntimeError as error:
            torch.cuda.set_stream(current)
            torch.cuda.synchronize()  # what was run on the side must not write any more
            for cause in (error, error.__context__):  # a recording that ends for want of memory ends with another error
                if isinstance(cause, torch.OutOfMemoryError):
                    raise cause from None
            self._refused = True
            why = " ".join(str(error).split())[:200]
            print(f"wdgrid: steps are not recorded as a CUDA graph, which may be slower: {why}", file=sys.stderr)
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
