"""Every exception that a user may see, and the exit status of the command that raises it.

Status 2: the user's input is at fault. Status 1: the machine is at fault, and the same command may work later.
"""

from collections.abc import Sequence


class WdgridError(Exception):
    """Base class; each line of the message names one fault."""

    exit_status = 2


class UsageError(WdgridError):
    """Bad input that is not in a study file, in one line."""


class StudyFileError(WdgridError):
    """A study that cannot be used; `lines` holds one line per fault, `fields` the path of each one's field, or ""."""

    def __init__(self, lines: Sequence[str], fields: Sequence[str] = ()) -> None:
        super().__init__("\n".join(lines))
        self.lines = list(lines)
        self.fields = [*fields, *[""] * (len(lines) - len(fields))]


class LoadingError(WdgridError):
    """What a study names as `package.module:function` cannot be imported, in one line."""


class DataError(WdgridError):
    """A dataset that cannot be used, in one line."""


class ModelError(WdgridError):
    """A network that cannot be built for the data, in one line."""


class UsersFaultError(WdgridError):
    """The study cannot be trained as it is written, in one line."""


class StoreError(WdgridError):
    """The storage cannot be opened, read or written, or does not hold what was asked for; one line says why."""

    exit_status = 1


class MachineError(WdgridError):
    """The machine failed; what was finished is kept."""

    exit_status = 1


class OutputError(WdgridError):
    """A file or folder cannot be written; one line says what, where and what to do."""

    exit_status = 1


class StorageWarning(UserWarning):
    """The storage does not answer at present, in one line; the call is repeated."""
