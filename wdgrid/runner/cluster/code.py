"""Collects the user's own code for a cluster: the modules of the working directory that a study names."""

import shutil
from collections.abc import Iterable, Iterator
from modulefinder import ModuleFinder
from pathlib import Path

from wdgrid.errors import UsageError

MOST_BYTES = 10 * 2**20


def own_modules(specs: Iterable[str], here: Path) -> list[Path]:
    """Files and packages in the folder `here` that define the functions `module:function`, or that they import."""
    finder = ModuleFinder(path=[str(here)])
    tops: set[str] = set()
    for spec in specs:
        module, colon, _ = spec.partition(":")
        if colon:
            tops.add(module.partition(".")[0])
            try:
                finder.import_hook(module)
            except (ImportError, SyntaxError):
                continue  # a worker reports the fault when it imports the module
    tops |= {name.partition(".")[0] for name in finder.modules}
    return [path for top in sorted(tops) for path in (here / f"{top}.py", here / top) if _is_module(path)]


def copy_modules(modules: Iterable[Path], folder: Path) -> None:
    """Copies files and packages, without Python's compiled files. Raises UsageError if they are too large."""
    left = MOST_BYTES
    for module in modules:
        for path in _files(module):
            left -= path.stat().st_size
            if left < 0:
                raise UsageError(
                    f"{module}: would travel to every node, and is larger than {MOST_BYTES // 2**20} MiB with the "
                    "study's other modules; keep data elsewhere, or install the package on the nodes"
                )
            copy = folder / path.relative_to(module.parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _is_module(path: Path) -> bool:
    return path.is_file() if path.suffix == ".py" else (path / "__init__.py").is_file()


def _files(module: Path) -> Iterator[Path]:
    if module.is_file():
        yield module
        return
    for path in sorted(module.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path
