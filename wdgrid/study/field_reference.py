"""Writes help on every field of a study file as Markdown, from the fields' types, defaults and descriptions.

`wdgrid fields` prints it, and docs/study.md is a copy of what it prints.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from wdgrid.optim.variants import VARIANTS
from wdgrid.study.dataset_args import BUILT_IN_DATASETS
from wdgrid.study.model import Study
from wdgrid.study.model_args import BUILT_IN_MODELS
from wdgrid.study.sections import SCHEDULES, Axis, Panel, Report, Task

HEAD = """\
# The fields of a study file

A study file is TOML; at the end of this page are [two complete ones](#two-complete-files). If the default is –, the
field is not set by default, and the last column says what that means. A field that is not listed is refused.
`--set task.epochs=5` overrides a field for one command, and `--set panels.0.lr_unit=0.1` one of the first panel.
`wdgrid fields` prints this page, and `wdgrid fields crop` prints its part on one field or section.

A study file that names a dataset or a network as "package.module:function" runs that code when it is planned or
trained. `--no-code` refuses such a file.
"""
EXAMPLES = """\
## Two complete files

The smallest one: AdamW with a cosine schedule, an MLP on handwritten digits, 7 × 11 cells.

```toml
[task]

[axes.lr]
values = "1..1/64"
unit = 0.1

[axes.weight_decay]
values = "0, 1/32..16"
unit = 0.016

[[panels]]
optimizer = "adamw"
```

Normalized decay, so that panels with different budgets should have the same best decay; three seeds; 200 validation
images to pick the best cells; no decay of biases and batch norm. 3 panels × 3 seeds × 5 × 6 cells.

```toml
title = "Normalized decay at two budgets"
seeds = [0, 1, 2]
decay = "normalized"

[task]
dataset = "digits"
dataset_args = { shift = 1 }
validation_size = 200
model = "mlp"
model_args = { hidden = [64, 64] }
decay_multipliers = { "@norm" = 0, "@bias" = 0 }
batch_size = 50
epochs = 30

[axes.lr]
values = "1..1/16"
unit = 0.1

[axes.weight_decay]
values = "0, 1/4..4"
unit = 0.2

[[panels]]
optimizer = "adamw"

[[panels]]
optimizer = "adamw"
epochs = 10

[[panels]]
optimizer = "sgdw"
schedule = { kind = "restarts", period = 10, multiplier = 2 }
lr_unit = 1.0

[report]
top_k = 5
```
"""


@dataclass(frozen=True)
class Row:
    """One field, as text."""

    name: str
    allowed: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Section:
    """The fields of one table of a study file. `words` are names that a user may give, `level` is the heading's."""

    words: tuple[str, ...]
    heading: str
    level: int
    about: str
    rows: tuple[Row, ...]

    def markdown(self) -> str:
        """Heading, description, and a table of the fields."""
        lines = [f"{'#' * self.level} {self.heading}", "", self.about]
        if self.rows:
            lines += ["", "| field | allowed | default | meaning |", "|---|---|---|---|"]
        for row in self.rows:
            lines.append(f"| `{row.name}` | {_plain(row.allowed)} | {row.default} | {_plain(row.meaning)} |")
        return "\n".join(lines) + "\n"


def page() -> str:
    """The whole text of docs/study.md."""
    return "\n".join([HEAD, *(section.markdown() for section in sections()), EXAMPLES])


def about(word: str) -> str:
    """The page's part on a section or a field. Raises LookupError, with similar names, if there is none."""
    return "\n".join(section.markdown() for section in matching(word))


def matching(word: str | None) -> list[Section]:
    """The sections of that name, or with fields of that name; all without one. Raises LookupError as `about`."""
    every = list(sections())
    if word is None:
        return every
    found = [s if word in s.words else replace(s, rows=tuple(r for r in s.rows if r.name == word)) for s in every]
    parts = [section for section in found if section.rows or word in section.words]
    if not parts:
        names = sorted({name for s in every for name in (*s.words, *(row.name for row in s.rows))})
        near = get_close_matches(word, names)
        ask = (
            f"did you mean {', '.join(near)}?" if near else f"sections: {', '.join(w for s in every for w in s.words)}"
        )
        raise LookupError(f"{word}: no field or section of a study file has this name; {ask}")
    return parts


def sections() -> Iterator[Section]:
    """Every section of a study file, in the page's order."""
    yield _section(Study, "Top level", ["study"], 2)
    yield _section(Task, "`[task]`", ["task"], 2)
    yield from _built_in("dataset", BUILT_IN_DATASETS)
    yield from _built_in("model", BUILT_IN_MODELS)
    yield _section(Axis, "`[axes.NAME]`", ["axes"], 2)
    yield _section(Panel, "`[[panels]]`", ["panels"], 2)
    yield Section(("optimizers",), "Hyperparameters of the optimizers", 3, _hyperparameters(), ())
    for kind, schedule in SCHEDULES.items():
        yield _section(schedule, f'`schedule = {{ kind = "{kind}" }}`', [kind], 3)
    yield _section(Report, "`[report]`", ["report"], 2)


def _built_in(field: str, known: Mapping[str, type[BaseModel]]) -> Iterator[Section]:
    for args in dict.fromkeys(known.values()):
        names = [name for name, own in known.items() if own is args]
        values = " or ".join(f'`{field} = "{name}"`' for name in names)
        yield _section(args, f"`{field}_args` of {values}", names, 3)


def _hyperparameters() -> str:
    lines = ["Each optimizer has lr, weight_decay and these. The default holds if one is neither an axis nor set."]
    lines += ["", "| optimizer | hyperparameters |", "|---|---|"]
    for variant in VARIANTS.values():
        defaults = ", ".join(f"{name} = {value:g}" for name, value in variant.defaults.items())
        lines.append(f"| `{variant.name}` | {defaults} |")
    return "\n".join(lines)


def _section(model: type[BaseModel], heading: str, words: Sequence[str], level: int) -> Section:
    properties = model.model_json_schema()["properties"] if model.model_fields else {}
    rows = (
        Row(name, _allowed(properties[name]), _default(field, properties[name]), field.description or "")
        for name, field in model.model_fields.items()
    )
    return Section(tuple(words), heading, level, _plain(model.__doc__ or ""), tuple(rows))


def _default(field: FieldInfo, schema: dict[str, Any]) -> str:
    # A schedule's kind has a default, but a table must give it: it decides which schedule the table is.
    if field.is_required() or "const" in schema:
        return "required"
    return "–" if field.default is None else f"`{_toml(field.default)}`"


def _toml(value: Any) -> str:
    """A default as TOML."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(own)}' for key, own in value.items())} }}" if value else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _allowed(schema: dict[str, Any]) -> str:
    """What a field's JSON schema allows, as text; the schema's own text if it has one."""
    match schema:
        case {"allowed": words}:
            return words
        case {"anyOf": kinds}:
            return " or ".join(_allowed(kind) for kind in kinds if kind != {"type": "null"})
        case {"const": value}:
            return _toml(value)
        case {"enum": values}:
            return ", ".join(map(_toml, values))
        case {"$ref": _}:
            return "section"
        case {"prefixItems": kinds}:
            return f"[{', '.join(map(_allowed, kinds))}]"
        case {"type": "array", "items": kind}:
            return f"list{_length(schema)}: {_allowed(kind)} each"
        case {"propertyNames": {"enum": names}}:
            return f"sections {', '.join(names)}"
        case {"type": "object", "additionalProperties": True}:
            return "table"
        case {"type": "object", "additionalProperties": kind}:
            return f"table: {_allowed(kind)} each"
        case _:
            pass
    words = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}[
        schema["type"]
    ]
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    return f"{words} {', '.join(bounds)}" if bounds else words + ", not empty" * ("minLength" in schema)


def _length(schema: dict[str, Any]) -> str:
    limits = ["at least one"] * ("minItems" in schema)
    limits += [f"at most {schema['maxItems']}"] if "maxItems" in schema else []
    return f" ({', '.join(limits)})" if limits else ""


def _plain(words: str) -> str:
    """The text with Markdown's special characters escaped."""
    return re.sub(r"[*|]|<(?=\w)", r"\\\g<0>", words)
