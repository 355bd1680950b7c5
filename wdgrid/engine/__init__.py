"""The engine: trains chunks of K cells at once."""

from wdgrid.engine import processor
from wdgrid.engine.checkpoint import Checkpoint
from wdgrid.engine.chunk import chunk_size
from wdgrid.engine.loop import Job, StoppedError, train
from wdgrid.engine.workbench import Workbench, one_thread

__all__ = ["Checkpoint", "Job", "StoppedError", "Workbench", "chunk_size", "one_thread", "train"]

processor.choose_mode()  # before the process's first product
