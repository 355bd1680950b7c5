"""wdgrid as a user runs it: small study files, and commands in processes of their own."""

import subprocess
import sys

import pandas as pd

WDGRID = [sys.executable, "-c", "import sys; from wdgrid.cli import main; sys.exit(main())"]


def study_toml(task: str, lr: str, weight_decay: str, unit: float = 1.0, **lr_units: float) -> str:
    """A study file: the lines of its task, its axes, and for each optimizer named a panel with its unit of the rate."""
    panels = "".join(f'[[panels]]\noptimizer = "{name}"\nlr_unit = {of}\n' for name, of in lr_units.items())
    axes = f'[axes.lr]\nvalues = "{lr}"\n[axes.weight_decay]\nvalues = "{weight_decay}"\nunit = {unit}\n'
    return f"[task]\n{task}\n{axes}{panels}"


TASK = """\
model_args = { hidden = [16] }
batch_size = 50
train_size = 200
epochs = 3
device = "cpu"
"""
SMALL = 'title = "small <study>"\n' + study_toml(TASK, "1..1/8", "0, 1/4..4", 0.016, sgd=1.0, adamw=0.1)


LIMIT_S = 400  # of a command: a sweep of the small study took 25 to 111 s beside four busy loops on two cores


def wdgrid(*arguments, cwd, **options):
    return subprocess.run([*WDGRID, *arguments], cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S, **options)


def trials(cwd, name="small"):
    """A report's trials.csv, without what differs from run to run, in an order of its own."""
    frame = pd.read_csv(cwd / "reports" / name / "trials.csv").drop(columns=["seconds", "number"])
    return frame.sort_values(["panel", "seed", "lr", "weight_decay"]).reset_index(drop=True)
