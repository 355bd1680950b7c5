"""Defines the data that all folders share: a cell, its outcome, and the columns of the table.

A cell is one (panel, row value, column value, seed); a chunk is a list of cells of one panel and one seed that are
trained together. The engine makes outcomes, the store stores them, and reports read the table.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from wdgrid.optim.variants import VARIANTS

if TYPE_CHECKING:
    import pandas as pd

# How training went wrong, the worst first; `wdgrid.engine.divergence` defines each class.
Divergence = Literal["non-finite", "late blow-up", "stuck at chance", "spike"]


@dataclass(frozen=True)
class Cell:
    """One training run.

    `hyperparameters` has every number that the optimizer needs (lr, weight_decay, momentum or beta1, beta2, eps), in
    the study's own parametrisation; `multiples` are the two axis values as printed, in axis order ("1/32", "16").
    """

    panel: str
    seed: int
    hyperparameters: dict[str, float]
    multiples: tuple[str, str]


@dataclass(frozen=True)
class Curve:
    """Per-epoch values of one cell, until the last epoch before it diverged. Errors in percent, losses in nats."""

    test_error: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    validation_error: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """The result of training one cell.

    `test_error` is in percent and +inf for a diverged cell; `test_loss` and `train_loss` are mean cross-entropies
    (the latter over the last epoch's minibatches); `l2_term` is ½ λ Σ m_i θ_i² with the cell's own λ and the task's
    decay multipliers m (½ λ ‖θ‖² where it has none), apart from the cross-entropy; `weight_norm` is ‖θ‖₂.
    `diverged_at` is the first step (from 1) whose loss was not finite, else None. `seconds` is the chunk's wall time
    divided by the number of its cells. `validation_error` is the error on the validation images, +inf for a diverged
    cell, None without a validation split. `divergence` is the class of what went wrong and `divergence_step` the step
    at which it began; only "non-finite" has an infinite error.
    """

    test_error: float
    test_loss: float
    train_loss: float
    l2_term: float
    weight_norm: float
    diverged_at: int | None
    seconds: float
    curve: Curve
    validation_error: float | None = None
    divergence: Divergence | None = None
    divergence_step: int | None = None

    @property
    def selection_error(self) -> float:
        """The error by which cells are picked: the validation error if there is a split, else the test error."""
        return self.test_error if self.validation_error is None else self.validation_error


# The columns of the table, which has one row for each trial. Further columns are the hyperparameters: `lr`,
# `weight_decay`, `momentum`, `beta1`, `beta2` and `eps`, NaN if the panel's optimizer does not have them.
TABLE_COLUMNS = {
    "panel": "panel name, for instance adamw or adam-constant",
    "optimizer": f"variant: {', '.join(VARIANTS)}",
    "schedule": "constant, step, cosine or restarts",
    "epochs": "budget of the panel",
    "seed": "seed of initialisation, data order and augmentation",
    "row": "first axis' value as a multiple of its unit, as printed (string)",
    "col": "second axis' value as a multiple of its unit, as printed (string)",
    "number": "trial number within the panel's Optuna study",
    "state": "complete, running, waiting or failed",
    "test_error": "percent; +inf where the cell diverged; NaN where it is not complete",
    "validation_error": "percent; +inf where the cell diverged; NaN without a validation split or not complete",
    "test_loss": "mean cross-entropy on the test set",
    "train_loss": "mean cross-entropy over the last epoch's minibatches",
    "l2_term": "half lambda times the squared weights, each times its decay multiplier, summed",
    "weight_norm": "Euclidean norm of all parameters",
    "diverged_at": "first step whose loss was not finite (nullable integer)",
    "divergence": "non-finite, late blow-up, stuck at chance or spike; empty: nothing went wrong, or not checked",
    "divergence_step": "step at which that began (nullable integer)",
    "seconds": "the chunk's wall time divided by the number of its cells",
}


def selection_error(table: "pd.DataFrame") -> Literal["validation_error", "test_error"]:
    """The column by which a table's cells are compared and picked: the validation error if there is one."""
    split = "validation_error" in table.columns and bool(table["validation_error"].notna().to_numpy().any())
    return "validation_error" if split else "test_error"
