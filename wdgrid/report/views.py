"""Names what a map can show: a measure and the scale of its colours."""

from dataclasses import dataclass
from typing import Literal

MeasureName = Literal[
    "test_error",
    "validation_error",
    "test_loss",
    "train_loss",
    "gap",
    "weight_norm",
    "epochs_to_best",
    "spread",
    "seconds",
]
Scale = Literal["linear", "log"]


@dataclass(frozen=True)
class View:
    """What a map shows: a measure, None for the error by which cells are picked, and the scale of its colours."""

    measure: MeasureName | None = None
    scale: Scale = "linear"

    @property
    def suffix(self) -> str:
        """What it adds to a file's name: nothing for a default."""
        return (f"-{self.measure}" if self.measure else "") + ("-log" if self.scale == "log" else "")
