"""Imports a user's own function by its name, "package.module:function"."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wdgrid.errors import LoadingError


def load_object(spec: str) -> Callable[..., Any]:
    """Imports the function `package.module:function`; the working directory is on the import path."""
    module_name, _, name = spec.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise LoadingError(f"{spec}: cannot be imported: {error}") from error
    except AttributeError:
        raise LoadingError(f"{spec}: module {module_name} has no {name}") from None
    if not callable(found):
        raise LoadingError(f"{spec}: is not a function")
    return found
