"""Composes the `wdgrid sweep` command that resumes a study, or that adds the values which alarms propose."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wdgrid.printable import without_password

if TYPE_CHECKING:
    from wdgrid.analysis.separability import Separability
    from wdgrid.store import Store
    from wdgrid.study import Study


@dataclass(frozen=True)
class SweepCommand:
    """The `wdgrid sweep` that created a study or resumes it, printed as it is typed; a password is printed as ***."""

    study: str  # a file or a name
    overrides: tuple[str, ...] = ()
    storage: str | None = None
    name: str | None = None
    coarse: bool = False
    options: tuple[str, ...] = ()  # about where it trains

    def __str__(self) -> str:
        storage = self.storage and without_password(self.storage)
        words = ["wdgrid", "sweep", self.study]
        for option, value in (("--storage", storage), ("--name", self.name)):
            words += [option, value] if value else []
        for override in self.overrides:
            words += ["--set", override]
        words += ["--coarse"] if self.coarse else []
        words += self.options
        return shlex.join(words)

    def with_axes(self, axes: dict[str, str], seeds: str | None = None) -> "SweepCommand":
        """The same command with other axis values and seeds, as TOML."""
        fields = {f"axes.{axis}.values": text for axis, text in axes.items()} | ({"seeds": seeds} if seeds else {})
        kept = [given for given in self.overrides if given.partition("=")[0].strip() not in fields]
        return replace(self, overrides=(*kept, *(f"{field}={text}" for field, text in fields.items())))


def sweep_of(store: "Store", name: str, url: str, study: str) -> SweepCommand:
    """The sweep that created the study `name`, found in `store` at `url`, as a command that works in this folder.

    `study` is the name or file that the user gave; it is used if the storage does not have the command. For a coarse
    pass it is the sweep of its study.
    """
    from wdgrid.runner.naming import COMMAND, database_folder, sqlite_path, storage_url, study_name
    from wdgrid.study.coarse import SUFFIX

    coarse = name.endswith(SUFFIX)
    name, study = name.removesuffix(SUFFIX), study.removesuffix(SUFFIX)
    command = store.attrs(name).get(COMMAND)
    word = study if command is None else _from_here(command["study_file"], Path(command["folder"]))
    default = sqlite_path(storage_url(None, database_folder(word, name), name))
    path = sqlite_path(url)
    storage = None if path and default and path.resolve() == default.resolve() else url
    overrides = tuple(command["overrides"]) if command else ()
    return SweepCommand(word, overrides, storage, name if name != study_name(word) else None, coarse)


def _from_here(word: str, folder: Path) -> str:
    """A file or a name typed in `folder`: unchanged if it means the same here, else as an absolute path."""
    if Path.cwd() == folder:
        return word
    places = [folder / word, folder / "studies" / f"{word}.toml"]
    return next((str(place) for place in places if place.is_file()), word)


def untrained(store: "Store", name: str) -> int:
    """The number of cells that a search did not train; 0 if there was no search."""
    from wdgrid.study.coarse import coarse_name

    return sum(store.pending(name).values()) if store.definition(coarse_name(name)) else 0


def resuming(command: SweepCommand, stored: "Study") -> str:
    """How to resume a stored study: by the `command`, if it trains that study, else from Python."""
    if _grown(command, stored):
        return f"To resume it:\n  {command}"
    return f"To resume it, sweep it again as before ({_why_no_command(stored)})"


def _grown(command: SweepCommand, stored: "Study") -> "Study | None":
    """The study that a command trains, if it is the stored one or adds cells to it."""
    from wdgrid.errors import StudyFileError
    from wdgrid.study import load_study
    from wdgrid.study.bundled import study_path
    from wdgrid.study.file import only_adds

    try:
        study = load_study(study_path(command.study), command.overrides)
    except StudyFileError:
        return None
    return study if only_adds(stored.canonical(), study) else None


def _why_no_command(stored: "Study") -> str:
    from wdgrid.runner import objects

    if any(objects.__name__ in field for field in stored.named_code()):
        return "only wdgrid.sweep with the same Python objects can train it"
    return "no study file here matches the stored study"


def alarm_lines(
    numbers: "Mapping[str, Separability]", study: "Study", command: SweepCommand, left_out: int = 0
) -> list[str]:
    """One line for each alarm and each undecided panel, then the command that adds all the values that they name.

    For a coarse pass: the command that shows what to add to its study. `left_out` is the number of cells that a search
    did not train, which the command trains, too. If no command can train the study, the values are listed instead.
    """
    from wdgrid.errors import StudyFileError
    from wdgrid.report.extend import advices, alarms, extended_axes, more_seeds
    from wdgrid.study import load_study
    from wdgrid.study.bundled import study_path

    lines = [f"{panel}: {alarm.text}" for panel, alarm in alarms(numbers)]
    lines += [] if command.coarse else [f"{panel}: to decide: {one.text}" for panel, one in advices(numbers)]
    if not lines:
        return []
    if command.coarse:  # its axes are those of its study, with another spacing and unit
        place = ["--storage", command.storage] if command.storage else []
        whole = shlex.join(["wdgrid", "show", command.name or command.study, *place])
        where = [f"{panel}: {alarm.where}" for panel, alarm in alarms(numbers)]
        return [*where, f"what to add to its study:\n  {whole}"]
    try:  # an axis that was extended by --set before is not in the file, so that the command has to repeat it
        given = load_study(study_path(command.study), command.overrides)
        grown = {axis for axis in study.axes if set(given.axes[axis].values) != set(study.axes[axis].values)}
    except (StudyFileError, KeyError):
        grown = set[str]()
    axes, seeds = extended_axes(numbers, study, grown), more_seeds(numbers, study)
    if not axes and not seeds:
        return lines
    longer = command.with_axes(axes, seeds)
    besides = f" (trains the {left_out} cell{'s' * (left_out > 1)} that the search left out, too)" if left_out else ""
    if _grown(longer, study):
        return [*lines, f"to add them{besides}:\n  {longer} --extend"]
    wanted = "".join(f"\n  axes.{axis}.values = {text}" for axis, text in axes.items())
    wanted += f"\n  seeds = {seeds}" if seeds else ""
    how = f"sweep the study with these values and --extend, in Python extend=True ({_why_no_command(study)})"
    return [*lines, f"to add them, {how}{besides}:{wanted}"]
