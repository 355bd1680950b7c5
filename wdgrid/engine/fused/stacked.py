"""The stacked backend: traces a module with torch.fx and computes each node for K cells in one call."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from wdgrid.engine.fused.fallback import each_cell, only_shared, plain, values, wrapped
from wdgrid.engine.fused.layouts import Operation, Run, UnknownLayerError, Value
from wdgrid.engine.fused.rules import FUNCTIONS, LAYERS, without_inplace
from wdgrid.engine.fused.trace import Layer, Trace, changed_buffer, needed
from wdgrid.engine.fused.tracer import Tracer


class Stacked:
    """A module for K cells: (parameters, buffers, x [B, …], training) → logits [K, B, C].

    The module is traced for inputs like x [B, …]. `gradients` are the [K, …] tensors for each parameter's gradient; the
    backward pass fills those named in `written`. Raises TraceError and others if torch.fx cannot trace the module.
    Nodes without a rule run cell by cell; `fallback` names them after a pass. The module is traced once for training
    and once for tests, because `self.training` in a user's own code is a constant to torch.fx.
    """

    def __init__(self, module: nn.Module, gradients: Mapping[str, Tensor], x: Tensor, *, random: bool = False) -> None:
        self._programs = {mode: _Program(copy.deepcopy(module).train(mode), gradients, x) for mode in (True, False)}
        changed = set[str]().union(*(program.changed for program in self._programs.values()))
        for program in self._programs.values():
            program.changed = changed
        self._random = random
        # PyTorch's batch norm takes [B, K·F]; without batch norm, each cell's features are one matrix [B, F].
        self._features_first = any(type(m) is nn.BatchNorm1d for m in module.modules())
        self.written: set[str] = set()

    @property
    def fallback(self) -> tuple[str, ...]:
        """The nodes that run cell by cell, in the network's order."""
        return tuple(dict.fromkeys(name for program in self._programs.values() for name in program.fallback))

    def __call__(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, training: bool) -> Tensor:
        """Logits [K, B, C]."""
        program = self._programs[training]
        run = Run(parameters, buffers, program.sinks, random=self._random, features_first=self._features_first)
        logits = program(run, x)
        if training:
            self.written = run.written
        return logits


class _Step:
    """One node: its function, its arguments, and the values that no later node reads."""

    def __init__(self, node: fx.Node, trace: Trace) -> None:
        self.node = node
        self.layer: Layer | None = None
        self.rule: Operation | None = None
        self.last_read: list[fx.Node] = []
        self.falls_back = False
        self.buffer = changed_buffer(node, trace.root)
        if trace.is_relu(node) and trace.fuses(node.all_input_nodes[0]):
            self.rule = lambda run, x, **_: x  # the batch norm includes it
        elif node.op == "call_module":
            self.layer = trace.layer(node)
            self.rule = LAYERS.get(type(self.layer.module))  # a subclass may compute something else
        else:
            self.rule = FUNCTIONS.get(without_inplace(node))  # type: ignore[arg-type]

    @property
    def title(self) -> str:
        """The node's name for the user."""
        if self.layer:
            return f"{self.node.target} ({type(self.layer.module).__name__})"
        return str(getattr(self.node.target, "__name__", self.node.target))

    def __call__(self, run: Run, args: Any, kwargs: Any) -> Any:
        if self.buffer:
            return self._change(run, self.buffer, args, kwargs)
        owns = self.layer is not None and bool(self.layer.names)
        if not owns and only_shared((args, kwargs)):
            return plain(self.node, self.layer, args, kwargs)
        if self.rule is not None:
            written = set(run.written)
            try:
                return self.rule(run, *([self.layer] if self.layer else []), *args, **kwargs)
            except (UnknownLayerError, TypeError):
                self.rule, run.written = None, written
        self.falls_back = True
        return each_cell(run, self.node, self.layer, args, kwargs)

    @torch.no_grad()
    def _change(self, run: Run, name: str, args: Any, kwargs: Any) -> Value:
        """A method that changes a buffer in place."""
        if values((args[1:], kwargs)):
            each_cell(run, self.node, None, args, kwargs)
        else:
            getattr(run.buffers[name], str(self.node.target))(*args[1:], **kwargs)
        return Value(run.buffers[name], "cells", name)


class _Program:
    """One trace, run node by node, without the nodes that the output does not depend on."""

    def __init__(self, module: nn.Module, gradients: Mapping[str, Tensor], x: Tensor) -> None:
        nodes = needed(Tracer(x).trace(module), module)
        trace = Trace(module)
        once = trace.used_once(nodes)
        self.sinks = {name: gradient for name, gradient in gradients.items() if name in once}
        changed = {name for node in nodes if (name := changed_buffer(node, module))}
        # Buffers that differ between cells: those of batch norm, and those that the network changes in training.
        self.changed = changed | {name for name, _ in module.named_buffers() if "running_" in name}
        self._constants: dict[fx.Node, str | Any] = {}  # parameters and buffers by name, other attributes themselves
        self._steps: list[_Step] = []
        sources = [node for node in nodes if node.op == "placeholder"]
        if len(sources) != 1 and any(not node.args for node in sources[1:]):
            raise UnknownLayerError("a network of several inputs")
        self._source, self._defaults = sources[0], {node: node.args[0] for node in sources[1:]}
        for node in nodes:
            if node.op == "get_attr":
                self._constants[node] = trace.name_of(trace.attribute(node)) or trace.attribute(node)
            elif node.op == "output":
                self._result = node.args[0]
            elif node.op != "placeholder":
                self._steps.append(_Step(node, trace))
        read: set[object] = set(nodes[-1].all_input_nodes)
        for step in reversed(self._steps):
            step.last_read = [node for node in step.node.all_input_nodes if node not in read]
            read.update(step.last_read)

    @property
    def fallback(self) -> list[str]:
        """The nodes that run cell by cell."""
        return [step.title for step in self._steps if step.falls_back]

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        values: dict[fx.Node, Any] = {self._source: Value(x, "shared"), **self._defaults}
        for node, constant in self._constants.items():
            values[node] = (
                run.attribute(constant, constant in self.changed) if isinstance(constant, str) else wrapped(constant)
            )
        for step in self._steps:
            args, kwargs = map_arg((step.node.args, step.node.kwargs), values.__getitem__)
            values[step.node] = step(run, args, kwargs)
            for node in step.last_read:
                del values[node]
        logits = values[self._result]  # type: ignore[index]
        if not isinstance(logits, Value) or logits.layout == "shared" or len(run.shape(logits)) != 2:
            raise UnknownLayerError("the network's output is not [B, classes]")
        return run.by_cell(logits)
