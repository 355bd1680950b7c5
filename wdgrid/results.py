"""Gives Python a stored study's results: tables, numbers, the best cell, the figure and the report."""

# pandas has no type stubs, and those of matplotlib are not complete.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import base64
import html
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wdgrid.errors import UsageError
from wdgrid.report import Written, analyse_table, fitted, write_report
from wdgrid.report.views import MeasureName, Scale, View
from wdgrid.runner.environment import stored_environment
from wdgrid.runner.naming import open_store, stored_study, summary
from wdgrid.store import Store
from wdgrid.study import Study
from wdgrid.study.coarse import coarse_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from wdgrid.analysis.separability import Separability

Style = Literal["cells", "paper"]
NOTEBOOK_DPI = 90


@dataclass(frozen=True)
class TorchOptimizer:
    """A `torch.optim` class by name, and its keyword arguments. `warning`: why training is not exactly the same.

    >>> import torch
    >>> adamw = TorchOptimizer("AdamW", {"lr": 0.001, "weight_decay": 0.1})
    >>> weights = [torch.nn.Parameter(torch.zeros(2))]
    >>> optimizer = getattr(torch.optim, adamw.name)(weights, **adamw.arguments)
    """

    name: str
    arguments: dict[str, Any]
    warning: str | None = None


@dataclass(frozen=True)
class Best:
    """The cell of the lowest mean error over seeds.

    `hyperparameters` are those of the optimizer variant `optimizer`, as its algorithm takes them: the learning rate
    `lr`, the `weight_decay` λ itself (not λ_norm), and momentum, or β1, β2 and ε. `error` is in percent, on the images
    by which cells are picked; `test_error` is the error of the same cell on the test images, and `test_interval` its 90
    % interval.
    """

    panel: str
    optimizer: str
    schedule: str
    epochs: int
    hyperparameters: dict[str, float]
    error: float
    test_error: float
    test_interval: tuple[float, float] | None
    warnings: tuple[str, ...] = field(default=())

    def torch(self) -> TorchOptimizer:
        """The same in PyTorch's terms. Its decoupled decay is multiplied by the rate, so `weight_decay` is λ / lr.

        The schedule is not part of it. Raises UsageError if PyTorch has no such optimizer.
        """
        from wdgrid.optim.conversion import convert_cell

        same = convert_cell(self.hyperparameters, self.optimizer, "torch", self.schedule)
        if same.constructor is None:
            raise UsageError(f"{self.panel}: {same.warning}")
        warnings = [warning for warning in (same.warning, *self.warnings) if warning]
        name = same.constructor.removeprefix("torch.optim.")
        return TorchOptimizer(name, dict(same.arguments), "; ".join(warnings) or None)


