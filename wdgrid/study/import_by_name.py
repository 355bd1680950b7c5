"""Imports a user's own function by "package.module:function"; finds the user's file and line of an object or error."""

import importlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from wdgrid.errors import LoadingError

_PACKAGE = Path(__file__).parents[1]


def load_object(spec: str) -> Callable[..., Any]:
    """The function that `package.module:function` names, in a module of the working directory or an installed one.

    Only the named module is searched for in the working directory first. For its own imports the working directory is
    searched last, so that no file there replaces one of Python's own modules.
    """
    module_name, _, name = spec.partition(":")
    try:
        found = getattr(_module(module_name), name)
    except ImportError as error:
        raise LoadingError(f"{spec}: cannot be imported: {error}") from error
    except AttributeError:
        raise LoadingError(f"{spec}: module {module_name} has no {name}") from None
    if not callable(found):
        raise LoadingError(f"{spec}: is not a function")
    return found


def _module(name: str) -> ModuleType:
    here, top = str(Path.cwd()), name.partition(".")[0]
    importlib.invalidate_caches()
    own = PathFinder.find_spec(top, [here])
    if own and top in sys.stdlib_module_names:
        raise ImportError(f"Python has a module of its own called {top}; rename the one in {here}")
    if here not in sys.path:
        sys.path.append(here)
    if own and own.loader and top not in sys.modules:
        module = sys.modules[top] = importlib.util.module_from_spec(own)
        try:
            own.loader.exec_module(module)
        except BaseException:
            del sys.modules[top]
            raise
    return importlib.import_module(name)


def shown_path(path: str | Path) -> str:
    """A file's path for messages: relative if it is below the working directory."""
    whole = Path(path)
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else str(whole)


def defined_at(thing: object) -> str | None:
    """`mine.py, line 12`: where a user defined a function, or the class or function of an object; else None."""
    for candidate in (thing, getattr(thing, "__init__", None), type(thing).__call__):
        code = getattr(candidate, "__code__", None)
        if code is not None and _is_users(code.co_filename):
            return f"{shown_path(code.co_filename)}, line {code.co_firstlineno}"
    return None


def failed_at(error: BaseException) -> str | None:
    """`mine.py, line 12`: the last line of the user's own code in an error's traceback; None if there is none."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    return f"{shown_path(own[-1].filename)}, line {own[-1].lineno}" if own else None


def in_words(error: BaseException) -> str:
    """An error of the user's code in one line: its type and message."""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"


def _is_users(file: str) -> bool:
    """Whether a file belongs neither to wdgrid, nor to Python, nor to an installed package."""
    if not file.endswith(".py"):
        return False
    others = [_PACKAGE, *(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))]
    return not any(Path(file).is_relative_to(place) for place in others)
