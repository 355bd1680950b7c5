"""Finding a user's own function by "package.module:function"."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from wdgrid.errors import LoadingError


def load_object(spec: str) -> Callable[..., Any]:
    """The function that `package.module:function` names, of a module in the working directory or of an installed one.

    Only the module that is named is taken from the working directory before an installed one of the same name. What it
    imports itself is looked for there last, so that no file there takes the place of one of Python's own modules.
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
