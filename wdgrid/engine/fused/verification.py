"""Checks that a backend computes the network's own logits, buffers and gradients on a few images."""

import copy
from typing import Protocol

import torch
from torch import Tensor, nn

from wdgrid.engine import randomness
from wdgrid.engine.fused.kernels import CrossEntropy

CELLS = 2  # with different weights, so that a backend that mixes cells is detected
SECOND = 1.25  # the second cell's weights are this many times the first's
LOGITS = {"rtol": 1e-3, "atol": 1e-4}  # single precision, sums in another order
GRADIENT = 1e-2, 1e-4  # of the norm of a parameter's gradient; of the norm of the whole gradient


class Fused(Protocol):
    """The interface of what is checked: CELLS copies of a module."""

    theta: Tensor
    buffers: dict[str, Tensor]
    gradients: dict[str, Tensor]

    def __call__(self, x: Tensor, *, training: bool, noise: int) -> Tensor:
        """Logits [K, B, C]."""
        ...

    def backward(self, losses: Tensor) -> None:
        """Fills `gradients`."""
        ...


def is_equivalent(fused: Fused, module: nn.Module, x: Tensor) -> bool:
    """Whether two cells give the logits, buffers and gradients of two modules, for x [B, …] and for other values.

    Compares training and test passes under the same seeds. Gradients are compared because torch.fx traces into a user's
    own autograd.Function and loses its backward pass.
    """
    plain = [copy.deepcopy(module) for _ in range(CELLS)]
    with torch.no_grad():
        fused.theta[1] *= SECOND
        for parameter in _trained(plain[1]).values():
            parameter *= SECOND
    return all(_step(fused, plain, b, i) and _test(fused, plain, b, i) for i, b in enumerate((x, _other(x))))


def _other(x: Tensor) -> Tensor:
    """A batch with a wider range than x [B, …]; integers are unchanged, because they may be indices."""
    other = x.roll(1, 0)
    return other if torch.equal(x, x.round()) else 1.5 * other + 0.5


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _step(fused: Fused, plain: list[nn.Module], x: Tensor, number: int) -> bool:
    """One training pass, forward and backward."""
    of = randomness.generators(x.device)
    logits = fused(x, training=True, noise=number)
    if len(logits) != CELLS:
        return False
    fused.backward(logits.square().mean(dim=(1, 2)))
    for k, module in enumerate(plain):
        randomness.seed(of, number)
        expected = module.train()(x)
        if not close(logits[k], expected):
            return False
        trained = _trained(module)
        gradients = torch.autograd.grad(expected.square().mean(), list(trained.values()), allow_unused=True)
        if not parallel([fused.gradients[name][k] for name in trained], list(gradients)):
            return False
        if not all(close(fused.buffers[name][k], buffer) for name, buffer in module.named_buffers()):
            return False
    return True


@torch.no_grad()
def _test(fused: Fused, plain: list[nn.Module], x: Tensor, number: int) -> bool:
    logits = fused(x, training=False, noise=number)
    for k, module in enumerate(plain):
        randomness.seed(randomness.generators(x.device), number)
        if not close(logits[k], module.eval()(x)):
            return False
    return True


def same_bits_in_all_slots(fused: Fused, x: Tensor, y: Tensor) -> bool:
    """Whether a training pass and a test pass on x [B, …], y [B] give K cells of equal weights equal bits.

    The loss is the cross-entropy that training uses. Changes `fused`.
    """
    logits = fused(x, training=True, noise=0)
    losses = CrossEntropy.apply(logits, y)
    fused.backward(losses)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        tested = fused(x, training=False, noise=0)
    return all(map(_alike, (logits, losses, tested, *fused.gradients.values(), *fused.buffers.values())))


def _alike(cells: Tensor) -> bool:
    """Whether all rows of [K, …] are the same bits."""
    bits = cells.detach().reshape(len(cells), -1).contiguous().view(torch.uint8)
    return torch.equal(bits, bits[:1].expand_as(bits))


def close(own: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are equal up to single precision, NaN in the same places."""
    return own.shape == expected.shape and torch.allclose(own.double(), expected.double(), equal_nan=True, **LOGITS)


def parallel(own: list[Tensor], expected: list[Tensor | None]) -> bool:
    """Whether gradients agree in their norms, because a ReLU at zero may round to either side. None counts as zero."""
    wanted = [torch.zeros_like(o) if e is None else e for o, e in zip(own, expected, strict=True)]
    norms = torch.stack([e.norm() for e in wanted])
    if not norms.isfinite().all():
        return True  # the network is at fault, not its backend
    differences = torch.stack([(o - e).norm() for o, e in zip(own, wanted, strict=True)])
    share, floor = GRADIENT
    return bool((differences <= share * norms + floor * norms.norm()).all())