class Results:
    """The results of one stored study. Each method reads the storage again, so a running sweep can be followed."""

    def __init__(self, name: str, url: str) -> None:
        """`url` is a storage as in `wdgrid.load`. Raises UsageError if it does not hold the study."""
        self.name = name
        self._url = url
        with open_store(url) as store:
            self.study: Study = stored_study(store, name)
            self.storage = store.url  # for people: a password is hidden

    def __repr__(self) -> str:
        return f"Results({self.name!r}, storage={self.storage!r})"

    @property
    def environment(self) -> dict[str, Any]:
        """What was stored about the training: device, versions, backend, numbers of images, times."""
        with open_store(self._url) as store:
            return stored_environment(store.attrs(self.name))

    def table(self) -> "pd.DataFrame":
        """One row for each cell and seed; the columns of `wdgrid.study.cells.TABLE_COLUMNS`, then the hyperparameters.

        Errors are in percent: +inf if training diverged, NaN if `state` is not complete.
        """
        with open_store(self._url) as store:
            return store.table(self.name)

    def curves(self) -> "pd.DataFrame":
        """One row for each finished cell, seed and epoch: panel, number, epoch, errors in percent, losses in nats."""
        with open_store(self._url) as store:
            return store.curves(self.name)

    def analysis(self) -> "dict[str, Separability]":
        """By panel: the best cell, the numbers of separability with 90 % intervals, and the verdict."""
        table, attrs = self._read()
        return analyse_table(self.study, table, attrs)

    def best(self, panel: str | None = None) -> Best:
        """The best cell of a panel, or of all panels. Raises UsageError if there is none."""
        from wdgrid.analysis.selection import pick
        from wdgrid.analysis.surface import surfaces

        table, attrs = self._read()
        environment = stored_environment(attrs)
        shown = surfaces(table, self.study.row, self.study.column)
        if panel is not None and panel not in shown:
            raise UsageError(f"{self.name}: no panel {panel}; there: {', '.join(shown)}")
        found: list[Best] = []
        for name in [panel] if panel is not None else shown:
            surface = shown[name].as_printed()
            if picked := pick(surface, environment.get("test_images")):
                values = {self.study.row: float(surface.rows[picked.row])}
                values[self.study.column] = float(surface.cols[picked.col])
                certainty = picked.certainty
                found.append(
                    _best(
                        self.study, name, values, environment,
                        (picked.error, picked.test_error, certainty.interval if certainty else None),
                    )
                )  # fmt: skip
        if not found:
            raise UsageError(f"{self.name}: no cell{f' of {panel}' if panel else ''} is finished with a finite error")
        return min(found, key=lambda one: one.error)

    def figure(self, style: Style = "cells", measure: MeasureName | None = None, scale: Scale = "linear") -> "Figure":
        """The heatmaps of all panels, as in the report; of the error by which cells are picked or another measure.

        Raises UsageError if the measure is not stored.
        """
        from wdgrid.report.figures import heatmaps

        table, attrs = self._read()
        curves = self.curves() if measure == "epochs_to_best" else None
        device = str(stored_environment(attrs).get("device") or "")
        numbers = analyse_table(self.study, table, attrs)
        view = View(measure, scale)
        return heatmaps(
            self.study, self.name, table, style=style, device=device, view=view, curves=curves, **fitted(numbers)
        )

    def report(
        self, path: str | Path, style: Style = "cells", measure: MeasureName | None = None, scale: Scale = "linear"
    ) -> list[Path]:
        """Writes the heatmaps, trials.csv and report.html into the folder `path`; the files' paths.

        Another style, measure or scale adds pictures with names of their own. Raises UsageError if the measure is not
        stored.
        """
        with open_store(self._url) as store:
            return write_stored(store, self.name, Path(path), style, View(measure, scale)).paths

    def _repr_html_(self) -> str:
        """The map and the verdicts, for a notebook."""
        picture = io.BytesIO()
        self.figure().savefig(picture, format="png", dpi=NOTEBOOK_DPI)
        encoded = base64.b64encode(picture.getvalue()).decode()
        verdicts = [f"<b>{html.escape(n)}</b>: {html.escape(one.sentence)}" for n, one in self.analysis().items()]
        with open_store(self._url) as store:
            now = summary(store, self.name)
        title = html.escape(self.study.title or self.name)
        lines = "".join(f"<li>{line}</li>" for line in verdicts)
        cells = f"{now.n_complete} of {now.n_cells} cells are finished, {now.n_failed} failed"
        image = f'<img alt="{title}" src="data:image/png;base64,{encoded}">'
        return f"<div>{image}<ul>{lines}</ul><p>{html.escape(self.name)}: {cells}</p></div>"

    def _read(self) -> "tuple[pd.DataFrame, dict[str, Any]]":
        with open_store(self._url) as store:
            return store.table(self.name), store.attrs(self.name)


def write_stored(
    store: Store,
    name: str,
    out: Path,
    style: Style = "cells",
    view: View | None = None,
    steps: "Callable[[Mapping[str, Separability]], list[str]] | None" = None,
) -> Written:
    """Writes a stored study's report into the folder `out`, with that of its coarse pass if there is one.

    `view` and `steps` are as in `wdgrid.report.write_report`.
    """
    study, attrs, coarse = stored_study(store, name), store.attrs(name), None
    attrs["environment"] = {**attrs.get("environment", {}), "storage": store.url}
    if store.definition(coarse_name(name)):
        coarse = stored_study(store, coarse_name(name)), store.table(coarse_name(name))
    return write_report(study, name, store.table(name), store.curves(name), attrs, out, style, coarse, view, steps)


def _best(
    study: Study,
    name: str,
    values: Mapping[str, float],
    environment: Mapping[str, Any],
    errors: tuple[float, float, tuple[float, float] | None],
) -> Best:
    from wdgrid.optim.schedule import normalization, periods
    from wdgrid.report.findings import groups_warning

    panel = study.panel_names()[name]
    epochs, warnings = study.panel_epochs(panel), [groups_warning(study)]
    hyperparameters = {**study.hyperparameters(panel), **values}
    if study.normalized(panel):
        images: int = environment["train_images"]
        batch = min(study.task.batch_size, images)
        hyperparameters["weight_decay"] *= normalization(panel.schedule, epochs, 1, batch, images)[0]
        if len(set(periods(panel.schedule, epochs))) > 1:
            warnings.append("the decay is normalized: this λ is that of the first restart period")
    given = tuple(warning for warning in warnings if warning)
    return Best(name, panel.optimizer, panel.schedule.kind, epochs, hyperparameters, *errors, given)
