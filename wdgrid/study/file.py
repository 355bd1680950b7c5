"""Reads study files: makes a frozen Study, or one line for each fault, from TOML and `--set` overrides.

Also compares two studies. The validation rules are in `wdgrid.study.sections` and `wdgrid.study.model`.
"""

import copy
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from wdgrid.errors import StudyFileError
from wdgrid.printable import printable
from wdgrid.study.dataset_args import did_you_mean
from wdgrid.study.model import Study
from wdgrid.study.sections import SCHEDULES, FaultsError

MAX_BYTES = 2**20
MAX_LINES = 30  # faults in one message
MAX_KEYS = 32  # parts of a dotted key
# Strings and comments of a TOML file, in which dots and brackets have no meaning.
_QUOTED = re.compile(
    r'"""(?:\\.|[^\\])*?"""|' + r"'''.*?'''|" + r'"(?:\\.|[^"\\\n])*"|' + r"'[^'\n]*'|" + r"\#[^\n]*", re.DOTALL
)


def load_study(path: Path, overrides: Sequence[str] = (), *, allow_code: bool = True) -> Study:
    """Reads and validates a study file. `overrides` are `path.to.field=value` (TOML values; bare words are strings).

    A study that names code as `package.module:function` runs it when it is planned or trained; without `allow_code`
    such a study is refused. Raises StudyFileError with one line per fault: the field, its value, and what is allowed.
    """
    try:
        data = _parsed(_text(path))
    except FileNotFoundError:
        raise StudyFileError([f"{path}: no such file"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyFileError([f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"]) from None
    except ValueError as error:
        raise StudyFileError([f"{path}: not valid TOML: {error}"]) from None
    study = study_of(data, overrides, f"{path}: ")
    if not allow_code:
        refuse_code(study, f"{path}: ")
    return study


def refuse_code(study: Study, prefix: str = "") -> None:
    """Raises StudyFileError, one line per field, if the study names the user's own code; `prefix` begins each line."""
    if fields := study.named_code():
        why = "names code, which --no-code (in Python allow_code=False) does not allow"
        raise StudyFileError([f"{prefix}{field}: {why}" for field in fields])


def study_of(data: Mapping[str, Any], overrides: Sequence[str] = (), prefix: str = "") -> Study:
    """The study of a study file's content; as `load_study`, with `prefix` before each fault."""
    try:
        given = copy.deepcopy(dict(data))
    except RecursionError:
        raise StudyFileError([f"{prefix}nested too deeply"]) from None
    for override in overrides:
        _apply(given, override)
    try:
        return Study.model_validate(given)
    except ValidationError as error:
        faults = list(fault_lines(error))
        lines = [f"{prefix}{line}" for _, line in faults]
        more = [f"{prefix}and {len(lines) - MAX_LINES} more faults"] if len(lines) > MAX_LINES else []
        raise StudyFileError(lines[:MAX_LINES] + more, [field for field, _ in faults[:MAX_LINES]]) from None


def study_of_text(text: str, overrides: Sequence[str] = ()) -> Study:
    """The study of a study file's text; as `load_study`."""
    try:
        if len(text.encode()) > MAX_BYTES:
            raise ValueError(f"a study file has at most {MAX_BYTES} bytes")
        data = _parsed(text.replace("\r\n", "\n"))
    except ValueError as error:
        raise StudyFileError([f"not valid TOML: {error}"]) from None
    return study_of(data, overrides)


def _text(path: Path) -> str:
    """The file's text. Raises OSError, or ValueError if it is longer than MAX_BYTES bytes or not in UTF-8."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"a study file has at most {MAX_BYTES} bytes")
    return content.decode("utf-8").replace("\r\n", "\n")


def _parsed(text: str) -> dict[str, Any]:
    """TOML as a dictionary. Raises ValueError if it is invalid, or so deeply nested that parsing would not end."""
    for piece in re.split(r"[=,{}\[\]\n]", _QUOTED.sub("", text)):
        if piece.count(".") > MAX_KEYS:  # tomllib's time grows with the square of this number
            raise ValueError(f"a dotted key has at most {MAX_KEYS} parts: {piece.strip()[:20]}…")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _apply(data: dict[str, Any], override: str) -> None:
    """Sets one `a.b.0.c=value` in parsed TOML."""
    if any("\ud800" <= c <= "\udfff" for c in override):
        raise StudyFileError([f"--set {_short(override)}: not valid UTF-8"])
    path, separator, text = override.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not separator or not all(keys):
        raise StudyFileError([f"--set {_short(override)}: must be path.to.field=value, such as task.epochs=5"])
    if len(keys) > MAX_KEYS:
        raise StudyFileError([f"--set {_short(override)}: a dotted key has at most {MAX_KEYS} parts"])
    try:
        value = _parsed(f"value = {text}")["value"]
    except ValueError:
        value = text.strip()
    where: Any = data
    for depth, key in enumerate(keys):
        if isinstance(where, list):
            if not key.isdigit() or int(key) >= len(where):
                raise StudyFileError([f"--set {_short(override)}: {_short(key)!r} must be 0 to {len(where) - 1}"])
        elif not isinstance(where, dict):
            place = _short(".".join(keys[:depth]))
            raise StudyFileError([f"--set {_short(override)}: {place} is a value and has no fields"])
        at: Any = int(key) if isinstance(where, list) else key
        if depth == len(keys) - 1:
            where[at] = value
        else:
            where = where[at] if isinstance(where, list) else where.setdefault(at, {})


def fault_lines(error: ValidationError) -> Iterator[tuple[str, str]]:
    """The field's path and a line for each fault: `task.epochs = -3: must be …`."""
    for fault in error.errors():
        # pydantic adds the branch of a union to the path of a fault; it is not in the user's file.
        place = [str(part) for part in fault["loc"] if part not in SCHEDULES and part != "[key]"]
        inner = fault.get("ctx", {}).get("error")
        if fault["type"] == "too_short" and fault["input"]:
            continue  # its items were already refused one by one
        if isinstance(inner, FaultsError):
            for path, value, why in inner.faults:
                yield _line(".".join([*place, path]), value, why)
        elif fault["type"] == "missing":
            yield ".".join(place), f"{_short('.'.join(place))}: is required"
        elif fault["type"] == "extra_forbidden":
            fields = _section_of(fault["loc"]).model_fields
            near = did_you_mean(str(fault["loc"][-1]), fields)
            yield _line(".".join(place), fault["input"], f"unknown key{near or '; allowed: ' + ', '.join(fields)}")
        elif fault["type"] == "union_tag_invalid":
            kind = str(fault["input"]["kind"])
            near = did_you_mean(kind, SCHEDULES)
            yield _line(".".join(place), kind, f"must be one of {', '.join(SCHEDULES)}{near}")
        else:
            why = fault["msg"].removeprefix("Value error, ")
            yield _line(".".join(place), fault["input"], why[0].lower() + why[1:])


def _section_of(place: Sequence[int | str]) -> type[BaseModel]:
    """The section in which a field's path ends."""
    section: type[BaseModel] = Study
    for key in place[:-1]:
        if key in SCHEDULES:
            section = SCHEDULES[str(key)]
        elif isinstance(key, str) and key in section.model_fields:
            annotation = section.model_fields[key].annotation
            inner = [annotation, *getattr(annotation, "__args__", ())]
            section = next((t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)), section)
    return section


def _line(path: str, value: object, why: str) -> tuple[str, str]:
    shown = json.dumps(value, default=str, ensure_ascii=False)
    return path, f"{_short(path)} = {_short(shown)}: {_short(why, 300)}"


def _short(text: str, length: int = 60) -> str:
    text = printable(text).replace("\n", "\\n")
    return text if len(text) <= length else text[: length - 3] + "..."


def differences(stored: str, study: Study) -> list[str]:
    """One line for each difference between a stored canonical study and this one that affects the results."""
    return list(_walk("", Study.model_validate_json(stored).identity(), study.identity()))


def _walk(path: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            yield from _walk(f"{path}.{key}" if path else key, old.get(key), new.get(key))
        if list(old) != list(new) and sorted(old) == sorted(new):
            yield f"{path}: the order was {', '.join(old)}; it is now {', '.join(new)}"
    elif old != new:
        yield f"{path}: was {json.dumps(old, ensure_ascii=False)}; is now {json.dumps(new, ensure_ascii=False)}"


def only_adds(stored: str, study: Study) -> bool:
    """Whether this study is the stored one with more axis values, seeds or panels (what `--extend` allows)."""
    before = Study.model_validate_json(stored)
    old, new = before.identity(), study.identity()
    old_panels = {json.dumps(p, sort_keys=True) for p in old.pop("panels")}
    new_panels = {json.dumps(p, sort_keys=True) for p in new.pop("panels")}
    old_seeds, new_seeds = set(old.pop("seeds")), set(new.pop("seeds"))
    old_axes, new_axes = old.pop("axes"), new.pop("axes")
    if list(old_axes) != list(new_axes):
        return False
    axes_grow = all(
        old_axes[name]["unit"] == new_axes[name]["unit"]
        and set(old_axes[name]["values"]) <= set(new_axes[name]["values"])
        for name in old_axes
    )
    return axes_grow and old == new and old_panels <= new_panels and old_seeds <= new_seeds
