"""Defines the study: rules between its sections, its panels' names, its cells, and when two studies are the same."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from wdgrid.optim.variants import VARIANTS
from wdgrid.printable import printable
from wdgrid.study.axes import MAX_VALUES, label, scale
from wdgrid.study.cells import Cell
from wdgrid.study.dataset_args import WHERE, FaultsError, Frozen
from wdgrid.study.sections import MAX_PANELS, Axis, DecayUnits, HyperparameterName, Panel, Report, Task

Fault = tuple[str, object, str]
MAX_CELLS = 1_000_000
MAX_DEPTH = 16  # tables and lists inside each other
BELOW_ONE = ("momentum", "beta1", "beta2")


class Study(Frozen):
    """The top level of a study file."""

    title: str = Field("", description="heading of figures and reports; if not given, the study's name")
    task: Task = Field(description="what is trained: [task]")
    axes: dict[HyperparameterName, Axis] = Field(
        description="exactly two hyperparameters, [axes.NAME] each: the first is drawn as rows, the second as columns"
    )
    panels: tuple[Panel, ...] = Field(
        description="[[panels]], one for each heatmap", min_length=1, max_length=MAX_PANELS
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31, strict=True)], ...] = Field(
        (0,),
        description="the whole grid is trained once for each seed; no two may be equal",
        min_length=1,
        max_length=MAX_VALUES,
    )
    decay: DecayUnits = Field(
        "raw",
        description="meaning of weight decay; raw: λ itself; normalized: λ_norm, with λ = λ_norm √(b/(B T)), b the "
        "batch size, B the training images used, T the epochs of the current restart period (without restarts, of the "
        "budget)",
    )
    report: Report = Field(Report.model_validate({}), description="how the results are drawn: [report]")

    @property
    def row(self) -> str:
        """Hyperparameter of the rows (first axis)."""
        return next(iter(self.axes))

    @property
    def column(self) -> str:
        """Hyperparameter of the columns (second axis)."""
        return list(self.axes)[1]

    def panel_epochs(self, panel: Panel) -> int:
        """Budget of a panel in epochs."""
        return panel.epochs or self.task.epochs

    def unit(self, panel: Panel, axis: str) -> float:
        """Unit of an axis in a panel."""
        own = {"lr": panel.lr_unit, "weight_decay": panel.weight_decay_unit}.get(axis)
        return self.axes[axis].unit if own is None else own  # type: ignore[index]

    def normalized(self, panel: Panel) -> bool:
        """Whether a panel's decay is λ_norm."""
        return (panel.decay or self.decay) == "normalized"

    def panel_names(self) -> dict[str, Panel]:
        """Panels by name, in order. A name is as short as possible: adamw, adamw-step, adamw-step-25."""
        optimizers = [p.optimizer for p in self.panels]
        pairs = [(p.optimizer, p.schedule.kind) for p in self.panels]
        names: dict[str, Panel] = {}
        for panel, pair in zip(self.panels, pairs, strict=True):
            name = panel.name or panel.optimizer
            if panel.name is None and optimizers.count(panel.optimizer) > 1:
                name += f"-{panel.schedule.kind}"
                if pairs.count(pair) > 1:
                    name += f"-{self.panel_epochs(panel)}"
            names[name] = panel
        return names

    def hyperparameters(self, panel: Panel) -> dict[str, float]:
        """The panel's fixed hyperparameters (those that are not an axis)."""
        fixed = {"lr": panel.lr, "weight_decay": panel.weight_decay}
        for name, default in VARIANTS[panel.optimizer].defaults.items():
            given = getattr(panel, name)
            fixed[name] = default if given is None else given
        return {k: v for k, v in fixed.items() if v is not None and k not in self.axes}

    def cells(self) -> dict[str, list[Cell]]:
        """Every cell of the study by panel, seed by seed, row by row."""
        unfolded: dict[str, list[Cell]] = {}
        for name, panel in self.panel_names().items():
            fixed = self.hyperparameters(panel)
            rows, columns = (
                [(label(multiple), scale(multiple, self.unit(panel, of))) for multiple in axis.values]
                for of, axis in self.axes.items()
            )
            unfolded[name] = [
                Cell(
                    panel=name,
                    seed=seed,
                    hyperparameters={**fixed, self.row: row, self.column: column},
                    multiples=(row_label, column_label),
                )
                for seed in self.seeds
                for row_label, row in rows
                for column_label, column in columns
            ]
        return unfolded

    def identity(self) -> dict[str, Any]:
        """The parts that affect the results: not the title, the report, the device or the place of published data."""
        canonical = self.model_dump(mode="json", exclude={"title": True, "report": True, "task": {"device"}})
        # Fields added later are left out if they are not set, so that studies stored earlier keep their digest.
        unset = [{n for n in ("weight_decay_unit", "decay") if getattr(p, n) is None} for p in self.panels]
        canonical["panels"] = [
            {"name": name, **panel.model_dump(mode="json", exclude={"name", *later})}
            for (name, panel), later in zip(self.panel_names().items(), unset, strict=True)
        ]
        # A list, because the order of the patterns matters.
        canonical["task"]["decay_multipliers"] = [list(pair) for pair in self.task.decay_multipliers.items()]
        for later in ("validation_size", "test_size", "decay_multipliers"):
            if not canonical["task"][later]:
                del canonical["task"][later]
        if self.task.output is None:
            del canonical["task"]["output"]
        for name in WHERE.get(self.task.dataset, ()):
            del canonical["task"]["dataset_args"][name]
        return canonical

    def named_code(self) -> list[str]:
        """Fields that name the user's own code, which training would run, such as `task.model = mine:net`."""
        fields = {"task.dataset": self.task.dataset, "task.model": self.task.model}
        return [f"{field} = {value}" for field, value in fields.items() if ":" in value]

    def canonical(self) -> str:
        """The whole study as canonical JSON. The order of the axes is preserved: the first one is drawn as rows."""
        return json.dumps(self.model_dump(mode="json"), ensure_ascii=False, separators=(",", ":"))

    def digest(self) -> str:
        """SHA-256 of the identity."""
        return hashlib.sha256(json.dumps(self.identity(), ensure_ascii=False).encode()).hexdigest()

    @model_validator(mode="before")
    @classmethod
    def _plain_data(cls, data: object) -> object:
        if faults := list(_unprintable(data)):
            raise FaultsError(faults[:10])
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        faults = list(_faults(self))
        if faults:
            raise FaultsError(faults)
        return self


