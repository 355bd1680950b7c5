"""The engine: trains chunks of K cells at once. Knows nothing of Optuna, SQL, or files but its checkpoints."""

from wdgrid.engine.checkpoint import Checkpoint
from wdgrid.engine.chunk import chunk_size
from wdgrid.engine.loop import Job, Workbench, one_thread, train

__all__ = ["Checkpoint", "Job", "Workbench", "chunk_size", "one_thread", "train"]
