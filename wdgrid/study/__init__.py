"""The study: its file, validated and frozen, and the cells that it stands for."""

from wdgrid.study.cells import Cell, Curve, Outcome
from wdgrid.study.file import load_study
from wdgrid.study.model import Study

__all__ = ["Cell", "Curve", "Outcome", "Study", "load_study"]
