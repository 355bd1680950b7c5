import json

import numpy as np
import pandas as pd
import pytest

from helpers.synthetic_tables import make_study, make_table
from wdgrid.report.export import HYPERPARAMETERS, export
from wdgrid.study.cells import TABLE_COLUMNS

STUDY = make_study()
TABLE = make_table(STUDY)


def test_csv_round_trip_with_inf_in_documented_order(tmp_path):
    path = tmp_path / "new" / "trials.csv"
    export(TABLE[list(reversed(TABLE.columns))], "csv", path)
    back = pd.read_csv(path, dtype={"row": str, "col": str})
    documented = [*TABLE_COLUMNS, *HYPERPARAMETERS]
    assert list(back.columns) == [name for name in documented if name in TABLE]
    assert set(documented) - set(back.columns) <= {"validation_error"}  # only where images are kept apart
    assert np.array_equal(back["test_error"], TABLE["test_error"], equal_nan=True)
    diverged = next(line for line in path.read_text("utf-8").splitlines() if ",inf," in line)
    assert diverged.startswith("sgd,sgd,cosine,3,0,1,2,5,complete,inf,")
    assert ",17," in diverged


def test_json_is_strict_and_tells_diverged_from_waiting(capsys):
    export(TABLE, "json")

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    rows = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert len(rows) == len(TABLE)
    waiting = [r for r in rows if r["state"] == "waiting"]
    diverged = [r for r in rows if r["diverged_at"] is not None]
    assert len(waiting) == 4 and all(r["test_error"] is None and r["diverged_at"] is None for r in waiting)
    assert len(diverged) == 16 and all(r["test_error"] is None and r["diverged_at"] == 17 for r in diverged)
    assert isinstance(rows[1]["test_error"], float) and isinstance(rows[1]["seed"], int)


def test_csv_to_stdout_equals_the_file(tmp_path, capsys):
    export(TABLE, "csv", tmp_path / "t.csv")
    export(TABLE, "csv")
    assert capsys.readouterr().out == (tmp_path / "t.csv").read_text("utf-8")


def test_parquet_round_trip_and_needs_a_file(tmp_path):
    pytest.importorskip("pyarrow")
    export(TABLE, "parquet", tmp_path / "t.parquet")
    back = pd.read_parquet(tmp_path / "t.parquet")
    assert np.array_equal(back["test_error"], TABLE["test_error"], equal_nan=True)
    assert back["diverged_at"].dtype == "Int64"
    with pytest.raises(ValueError, match="a file"):
        export(TABLE, "parquet")


def test_integers_stay_integers_where_the_table_holds_floats(capsys):
    table = TABLE.assign(diverged_at=TABLE["diverged_at"].astype(float), row="<b>é")
    export(table, "csv")
    assert "<b>é,2,5,complete,inf,,,,,,17,non-finite,17," in capsys.readouterr().out
