"""Writes the table of trials as CSV, Parquet or JSON."""

import json
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from wdgrid.study.cells import TABLE_COLUMNS

HYPERPARAMETERS = ("lr", "weight_decay", "momentum", "beta1", "beta2", "eps")
INTEGERS = ("epochs", "seed", "number", "diverged_at", "divergence_step")


def export(table: pd.DataFrame, fmt: Literal["csv", "parquet", "json"], path: Path | None = None) -> None:
    """Writes the table to `path`, or to standard output without a path (CSV and JSON only).

    A diverged cell's error is `inf` in CSV and Parquet. JSON has no infinity: there it is null, and `diverged_at`
    distinguishes it from a cell that is not complete. Raises ValueError for Parquet without a path.
    """
    tidy = ordered(table)
    if fmt == "parquet":
        if path is None:
            raise ValueError("parquet is a binary format and needs a file to write to")
        path.parent.mkdir(parents=True, exist_ok=True)
        tidy.to_parquet(path, index=False)
        return
    text = tidy.to_csv(index=False, lineterminator="\n") if fmt == "csv" else _json(tidy)
    if path is None:
        sys.stdout.write(text)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the documented columns first, in their order, then all others; integers as integers."""
    known = [name for name in (*TABLE_COLUMNS, *HYPERPARAMETERS) if name in table]
    tidy = table.loc[:, known + [name for name in table.columns if name not in known]]
    return tidy.astype({name: "Int64" for name in INTEGERS if name in tidy})


def _json(table: pd.DataFrame) -> str:
    """An array with one object per line: valid JSON (RFC 8259) that line-based tools can read."""
    plain = table.astype(object).where(table.notna(), None).replace({np.inf: None, -np.inf: None})
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in plain.to_dict("records"))
    return "[\n" + ",\n".join(lines) + "\n]\n"
