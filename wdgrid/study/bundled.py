"""Finds the study files that ship with wdgrid: in studies/ in a checkout, in wdgrid/studies in a wheel."""

from difflib import get_close_matches
from pathlib import Path

from wdgrid.errors import StudyFileError

PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """The folder of the shipped study files."""
    inside = PACKAGE / "studies"
    return inside if inside.is_dir() else PACKAGE.parent / "studies"


def names() -> list[str]:
    """Names of the shipped studies, in alphabetical order."""
    return sorted(path.stem for path in folder().glob("*.toml"))


def study_path(word: str) -> Path:
    """The study file that `word` means: an existing file, else studies/WORD.toml here, else a shipped study.

    Raises StudyFileError (one line, with shipped studies of similar names) if there is none.
    """
    if Path(word).is_file():
        return Path(word)
    if Path(word).name == word:
        for path in (Path("studies", f"{word}.toml"), folder() / f"{word}.toml"):
            if path.is_file():
                return path
    near = get_close_matches(Path(word).name.removesuffix(".toml"), names(), n=3, cutoff=0.65)
    ask = f"did you mean {', '.join(near)}?" if near else "wdgrid studies lists them"
    raise StudyFileError([f"{word}: no such file, and no study of that name ships with wdgrid; {ask}"])
