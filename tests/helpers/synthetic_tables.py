"""Synthetic tables for tests of what is drawn: a known surface, some cells diverged, some not trained."""

from typing import Any

import numpy as np
import pandas as pd

from wdgrid.study import Study

SMALL: dict[str, Any] = {
    "title": "A synthetic study",
    "task": {"batch_size": 50, "epochs": 3, "train_size": 900},
    "axes": {
        "lr": {"values": "1..1/16"},
        "weight_decay": {"values": "0, 1/8..4", "unit": 0.016},
    },
    "panels": [
        {"optimizer": "sgd", "lr_unit": 1.0},
        {"optimizer": "sgdw", "lr_unit": 1.0},
        {"optimizer": "adam", "lr_unit": 0.1},
        {"optimizer": "adamw", "lr_unit": 0.1},
    ],
}


def make_study(**changes: Any) -> Study:
    return Study.model_validate({**SMALL, **changes})


def error_of(optimizer: str, lr: float, decay: float) -> float:
    """Coupled for L2 (only the product matters), separable for decoupled; best error 2."""
    a, b = np.log2(lr), np.log2(decay) if decay else -6.0
    if optimizer in ("sgd", "adam"):
        return float(2.0 + 0.08 * (a + b + 2.0) ** 2 + 0.03 * (a + 2.0) ** 2)
    return float(2.0 + 0.06 * (a + 3.0) ** 2 + 0.1 * (b - 1.0) ** 2)


def make_table(study: Study, *, diverged: bool = True, missing: bool = True, noise: float = 0.0) -> pd.DataFrame:
    """A complete table; the fastest rate with the largest decay diverged, the first cell of each panel waits."""
    draw = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for name, cells in study.cells().items():
        panel = study.panel_names()[name]
        for number, cell in enumerate(cells):
            lr, decay = cell.hyperparameters.get("lr", 0.1), cell.hyperparameters.get("weight_decay", 0.0)
            unit = study.unit(panel, "weight_decay") if "weight_decay" in study.axes else 0.016
            lr_unit = study.unit(panel, "lr") if "lr" in study.axes else 1.0
            error = error_of(panel.optimizer, lr / lr_unit, decay / unit) + noise * draw.normal()
            blown = diverged and lr / lr_unit >= 0.5 and decay / unit >= 2
            waits = missing and number % len(cells) == 0
            rows.append(
                {
                    "panel": name,
                    "optimizer": panel.optimizer,
                    "schedule": panel.schedule.kind,
                    "epochs": study.panel_epochs(panel),
                    "seed": cell.seed,
                    "row": cell.multiples[0],
                    "col": cell.multiples[1],
                    "number": number,
                    "state": "waiting" if waits else "complete",
                    "test_error": np.nan if waits else np.inf if blown else error,
                    "validation_error": np.nan,
                    "test_loss": np.nan if waits or blown else error / 30,
                    "train_loss": np.nan if waits or blown else error / 60,
                    "l2_term": np.nan if waits or blown else decay,
                    "weight_norm": np.nan if waits or blown else 10.0,
                    "diverged_at": 17 if blown and not waits else None,
                    "divergence": "non-finite" if blown and not waits else None,
                    "divergence_step": 17 if blown and not waits else None,
                    "seconds": np.nan if waits else 0.1,
                    **{k: cell.hyperparameters.get(k, np.nan) for k in ("lr", "weight_decay", "momentum")},
                    **{k: cell.hyperparameters.get(k, np.nan) for k in ("beta1", "beta2", "eps")},
                }
            )
    return pd.DataFrame(rows).astype({"diverged_at": "Int64", "divergence": "string", "divergence_step": "Int64"})


def validated(seeds=(0,), **task):
    """A study with a split and its table, whose best cell on test is not the best on validation."""
    study = make_study(seeds=list(seeds), task={"batch_size": 50, "epochs": 3, "validation_size": 200, **task})
    table = make_table(study)
    table["validation_error"] = table["test_error"] + 0.3
    best = table.groupby("panel")["test_error"].transform("min") == table["test_error"]
    table.loc[best, "validation_error"] += 1.5  # lucky on test
    return study, table


def flagged(table: pd.DataFrame, classes: dict[tuple[str, str, str, int], tuple[str, int]]) -> pd.DataFrame:
    """The table with the divergence classes and steps given by (panel, row, column, seed)."""
    changed = table.copy()
    for (panel, row, col, seed), (kind, step) in classes.items():
        at = (table["panel"] == panel) & (table["row"] == row) & (table["col"] == col) & (table["seed"] == seed)
        changed.loc[at, ["divergence", "divergence_step"]] = [kind, step]
    return changed


def make_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Curves that fall to the cell's error; a diverged cell has one epoch only."""
    rows = []
    for cell in table[table["state"] == "complete"].to_dict("records"):
        blown = not np.isfinite(cell["test_error"])
        for epoch in range(1, 2 if blown else cell["epochs"] + 1):
            error = 90.0 if blown else cell["test_error"] + 40.0 / epoch - 40.0 / cell["epochs"]
            rows.append((cell["panel"], cell["number"], epoch, error, error / 30, error / 60))
    names = ["panel", "number", "epoch", "test_error", "test_loss", "train_loss"]
    return pd.DataFrame(rows, columns=names)
