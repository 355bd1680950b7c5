"""One ordinary nn.Module, K times at once.

`fuse` picks, for a network that it has never seen, the fastest of three forms with the same meaning:

- *stacked*: torch.fx traces the module, and every layer runs on K cells in one call (`wdgrid.engine.layers`);
- *vmap*: torch.func maps the whole module over K sets of parameters;
- *one by one*: a loop, for modules that neither can take.

All three hold parameters and buffers as [K, …] views of flat storage. Knows nothing of optimizers, data or studies.
"""

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, vmap
from torch.fx.proxy import TraceError

from wdgrid.engine.layers import UnknownLayerError, compile_graph

Form = Literal["stacked", "vmap", "one by one"]
Forward = Callable[[dict[str, Tensor], dict[str, Tensor], Tensor, bool], Tensor]

# Rows of the flat storage start on 64-byte boundaries: BLAS kernels may take another path, and round
# differently, where a matrix is not aligned, and a cell must not depend on the row it got.
ALIGNMENT = 64


class FusedNetwork:
    """K copies of one module.

    `theta` [K, P] holds all parameters of a cell in a row (zero padding between them), `gradient` [K, P] their
    gradients; `parameters` and `buffers` are named [K, …] tensors. Forward: x [B, …], shared by all cells → [K, C, B]
    logits (classes before images, as the stacked layers have them).
    """

    def __init__(self, module: nn.Module, cells: int, x: Tensor) -> None:
        module = copy.deepcopy(module).to(x)
        self.cells = cells
        step = max(1, ALIGNMENT // x.element_size())
        self._slices: dict[str, tuple[int, torch.Size]] = {}
        width = 0
        for name, parameter in module.named_parameters():
            self._slices[name] = (width, parameter.shape)
            width += -(-parameter.numel() // step) * step
        self.theta = x.new_zeros(cells, width)
        self.gradient = x.new_zeros(cells, width)
        self.buffers = {name: _repeat(buffer, cells) for name, buffer in module.named_buffers()}
        for name, parameter in module.named_parameters():
            self._view(self.theta, name).copy_(parameter.detach())
        self.parameters = {name: self._view(self.theta, name).detach().requires_grad_() for name in self._slices}
        self._gradients = [self._view(self.gradient, name) for name in self._slices]
        self.form, self._forward = _choose(module, self, x)

    @property
    def size(self) -> int:
        """Parameters of one cell, padding not counted."""
        return sum(shape.numel() for _, shape in self._slices.values())

    def _view(self, flat: Tensor, name: str) -> Tensor:
        start, shape = self._slices[name]
        return flat[:, start : start + shape.numel()].view(-1, *shape)

    def __call__(self, x: Tensor, *, training: bool) -> Tensor:
        """Logits [K, C, B] of x [B, …]."""
        return self._forward(self.parameters, self.buffers, x, training)

    def backward(self, losses: Tensor) -> None:
        """Fills `gradient` [K, P] with each cell's gradient of its own loss; `losses` [K]."""
        gradients = torch.autograd.grad(losses.sum(), list(self.parameters.values()), allow_unused=True)
        for view, new in zip(self._gradients, gradients, strict=True):
            view.zero_() if new is None else view.copy_(new)


def _repeat(tensor: Tensor, cells: int) -> Tensor:
    return tensor.detach().expand(cells, *tensor.shape).clone()


def _choose(module: nn.Module, network: FusedNetwork, x: Tensor) -> tuple[Form, Forward]:
    """The fastest form that reproduces the module's own outputs, tried on a few inputs."""
    forms: list[tuple[Form, Callable[[nn.Module], Forward]]] = [("stacked", _stacked), ("vmap", _vmapped)]
    for form, make in forms:
        try:
            forward = make(module)
            if _agrees(module, forward, network, x):
                return form, forward
        except (UnknownLayerError, TraceError, RuntimeError, ValueError, TypeError, NotImplementedError):
            continue
    return "one by one", _looped(module)


def _agrees(module: nn.Module, forward: Forward, network: FusedNetwork, x: Tensor) -> bool:
    """Whether a fused form gives the module's logits, buffers and evaluation outputs for x (buffers left alone)."""
    for training in (True, False):
        plain = copy.deepcopy(module).train(training)
        buffers = {name: buffer.clone() for name, buffer in network.buffers.items()}
        with torch.no_grad():
            fused, expected = forward(network.parameters, buffers, x, training), plain(x)
        if fused.shape != (network.cells, expected.shape[1], len(x)):
            return False
        if not all(torch.allclose(cell, expected.T, 1e-3, 1e-4) for cell in fused):
            return False
        if not all(torch.allclose(buffers[n][-1].double(), b.double(), 1e-3, 1e-4) for n, b in plain.named_buffers()):
            return False
    return True


def _stacked(module: nn.Module) -> Forward:
    return compile_graph(fx.symbolic_trace(module))


def _vmapped(module: nn.Module) -> Forward:
    modes = {True: copy.deepcopy(module).train(), False: copy.deepcopy(module).eval()}

    def forward(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, training: bool) -> Tensor:
        def one(p: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
            return functional_call(modes[training], (p, b), (x,))

        return vmap(one, randomness="same")(parameters, buffers).transpose(1, 2)

    return forward


def _looped(module: nn.Module) -> Forward:
    modes = {True: copy.deepcopy(module).train(), False: copy.deepcopy(module).eval()}

    def forward(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, training: bool) -> Tensor:
        logits = []
        for k in range(len(next(iter(parameters.values())))):
            own = {name: stack[k] for stacks in (parameters, buffers) for name, stack in stacks.items()}
            logits.append(functional_call(modes[training], own, (x,)).T)
        return torch.stack(logits)

    return forward
