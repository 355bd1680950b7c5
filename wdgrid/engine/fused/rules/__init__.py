"""The rules that compute a traced network's layers, functions and methods for K cells, in two tables.

A rule takes `Run` (and `Layer`, for a layer), then the arguments of the original with `Value`s for tensors. It raises
UnknownLayerError for a case that it does not cover.
"""

import operator

from torch import fx

from wdgrid.engine.fused.layouts import Operation
from wdgrid.engine.fused.rules import (
    activation,
    arithmetic,
    attention,
    convolution,
    linear,
    noise,
    normalisation,
    reduction,
    shapes,
)
from wdgrid.engine.fused.trace import is_in_place

GROUPS = (linear, convolution, normalisation, activation, arithmetic, noise, reduction, shapes, attention)
LAYERS: dict[type, Operation] = {kind: rule for group in GROUPS for kind, rule in group.LAYERS.items()}
FUNCTIONS: dict[object, Operation] = {name: rule for group in GROUPS for name, rule in group.FUNCTIONS.items()}

_INPLACE = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


def without_inplace(node: fx.Node) -> object:
    """What a node calls; an in-place function becomes its out-of-place form (the trace redirects the readers)."""
    target = node.target
    if node.op == "call_method":
        name = str(target)
        return name[:-1] if is_in_place(name) else name
    return _INPLACE.get(target, target)  # type: ignore[arg-type]
