"""Derives a study's name and storage from the name or file that a user gives."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wdgrid.errors import StoreError, UsageError
from wdgrid.printable import printable
from wdgrid.study import Study
from wdgrid.study.coarse import SUFFIX
from wdgrid.study.sections import MAX_NAME_BYTES

if TYPE_CHECKING:
    from wdgrid.store import Store, StudySummary

COMMAND = "command"  # the study's attribute that holds the command that created it
SQLITE = "sqlite:///"


_NAME = re.compile(r"\w[\w .,+=()@-]*")


def checked_name(name: str, *, new: bool = True) -> str:
    """A study's name, which becomes part of file names. Raises UsageError for one that could lead to other folders."""
    what = f"name {printable(name)[:60]!r}"
    if not _NAME.fullmatch(name) or len(name.encode()) > MAX_NAME_BYTES:
        raise UsageError(
            f"{what}: must begin with a letter or digit, hold only letters, digits, spaces and _ . , + = ( ) @ -, and "
            f"have at most {MAX_NAME_BYTES} bytes; --name gives a study another name"
        )
    if new and name.endswith(SUFFIX):
        raise UsageError(f"{what}: names that end in {SUFFIX} are those of coarse passes")
    return name


def is_file(study: str) -> bool:
    """Whether a word means a study file, not a name."""
    return Path(study).suffix == ".toml" or Path(study).is_file()


def study_name(study: str) -> str:
    """The study's name, from the name or file that a user gives."""
    return Path(study).stem if is_file(study) else study


def database_folder(study: str, name: str) -> Path:
    """The folder of NAME.db: beside the study file if the user gave one, else studies/, else the working directory."""
    if is_file(study):
        return Path(study).parent
    places = [place for place in (Path("studies"), Path()) if place.is_dir()]
    return next((place for place in places if (place / f"{name}.db").is_file()), places[0])


def storage_url(storage: str | None, folder: Path, name: str) -> str:
    """The storage given, else the study's own database in `folder`."""
    return storage or f"{SQLITE}{(folder / f'{name}.db').as_posix()}"


def stored(study: str, storage: str | None) -> tuple[str, str]:
    """Name and storage URL of a stored study, from the name or file that a user gives."""
    name = checked_name(study_name(study), new=False)
    database = name.removesuffix(SUFFIX)  # a coarse pass is stored in its study's database
    return name, storage_url(storage, database_folder(study, database), database)


def existing(study: str, storage: str | None) -> tuple[str, str]:
    """As `stored`. Raises UsageError, naming the stored studies, if the study's own database is meant and missing."""
    name, url = stored(study, storage)
    if storage is None and (path := sqlite_path(url)) and not path.exists():
        known = ", ".join(dict.fromkeys(path.stem for path in databases())) or "none"
        raise UsageError(f"{study}: no such stored study, there is no {path.as_posix()}; stored here: {known}")
    return name, url


def databases() -> list[Path]:
    """The databases in studies/ and the working directory, one for each study stored without --storage."""
    return [*sorted(Path("studies").glob("*.db")), *sorted(Path().glob("*.db"))]


@dataclass(frozen=True)
class Place:
    """The name and the storage of a study, and the folder for its checkpoints."""

    name: str
    url: str
    checkpoints: Path


def place_of(study: str | None, name: str | None, storage: str | Path | None, *, new: bool = False) -> Place:
    """Where the Python API stores a study, from the file or name that a user gave (None: none), as absolute paths.

    `storage` is a URL or the path of an SQLite file. `new`: the name may not be that of a coarse pass. Raises
    UsageError if there is no name, or for one that is not allowed.
    """
    name = name or (study_name(study) if study else None)
    if name is None:
        raise UsageError("name: is needed if the study is neither a file nor a name")
    if storage is not None and "://" not in str(storage):
        storage = f"{SQLITE}{Path(storage).as_posix()}"
    database = checked_name(name, new=new).removesuffix(SUFFIX)
    folder = database_folder(study or database, database).absolute()
    url = storage_url(storage and str(storage), folder, database)
    if path := sqlite_path(url):
        url = f"{SQLITE}{path.absolute().as_posix()}"
    return Place(name, url, checkpoint_folder(url, folder))


def sqlite_path(url: str) -> Path | None:
    """The file of an SQLite storage; None for any other storage."""
    return Path(url.removeprefix(SQLITE)) if url.startswith(SQLITE) else None


def checkpoint_folder(url: str, folder: Path) -> Path:
    """The folder for checkpoints: the folder of an SQLite storage's file, else `folder`."""
    path = sqlite_path(url)
    return path.parent if path else folder


def open_store(url: str, *, create: bool = False) -> "Store":
    """The store at `url`. Raises UsageError if the URL is not a storage, or its file is not a database."""
    from wdgrid.store import Store

    if create and (path := sqlite_path(url)):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return Store(url, create=create)
    except StoreError as error:
        raise UsageError(str(error)) from error


def stored_study(store: "Store", name: str) -> Study:
    """The study that is stored under a name. Raises UsageError, naming the stored studies, if there is none."""
    definition = store.definition(name)
    if definition is None:
        known = ", ".join(s.name for s in store.studies()) or "none"
        raise UsageError(f"{name}: no such study in this storage; there: {known}")
    return Study.model_validate_json(definition[0])


def summary(store: "Store", name: str) -> "StudySummary":
    """How many cells of a stored study are complete, running, waiting and failed."""
    return next(study for study in store.studies() if study.name == name)


def command_attributes(word: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The stored part of the command that created a study, without the storage, which may hold a password."""
    return {COMMAND: {"study_file": word, "folder": str(Path.cwd()), "overrides": list(overrides)}}
