"""Finds each parameter's decay multiplier, the factor of λ, from patterns on parameter names."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

from torch import nn

from wdgrid.errors import ModelError

_NORM = re.compile(r"Norm([1-3]d)?$")


def multipliers(network: nn.Module, patterns: Mapping[str, float]) -> dict[str, float]:
    """Each trained parameter's multiplier by name: that of the last pattern that matches it, else 1.

    A pattern is a shell pattern on the whole name (`*` matches dots, too), `@norm` or `@bias`. Raises ModelError with a
    list of the network's parameters if a pattern matches none.
    """
    norms = _norm_layers(network)
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    matched = {pattern: [name for name in names if _matches(name, pattern, norms)] for pattern in patterns}
    if idle := [pattern for pattern, found in matched.items() if not found]:
        raise ModelError(
            f"task.decay_multipliers: no parameter of the network matches {', '.join(idle)}; it has {', '.join(names)}"
        )
    return dict.fromkeys(names, 1.0) | {name: patterns[pattern] for pattern in patterns for name in matched[pattern]}


def _norm_layers(network: nn.Module) -> set[str]:
    """Names of the normalization layers: modules with a class or base class called …Norm or …Norm1d to …Norm3d."""
    return {name for name, m in network.named_modules() if any(_NORM.search(c.__name__) for c in type(m).__mro__)}


def _matches(name: str, pattern: str, norms: set[str]) -> bool:
    layer, _, own = name.rpartition(".")
    if pattern == "@norm":
        return layer in norms
    if pattern == "@bias":
        return "bias" in own  # in_proj_bias of attention, bias_ih_l0 of a recurrent layer
    return fnmatchcase(name, pattern)


def parts(columns: Mapping[str, slice], by_name: Mapping[str, float]) -> list[tuple[slice, float]]:
    """Multipliers by columns instead of names (1 for names not given); adjacent columns with equal ones are merged."""
    found: list[tuple[slice, float]] = []
    for name, place in columns.items():
        m = by_name.get(name, 1.0)
        if found and found[-1][1] == m:
            place = slice(found.pop()[0].start, place.stop)
        found.append((place, m))
    return found
