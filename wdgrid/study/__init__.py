"""Defines a study: reads its file, validates it, and lists its cells."""

from wdgrid.study.cells import Cell, Curve, Outcome
from wdgrid.study.file import load_study
from wdgrid.study.model import Study

__all__ = ["Cell", "Curve", "Outcome", "Study", "load_study"]
