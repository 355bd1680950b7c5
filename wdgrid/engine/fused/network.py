"""Computes K copies of an nn.Module together.

`FusedNetwork` chooses, for any network, the fastest of three backends that compute the same:

- *stacked*: torch.fx traces the module, and every layer runs on K cells in one call (`wdgrid.engine.fused.rules`);
- *vmap*: torch.func maps the whole module over K sets of parameters;
- *one by one*: a loop, for modules that neither of the other two can compute.

All three store parameters and buffers as [K, …] views of flat storage and give all cells the same noise.
"""

import copy
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from wdgrid.engine.fused.stacked import Stacked
from wdgrid.engine.fused.verification import CELLS, is_equivalent
from wdgrid.engine.fused.whole import Looped, Mapped
from wdgrid.engine.randomness import draws, generators, preserved, seed

Backend = Literal["stacked", "vmap", "one by one"]
BACKENDS: tuple[Backend, ...] = "stacked", "vmap", "one by one"  # the fastest first

# Rows of the flat storage start on 64-byte boundaries. If a matrix is not aligned, BLAS may choose another kernel that
# rounds differently, and a cell must not depend on its row.
ALIGNMENT = 64


class Kind(NamedTuple):
    """The result of trying a network's backends; the same for all of a task's chunks."""

    backend: Backend
    random: bool  # the network draws random numbers, so it is seeded before each pass


class FusedNetwork:
    """K copies of one module.

    A row of `theta` [K, P] holds all parameters of a cell (with zero padding between them), `gradient` [K, P] their
    gradients. `parameters`, `gradients` and `buffers` are named [K, …] tensors; frozen parameters of the module count
    as buffers. Forward: x [B, …], shared by all cells → logits [K, B, C]. If `products` is given, products and
    activations are in that shorter format; weights, gradients and statistics stay in the format of x.
    """

    def __init__(
        self, module: nn.Module, cells: int, x: Tensor, kind: Kind | None = None, products: torch.dtype | None = None
    ) -> None:
        module = copy.deepcopy(module).to(x)
        self.cells = cells
        step = max(1, ALIGNMENT // x.element_size())
        self._slices: dict[str, tuple[int, torch.Size]] = {}
        width = 0
        trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        fixed = {name: parameter for name, parameter in module.named_parameters() if name not in trained}
        for name, parameter in trained.items():
            self._slices[name] = (width, parameter.shape)
            width += -(-parameter.numel() // step) * step
        self.theta = x.new_zeros(cells, width)
        self.gradient = x.new_zeros(cells, width)
        self.buffers = {name: _repeat(buffer, cells) for name, buffer in (*module.named_buffers(), *fixed.items())}
        for name, parameter in trained.items():
            self._view(self.theta, name).copy_(parameter.detach())
        self.parameters = {name: self._view(self.theta, name).detach().requires_grad_() for name in self._slices}
        self.gradients = {name: self._view(self.gradient, name) for name in self._slices}
        self.kind = kind or _kind(module, x)
        self._products = products
        self._generators = generators(x.device) if self.kind.random else ()
        random = self.kind.random
        self._forward: Stacked | Mapped | Looped
        match self.backend:
            case "stacked":
                self._forward = Stacked(module, self.gradients, x, random=random)
            case "vmap":
                self._forward = Mapped(module)
            case "one by one":
                self._forward = Looped(module, self.parameters, self.buffers, self.gradients, x, random=random)

    @property
    def backend(self) -> Backend:
        """How the cells are computed."""
        return self.kind.backend

    @property
    def fallback(self) -> tuple[str, ...]:
        """The nodes of a stacked network that ran cell by cell because they have no rule."""
        return self._forward.fallback if isinstance(self._forward, Stacked) else ()

    @property
    def size(self) -> int:
        """Number of parameters of one cell, without padding."""
        return sum(shape.numel() for _, shape in self._slices.values())

    @property
    def columns(self) -> dict[str, slice]:
        """Each parameter's columns in `theta` and `gradient`, including the padding after it."""
        starts = [start for start, _ in self._slices.values()]
        ends = [*starts[1:], self.theta.shape[1]]
        return {name: slice(*place) for name, *place in zip(self._slices, starts, ends, strict=True)}

    def _view(self, flat: Tensor, name: str) -> Tensor:
        start, shape = self._slices[name]
        return flat[:, start : start + shape.numel()].view(-1, *shape)

    def seed(self, noise: int) -> None:
        """The seed of the next forward pass, if the network draws random numbers."""
        seed(self._generators, noise)

    def __call__(self, x: Tensor, *, training: bool, noise: int | None = 0) -> Tensor:
        """Logits [K, B, C] of x [B, …]; random numbers are drawn from the seed `noise`, unless it is None."""
        if noise is not None:
            self.seed(noise)
        if self._products is None:
            return self._forward(self.parameters, self.buffers, x, training)
        with torch.autocast(x.device.type, self._products):
            return self._forward(self.parameters, self.buffers, x, training).to(x.dtype)

    def backward(self, losses: Tensor) -> None:
        """Fills `gradient` [K, P] with each cell's gradient of its own loss; `losses` [K]."""
        if isinstance(self._forward, Looped):
            self._forward.backward(losses)
            return
        gradients = torch.autograd.grad(losses.sum(), list(self.parameters.values()), allow_unused=True)
        written = self._forward.written if isinstance(self._forward, Stacked) else ()
        for (name, view), new in zip(self.gradients.items(), gradients, strict=True):
            if name not in written:
                view.zero_() if new is None else view.copy_(new)  # pyright: ignore[reportUnnecessaryComparison]


def _repeat(tensor: Tensor, cells: int) -> Tensor:
    return tensor.detach().expand(cells, *tensor.shape).clone()


def nodes_without_rule(network: FusedNetwork, x: Tensor) -> tuple[str, ...]:
    """The nodes of a stacked network that run cell by cell, found by a training and a test pass over x [B, …]."""
    if network.backend != "stacked":
        return ()
    buffers = {name: buffer.clone() for name, buffer in network.buffers.items()}
    with torch.no_grad(), preserved(generators(x.device)):
        for training in (True, False):
            network(x, training=training)
    for name, buffer in buffers.items():
        network.buffers[name].copy_(buffer)
    return network.fallback


def slower_kind(module: nn.Module, x: Tensor, than: Kind) -> Kind:
    """The fastest of the slower backends that reproduces the module; x [B, …]."""
    return _kind(module, x, BACKENDS[BACKENDS.index(than.backend) + 1 :])


def kind_of(module: nn.Module, x: Tensor, backend: Backend) -> Kind:
    """The kind with this backend if it reproduces the module, else one by one; x [B, …]."""
    return _kind(module, x, (backend, BACKENDS[-1]) if backend != BACKENDS[-1] else BACKENDS[-1:])


def _kind(module: nn.Module, x: Tensor, backends: Sequence[Backend] = BACKENDS) -> Kind:
    """The fastest of the backends that reproduces the module, tried on x [B, …] with two cells.

    A network that draws random numbers is tried on the CPU: on a GPU, backends may draw different numbers from a seed.
    """
    random = draws(module, x)
    if random:
        module, x = copy.deepcopy(module).cpu(), x.cpu()
    with preserved(generators(x.device)):
        for backend in backends[:-1]:
            kind = Kind(backend, random)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # torch's warnings about a backend that may not be chosen
                    if is_equivalent(FusedNetwork(module, CELLS, x, kind), module, x):
                        return kind
            except Exception:  # whatever the backend raises, the next one is tried
                continue
    return Kind(BACKENDS[-1], random)
