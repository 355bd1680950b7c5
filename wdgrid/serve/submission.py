"""Reads and validates submitted studies, finds the line of each fault, and applies the operator's limits."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from wdgrid.errors import StudyFileError
from wdgrid.serve.problems import Fault, InvalidStudyError
from wdgrid.serve.settings import Settings
from wdgrid.study import Study
from wdgrid.study.bundled import folder, names
from wdgrid.study.file import study_of, study_of_text

_HEADER = re.compile(r"\s*(\[\[?)\s*([\w.\-\s]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"\s*([\w.\-]+)\s*=")


def shipped_text(name: str) -> str | None:
    """The study file of a shipped study; None if there is none of that name."""
    return (folder() / f"{name}.toml").read_text(encoding="utf-8") if name in names() else None


def checked(text: str, overrides: Sequence[str], settings: Settings) -> Study:
    """The study of a study file's text. Raises InvalidStudyError with every fault and its line."""
    try:
        study = study_of_text(text, overrides)
    except StudyFileError as error:
        raise InvalidStudyError(list(_faults(error, text))) from None
    if faults := list(_forbidden(study, settings)):
        raise InvalidStudyError([Fault(field=f, line=line_of(text, f), message=f"{f}: {why}") for f, why in faults])
    return _without_downloads(study)


def _faults(error: StudyFileError, text: str) -> Iterator[Fault]:
    for position, line in enumerate(error.lines):
        field = error.fields[position] if position < len(error.fields) else ""
        at = re.search(r"\(at line (\d+)", line)
        yield Fault(field=field, line=int(at[1]) if at else line_of(text, field), message=line)


def _forbidden(study: Study, settings: Settings) -> Iterator[tuple[str, str]]:
    """Code and folders of this machine that a submitted study names without permission."""
    for field, value in (("task.dataset", study.task.dataset), ("task.model", study.task.model)):
        if ":" in value and value not in settings.code and value.partition(":")[0] not in settings.code:
            yield field, f"names code ({value}), which this service does not allow; wdgrid serve --allow-code does"
    root = study.task.dataset_args.get("root")
    if ":" not in study.task.dataset and root not in (None, "."):
        place = (settings.folder / str(root)).resolve()
        if not any(place.is_relative_to(allowed.resolve()) for allowed in settings.data):
            yield "task.dataset_args.root", "this service does not allow this folder; wdgrid serve --allow-data does"
    cells = number_of_cells(study)
    if cells > settings.most_cells:
        yield "axes", f"the study has {cells} cells; this service takes at most {settings.most_cells}"


def _without_downloads(study: Study) -> Study:
    """The same study, restricted to data on this machine, which does not change its identity."""
    if study.task.dataset_args.get("download") is not True:
        return study
    data: dict[str, Any] = study.model_dump(mode="json", exclude_unset=True)
    data["task"].setdefault("dataset_args", {})["download"] = False
    return study_of(data)


@dataclass
class _Place:
    path: str
    line: int


def line_of(text: str, field: str) -> int | None:
    """The line (from 1) of a field in a study file, or else of the section to which the field belongs."""
    if not field:
        return None
    places = list(_places(text))
    wanted = field
    while wanted:
        if found := [place.line for place in places if place.path == wanted]:
            return found[0]
        if found := [place.line for place in places if place.path.startswith(f"{wanted}.")]:
            return found[0]
        wanted = wanted.rpartition(".")[0]
    return None


def _places(text: str) -> Iterator[_Place]:
    """Every header and key of a TOML text with its line; items of an array of tables are numbered."""
    section, counts = "", dict[str, int]()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            section = re.sub(r"\s", "", header[2])
            if header[1] == "[[":
                counts[section] = counts.get(section, -1) + 1
                section = f"{section}.{counts[section]}"
            yield _Place(section, number)
        elif key := _KEY.match(line):
            yield _Place(f"{section}.{key[1]}" if section else key[1], number)


def number_of_cells(study: Study) -> int:
    """The number of cells of all panels and seeds."""
    return math.prod(len(axis.values) for axis in study.axes.values()) * len(study.seeds) * len(study.panels)
