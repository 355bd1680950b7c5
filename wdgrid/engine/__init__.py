"""The engine: trains chunks of K cells at once. Knows nothing of Optuna, SQL or files."""

from wdgrid.engine.loop import Job, Workbench, chunk_size, train

__all__ = ["Job", "Workbench", "chunk_size", "train"]
