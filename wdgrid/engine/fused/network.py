"""One ordinary nn.Module, K times at once.

`FusedNetwork` picks, for a network that it has never seen, the fastest of three backends with the same meaning:

- *stacked*: torch.fx traces the module, and every layer runs on K cells in one call (`wdgrid.engine.fused.rules`);
- *vmap*: torch.func maps the whole module over K sets of parameters;
- *one by one*: a loop, for modules that neither can take.

All three hold parameters and buffers as [K, …] views of flat storage, and give all cells the same noise.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from wdgrid.engine.fused.stacked import Stacked
from wdgrid.engine.fused.verification import CELLS, is_equivalent
from wdgrid.engine.randomness import draws, generators, preserved, restore, seed, states

Backend = Literal["stacked", "vmap", "one by one"]
BACKENDS: tuple[Backend, ...] = "stacked", "vmap", "one by one"  # the fastest first
# An operator without a batching rule is slower under vmap; torch prints a warning for each.
torch._C._functorch._set_vmap_fallback_warning_enabled(False)  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
Forward = Callable[[dict[str, Tensor], dict[str, Tensor], Tensor, bool], Tensor]

# Rows of the flat storage start on 64-byte boundaries: BLAS kernels may take another path, and round
# differently, where a matrix is not aligned, and a cell must not depend on the row it got.
ALIGNMENT = 64


class Kind(NamedTuple):
    """What is found out about a network by trying it; the same for all of a task's chunks."""

    backend: Backend
    random: bool  # draws random numbers, so it must be seeded before each pass


class FusedNetwork:
    """K copies of one module.

    `theta` [K, P] holds all parameters of a cell in a row (zero padding between them), `gradient` [K, P] their
    gradients; `parameters`, `gradients` and `buffers` are named [K, …] tensors; parameters that the module has frozen
    count as buffers. Forward: x [B, …], shared by all cells → [K, B, C] logits. With `products` given, products and
    activations are in that shorter format; weights, gradients and statistics stay in x's.
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
        self._forward: Forward = (
            Stacked(module, self.gradients, random=self.kind.random)
            if self.backend == "stacked"
            else {"vmap": _Mapped, "one by one": _Looped}[self.backend](module)
        )

    @property
    def backend(self) -> Backend:
        """How the cells are computed."""
        return self.kind.backend

    @property
    def fallback(self) -> tuple[str, ...]:
        """The nodes of a stacked network that ran a cell at a time because they have no rule."""
        return self._forward.fallback if isinstance(self._forward, Stacked) else ()

    @property
    def size(self) -> int:
        """Parameters of one cell, padding not counted."""
        return sum(shape.numel() for _, shape in self._slices.values())

    @property
    def columns(self) -> dict[str, slice]:
        """Where each parameter lies in `theta` and `gradient`, with the padding behind it."""
        starts = [start for start, _ in self._slices.values()]
        ends = [*starts[1:], self.theta.shape[1]]
        return {name: slice(*place) for name, *place in zip(self._slices, starts, ends, strict=True)}

    def _view(self, flat: Tensor, name: str) -> Tensor:
        start, shape = self._slices[name]
        return flat[:, start : start + shape.numel()].view(-1, *shape)

    def seed(self, noise: int) -> None:
        """Where the next forward pass begins to draw, if the network draws."""
        seed(self._generators, noise)

    def __call__(self, x: Tensor, *, training: bool, noise: int | None = 0) -> Tensor:
        """Logits [K, B, C] of x [B, …]; what the network draws, it draws from the seed `noise`, unless that is None."""
        if noise is not None:
            self.seed(noise)
        with torch.autocast(x.device.type, self._products, enabled=self._products is not None):
            logits = self._forward(self.parameters, self.buffers, x, training)
        return logits.to(x.dtype)

    def backward(self, losses: Tensor) -> None:
        """Fills `gradient` [K, P] with each cell's gradient of its own loss; `losses` [K]."""
        if isinstance(self._forward, _Looped):
            self._forward.backward(losses, self.gradients)
            return
        gradients = torch.autograd.grad(losses.sum(), list(self.parameters.values()), allow_unused=True)
        written = self._forward.written if isinstance(self._forward, Stacked) else ()
        for (name, view), new in zip(self.gradients.items(), gradients, strict=True):
            if name not in written:
                view.zero_() if new is None else view.copy_(new)  # pyright: ignore[reportUnnecessaryComparison]


def _repeat(tensor: Tensor, cells: int) -> Tensor:
    return tensor.detach().expand(cells, *tensor.shape).clone()


def nodes_without_rule(network: FusedNetwork, x: Tensor) -> tuple[str, ...]:
    """The nodes of a stacked network that run a cell at a time, by a pass over x [B, …] in training and in test."""
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


def _kind(module: nn.Module, x: Tensor, backends: Sequence[Backend] = BACKENDS) -> Kind:
    """The fastest of the backends that reproduces the module, tried on x [B, …] with two cells.

    A network that draws is tried on the CPU: on a GPU, backends may draw other numbers from the same seed.
    """
    random = draws(module, x)
    if random:
        module, x = copy.deepcopy(module).cpu(), x.cpu()
    with preserved(generators(x.device)):
        for backend in backends[:-1]:
            kind = Kind(backend, random)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # what torch says of a backend that may not be taken
                    if is_equivalent(FusedNetwork(module, CELLS, x, kind), module, x):
                        return kind
            except Exception:  # whatever it trips over; the module itself is left
                continue
    return Kind(BACKENDS[-1], random)


class _Mapped:
    """The vmap backend."""

    def __init__(self, module: nn.Module) -> None:
        self.modes = {mode: copy.deepcopy(module).train(mode) for mode in (True, False)}

    def __call__(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, training: bool) -> Tensor:
        def one(p: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
            return functional_call(self.modes[training], (p, b), (x,))

        return vmap(one, randomness="same")(parameters, buffers)


class _Looped(_Mapped):
    """A cell at a time, each from where the generators stood; the backward pass, too, for a user's own may draw."""

    def __call__(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, training: bool) -> Tensor:
        self._generators = generators(x.device)
        begin = states(self._generators)
        self._cells: list[tuple[dict[str, Tensor], list[Tensor]]] = []
        logits = []
        for k in range(len(next(iter(parameters.values())))):
            restore(self._generators, begin)
            own, statistics = ({name: stack[k] for name, stack in stacks.items()} for stacks in (parameters, buffers))
            logits.append(functional_call(self.modes[training], (own, statistics), (x,)))
            self._cells.append((own, states(self._generators)))
        return torch.stack(logits)

    def backward(self, losses: Tensor, into: dict[str, Tensor]) -> None:
        """Each cell's gradient of its own loss (`losses` [K]) into tensors [K, …] by name."""
        for k, (own, state) in enumerate(self._cells):
            restore(self._generators, state)
            last = k + 1 == len(self._cells)
            gradients = torch.autograd.grad(losses[k], list(own.values()), retain_graph=not last, allow_unused=True)
            for view, new in zip(into.values(), gradients, strict=True):
                view[k].zero_() if new is None else view[k].copy_(new)  # pyright: ignore[reportUnnecessaryComparison]
        self._cells = []