def _unprintable(data: object) -> Iterator[Fault]:
    """Faults of any nested data: too deep, or text with control characters or with halves of surrogate pairs."""
    places: list[tuple[str, object, int]] = [("", data, 0)]
    while places:
        path, value, depth = places.pop()
        if depth > MAX_DEPTH:
            yield path[:60], "…", f"is nested in more than {MAX_DEPTH} tables and lists"
            return
        if isinstance(value, str) and value != printable(value):
            yield path, value, "must not contain control characters"
        nested: Iterable[tuple[object, object]] = ()
        if isinstance(value, dict):
            nested = value.items()
        elif isinstance(value, list | tuple):
            nested = enumerate(value)
        for key, item in nested:
            if (name := str(key)) != printable(name) or "\n" in name:
                yield path, name, "a name must not contain control characters"
            places.append((f"{path}.{name}" if path else name, item, depth + 1))


def _faults(study: Study) -> Iterator[Fault]:
    """Yields (path, value, what is allowed) for faults that concern several sections."""
    if len(study.axes) != 2:
        yield "axes", list(study.axes), "must be exactly two axes"
        return
    if len(set(study.seeds)) < len(study.seeds):
        yield "seeds", list(study.seeds), "must all be different"
    n_cells = math.prod(len(axis.values) for axis in study.axes.values()) * len(study.seeds) * len(study.panels)
    if n_cells > MAX_CELLS:
        yield "axes", list(study.axes), f"a study has at most {MAX_CELLS} cells, not {n_cells}"
    names = [p.name or "" for p in study.panels]
    if len(study.panel_names()) < len(study.panels):
        yield "panels", names, "must differ in name, optimizer, schedule or epochs"
    for position, panel in enumerate(study.panels):
        yield from _panel_faults(study, panel, f"panels.{position}")


def _panel_faults(study: Study, panel: Panel, path: str) -> Iterator[Fault]:
    variant = VARIANTS[panel.optimizer]
    for name in ("lr", "weight_decay", "momentum", "beta1", "beta2", "eps"):
        given = getattr(panel, name)
        if given is not None and name not in variant.hyperparameters:
            yield f"{path}.{name}", given, f"{panel.optimizer} has no {name}"
        if given is not None and name in study.axes:
            yield f"{path}.{name}", given, f"{name} is an axis: set its values in [axes.{name}]"
        if name in study.axes and name not in variant.hyperparameters:
            yield f"{path}.optimizer", panel.optimizer, f"{panel.optimizer} has no {name}, which is an axis"
        if given is None and name in ("lr", "weight_decay") and name not in study.axes:
            yield f"{path}.{name}", None, f"must have a fixed value, because {name} is not an axis"
    zeros = {name for name, axis in study.axes.items() if 0 in axis.values}
    for name, reason in variant.positive.items():
        if getattr(panel, name) == 0 or name in zeros:
            yield f"{path}.optimizer", panel.optimizer, f"{name} must be positive: {reason}"
    for name, unit in (("lr", panel.lr_unit), ("weight_decay", panel.weight_decay_unit)):
        if unit is not None and name not in study.axes:
            yield f"{path}.{name}_unit", unit, f"{name} is not an axis"
    for name, axis in study.axes.items():
        for multiple in axis.values:
            value = scale(multiple, study.unit(panel, name))
            if name == "lr" and value <= 0:
                yield "axes.lr.values", label(multiple), "learning rates must be positive"
            if name in BELOW_ONE and value >= 1:
                yield f"axes.{name}.values", label(multiple), f"{name} must be below 1"
            if not math.isfinite(value):
                yield f"axes.{name}.values", label(multiple), "must be finite"
