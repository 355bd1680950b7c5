"""Answers questions about the nodes of a traced module."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn


def needed(graph: fx.Graph, root: nn.Module) -> list[fx.Node]:
    """The nodes that the output depends on, those that change a buffer in place, and the input, in order."""
    changing = {node for node in graph.nodes if changed_buffer(node, root)}
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or node in needed or node in changing:
            needed |= {node, *node.all_input_nodes}
    return [node for node in graph.nodes if node in needed or node.op == "placeholder"]


def is_in_place(method: str) -> bool:
    """Whether a tensor's method of this name changes the tensor."""
    return method.endswith("_") and not method.endswith("__")


def changed_buffer(node: fx.Node, root: nn.Module) -> str | None:
    """The name of the buffer that a node changes in place, such as `self.count.add_(1)`; None for other nodes."""
    of: Any = node
    while isinstance(of, fx.Node) and of.op == "call_method" and is_in_place(str(of.target)):
        of = of.args[0]
    if of is node:
        return None
    if not isinstance(of, fx.Node) or of.op != "get_attr":
        return None
    return str(of.target) if str(of.target) in dict(root.named_buffers()) else None


class Layer:
    """A module of the traced network: its parameters and buffers by their own names and by the network's."""

    def __init__(self, module: nn.Module, names: dict[str, str], *, relu: bool = False) -> None:
        self.module, self.names = module, names
        self.relu = relu  # whether a ReLU follows and is the only reader of the output


class Trace:
    """Questions about the nodes of a traced network."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.modules = dict(root.named_modules())
        self._name_of = {id(t): name for name, t in (*root.named_parameters(), *root.named_buffers())}

    def layer(self, node: fx.Node) -> Layer:
        """The module that a node calls."""
        module = self.modules[str(node.target)]
        tensors = *module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)
        return Layer(module, {name: self._name_of[id(t)] for name, t in tensors}, relu=self.fuses(node))

    def attribute(self, node: fx.Node) -> Any:
        """The object that a get_attr node names."""
        found: Any = self.root
        for part in str(node.target).split("."):
            found = getattr(found, part)
        return found

    def name_of(self, tensor: object) -> str | None:
        """The network's name of a parameter or buffer."""
        return self._name_of.get(id(tensor))

    def used_once(self, nodes: list[fx.Node]) -> set[str]:
        """Names of the parameters that exactly one node uses, and uses once."""
        uses: Counter[str] = Counter()
        for node in nodes:
            uses.update(self._used(node))
        return {name for name, count in uses.items() if count == 1}

    def _used(self, node: fx.Node) -> Iterator[str]:
        if node.op == "call_module":
            yield from self.layer(node).names.values()
        elif node.op == "get_attr" and (name := self.name_of(self.attribute(node))):
            yield from [name] * len(node.users)

    def is_relu(self, node: fx.Node) -> bool:
        """Whether a node is a plain ReLU."""
        if node.op == "call_module":
            return type(self.modules[str(node.target)]) is nn.ReLU
        return node.target in (F.relu, torch.relu, "relu") and len(node.args) == 1

    def is_flatten(self, node: fx.Node) -> bool:
        """Whether a node flattens each image's features: a layer, a function or a method."""
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            return type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)
        flattens = node.op in ("call_function", "call_method") and node.target in (torch.flatten, "flatten")
        return flattens and node.args[1:] in ((1,), (1, -1)) and not node.kwargs

    def is_batch_norm(self, node: fx.Node) -> bool:
        """Whether a node is a batch norm."""
        return node.op == "call_module" and type(self.modules[str(node.target)]) in (nn.BatchNorm1d, nn.BatchNorm2d)

    def fuses(self, node: fx.Node) -> bool:
        """Whether a node is a batch norm whose only reader is a ReLU; the two are then one layer."""
        return self.is_batch_norm(node) and len(node.users) == 1 and self.is_relu(next(iter(node.users)))
