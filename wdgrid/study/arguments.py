"""Checks a study's `package.module:function` and its arguments against the source text; nothing is imported or run."""

import ast
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from wdgrid.study.dataset_args import did_you_mean
from wdgrid.study.import_by_name import shown_path
from wdgrid.study.sections import Task

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def code_faults(task: Task) -> Iterator[str]:
    """One line for each fault of the functions that a task names: no such module or name, arguments that do not fit.

    Names that the source does not define as plain functions (assigned, decorated, compiled) are not checked.
    """
    for field in ("dataset", "model"):
        spec: str = getattr(task, field)
        if ":" in spec:
            yield from _faults(f"task.{field}", spec, getattr(task, f"{field}_args"))


def _faults(field: str, spec: str, args: Mapping[str, Any]) -> Iterator[str]:
    module, _, name = spec.partition(":")
    found = _module(module)
    if found is None:
        here = Path.cwd()
        near = did_you_mean(module, [path.stem for path in here.glob("*.py")])
        yield f"{field} = {spec}: there is no module {module} in {here}, and none is installed{near}"
        return
    if not found.origin or not found.origin.endswith(".py"):
        return
    path = Path(found.origin)
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        yield f"{shown_path(path)}, line {error.lineno}: {error.msg}"
        return
    except (OSError, ValueError):
        return
    definitions = {node.name: node for node in tree.body if isinstance(node, Definition)}
    if name in definitions:
        yield from _unfit(field, path, definitions[name], args)
    elif not _may_have(tree, name):
        near = did_you_mean(name, list(definitions))
        yield f"{field} = {spec}: {shown_path(path)} has no {name}{near}"


def _module(name: str) -> ModuleSpec | None:
    """The path of a module's source; the working directory comes first, as in an import."""
    places: list[str] | None = [str(Path.cwd()), *(place for place in sys.path if place)]
    spec = None
    for depth in range(name.count(".") + 1):
        spec = PathFinder.find_spec(".".join(name.split(".")[: depth + 1]), places)
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or ())
    return spec


def _may_have(tree: ast.Module, name: str) -> bool:
    """Whether a module may have a name without a top-level definition: imported, assigned, or created at run time."""
    return any(_bound(node) in (name, "*", "__getattr__", "globals") for node in ast.walk(tree))


def _bound(node: ast.AST) -> str | None:
    match node:
        case ast.Name(id=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.alias(name=name, asname=alias):
            return alias or name.partition(".")[0]
        case _:
            return None


def _unfit(field: str, path: Path, definition: Definition, args: Mapping[str, Any]) -> Iterator[str]:
    """Arguments that a function does not take, and those that it needs."""
    called: Definition | None = definition
    if isinstance(definition, ast.ClassDef):
        inits = [node for node in definition.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
        called = inits[0] if inits else None
    if called is None or isinstance(called, ast.ClassDef) or called.decorator_list or definition.decorator_list:
        return
    takes = called.args
    positional = [*takes.posonlyargs, *takes.args][1 if called is not definition else 0 :]
    known = [arg.arg for arg in (*positional, *takes.kwonlyargs)]
    place = f"{shown_path(path)}, line {called.lineno}"
    for name, value in args.items():
        if name not in known and not takes.kwarg:
            near = did_you_mean(name, known) or f"; it takes {', '.join(known) or 'no arguments'}"
            yield f"{field}_args.{name} = {value!r}: {definition.name} takes no argument {name}{near} ({place})"
    needed = [arg.arg for arg in positional[: len(positional) - len(takes.defaults)]]
    needed += [arg.arg for arg, given in zip(takes.kwonlyargs, takes.kw_defaults, strict=True) if given is None]
    for name in needed:
        if name not in args:
            yield f"{field}_args: {definition.name} needs the argument {name} ({place})"
