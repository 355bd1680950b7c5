"""Finds the networks that compiled code can train: sequences of linear, batch norm and ReLU layers.

`computed` then checks on one minibatch that compiled code computes the same as the stacked backend.
"""

import copy
from itertools import pairwise

import torch
from torch import Tensor, fx, nn

from wdgrid.engine.fused.kernels import CrossEntropy
from wdgrid.engine.fused.network import FusedNetwork, Kind
from wdgrid.engine.fused.trace import Trace, needed
from wdgrid.engine.fused.tracer import Tracer
from wdgrid.engine.fused.verification import CELLS, SECOND, close, parallel
from wdgrid.engine.native.backend import Chain, Native
from wdgrid.optim.fused import Rule

# With more parameters, a cell's weights and moments do not fit into a core's cache, and PyTorch is as fast or faster.
# Measured (2 MiB of cache, three hidden layers, time of the stacked backend over that of compiled code): 4.4 with 5 000
# parameters, 3.2 with 14 000, 1.5 with 140 000, 1.2 with 330 000, 1.0 with 930 000, 0.4 with 2.9 million.
MOST_PARAMETERS = 250_000


def chain(module: nn.Module, x: Tensor, classes: int, most: float = MOST_PARAMETERS) -> Chain | None:
    """The layers of a module that maps x [B, …] to logits of `classes` classes, if native.c can train it.

    None for any other network, for one with more than `most` parameters, and on a GPU.
    """
    if x.device.type != "cpu" or sum(parameter.numel() for parameter in module.parameters()) > most:
        return None
    layers, in_test = (_layers(copy.deepcopy(module).train(mode), x) for mode in (True, False))
    if not layers or in_test is None or layers.names != in_test.names:
        return None
    last = layers.layers[-1]
    return layers if isinstance(last, nn.Linear) and last.out_features >= classes else None


def _layers(module: nn.Module, x: Tensor) -> Chain | None:
    """The layers, if they form one sequence of native.c's layers on x [B, …] with all parameters trained."""
    found, trace, features = Chain([], []), Trace(module), x[0].numel()
    try:
        nodes = needed(Tracer(x).trace(module), module)
    except Exception:  # torch.fx may raise anything on a network that it cannot trace
        return None
    for previous, node in pairwise(nodes):
        layer = _layer(node, trace)
        if layer is None or node.all_input_nodes != [previous]:
            return None
        if type(layer) is nn.Identity:
            continue
        if (not found.layers and type(layer) is not nn.Linear) or str(node.target) in found.names:
            return None
        if getattr(layer, "in_features", getattr(layer, "num_features", features)) != features:
            return None
        features = getattr(layer, "out_features", features)
        found.layers.append(layer)
        found.names.append(str(node.target) if type(layer) is not nn.ReLU else node.name)
    return found if found.layers else None


def _layer(node: fx.Node, trace: Trace) -> nn.Module | None:
    """A node as one of native.c's layers, as Identity if it computes nothing, or None for any other."""
    module = trace.modules.get(str(node.target)) if node.op == "call_module" else None
    if node.op == "output" or trace.is_flatten(node) or type(module) is nn.Identity:
        return nn.Identity()
    if trace.is_relu(node):
        return nn.ReLU()
    if module is None or not all(parameter.requires_grad for parameter in module.parameters()):
        return None
    if type(module) is nn.BatchNorm1d and module.affine and module.track_running_stats and module.momentum is not None:
        return module
    return module if type(module) is nn.Linear else None


def computed(layers: Chain, module: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Whether compiled code computes the same as the module's stacked backend on x [B, …], y [B].

    Compares losses, gradients, statistics and test losses of two different cells.
    """
    if len(x) < 2:
        return False
    networks = [FusedNetwork(module, CELLS, x, Kind("stacked", random=False)) for _ in range(2)]
    for network in networks:
        network.theta[1] *= SECOND
    own, stacked = networks
    nothing = torch.zeros(CELLS)
    hyper = {"lr": nothing, "weight_decay": nothing, "momentum": nothing}
    native = Native(layers, own, Rule("sgd", own.theta, hyper), [1.0], [1.0], len(x))
    losses = CrossEntropy.apply(stacked(x, training=True), y)
    stacked.backward(losses)
    same = close(native.gradients(x, y), losses.detach())
    same &= parallel(list(own.gradients.values()), list(stacked.gradients.values()))
    same &= all(close(own.buffers[name], stacked.buffers[name]) for name in own.buffers)
    with torch.no_grad():
        logits = stacked(x, training=False)
    _, sums = native.test([(x, y)])
    return same and close(sums / len(y), CrossEntropy.apply(logits, y))
