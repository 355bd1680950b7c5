"""The stacked backend: an ordinary module, traced by torch.fx, run layer by layer for K cells in one call each."""

import copy
from collections.abc import Iterator

from torch import Tensor, fx, nn

from wdgrid.engine.fused.kernels import by_cell
from wdgrid.engine.fused.layers import Trace, operation
from wdgrid.engine.fused.layouts import Operation, Run, UnknownLayerError, Value
from wdgrid.models.shake import Shake


class Stacked:
    """A module for K cells: (parameters, buffers, x [B, …], training) → logits [K, B, C].

    `gradients` are the [K, …] tensors that keep each parameter's gradient; the backward pass itself fills those named
    in `written`. Raises UnknownLayerError where a layer has no stacked backend, TraceError and others where torch.fx
    cannot follow. It is traced once for training and once for tests: `self.training` in a user's own code is a constant
    to torch.fx.
    """

    def __init__(self, module: nn.Module, gradients: dict[str, Tensor]) -> None:
        modules = dict(module.named_modules())
        traces = {mode: Trace(modules, gradients) for mode in (True, False)}
        self._programs = {mode: _Program(copy.deepcopy(module).train(mode), traces[mode]) for mode in (True, False)}
        self.written = traces[True].written

    def __call__(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, training: bool) -> Tensor:
        """Logits [K, B, C]."""
        return self._programs[training](Run(parameters, buffers, training), x)


class _Program:
    """One trace, layer by layer; what the output does not depend on is left out."""

    def __init__(self, module: nn.Module, trace: Trace) -> None:
        self._layers: list[tuple[str, Operation, tuple[str, ...]]] = []
        self._source = self._result = ""
        for node in needed(Tracer().trace(module)):
            inputs = tuple(_names(node.args))
            if node.op == "placeholder":
                self._source = node.name
            elif node.op == "output":
                (self._result,) = inputs
            else:
                self._layers.append((node.name, operation(node, trace), inputs))

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        values = {self._source: Value(x, "shared")}
        for name, layer, inputs in self._layers:
            values[name] = layer(run, *(values[i] for i in inputs))
        logits = values[self._result]
        if logits.layout != "features":
            raise UnknownLayerError("the network's output is not [B, classes]")
        return by_cell(logits.tensor, run.cells)


class Tracer(fx.Tracer):
    """torch.fx, to which our own layers are layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: D102
        return type(m) is Shake or super().is_leaf_module(m, module_qualified_name)


def needed(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that the output depends on, and the input, in order."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or node in needed:
            needed |= {node, *node.all_input_nodes}
    return [node for node in graph.nodes if node in needed or node.op == "placeholder"]


def _names(arguments: object) -> Iterator[str]:
    """The nodes among a node's arguments, in order; torch.cat has a list of them."""
    if isinstance(arguments, fx.Node):
        yield arguments.name
    elif isinstance(arguments, tuple | list):
        for argument in arguments:
            yield from _names(argument)
