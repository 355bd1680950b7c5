"""Seeds random layers from a counter before a forward pass; all K cells share their noise.

A network that draws random numbers (dropout and similar layers, or a user's own torch.rand) takes them from torch's
generators. Seeding the generators before each pass therefore fixes all of them.
"""

import contextlib
import copy
from collections.abc import Generator, Sequence

import torch
from torch import Tensor, nn

Generators = Sequence[torch.Generator]


def generators(device: torch.device) -> Generators:
    """The generators that a network on `device` may draw from: the CPU's, and the device's own."""
    if device.type != "cuda":
        return (torch.default_generator,)
    index = torch.cuda.current_device() if device.index is None else device.index  # pyright: ignore[reportUnnecessaryComparison]
    return torch.default_generator, torch.cuda.default_generators[index]


def seed(of: Generators, number: int) -> None:
    """Seeds the generators with `number`."""
    for generator in of:
        generator.manual_seed(number)


def states(of: Generators) -> list[Tensor]:
    """The states of the generators."""
    return [generator.get_state() for generator in of]


def restore(of: Generators, to: list[Tensor]) -> None:
    """Restores the states of the generators."""
    for generator, state in zip(of, to, strict=True):
        generator.set_state(state)


@contextlib.contextmanager
def preserved(of: Generators) -> Generator[None]:
    """Restores the generators at the end of the block."""
    before = states(of)
    try:
        yield
    finally:
        restore(of, before)


def draws(module: nn.Module, x: Tensor) -> bool:
    """Whether the network draws random numbers for x [B, …]: in training, forward or backward, or in a test pass.

    This is detected by comparing the generators' states, so functional dropout and a user's own torch.rand count, too.
    """
    of = generators(x.device)
    module = copy.deepcopy(module)
    with preserved(of), torch.enable_grad():
        before = states(of)
        module.train()(x).sum().backward()
        with torch.no_grad():
            module.eval()(x)
        return not all(torch.equal(a, b) for a, b in zip(before, states(of), strict=True))
