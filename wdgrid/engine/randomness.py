"""Random layers: seeded from a counter before a forward pass, their noise shared by all K cells.

A network that draws (dropout and its kin, or a user's own torch.rand) takes its numbers from torch's generators, so
whoever seeds those before each pass decides all of them: layer after layer, in the network's own order.
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
    """Starts the generators anew from `number`."""
    for generator in of:
        generator.manual_seed(number)


def states(of: Generators) -> list[Tensor]:
    """Where the generators stand."""
    return [generator.get_state() for generator in of]


def restore(of: Generators, to: list[Tensor]) -> None:
    """Takes the generators back to where they stood."""
    for generator, state in zip(of, to, strict=True):
        generator.set_state(state)


@contextlib.contextmanager
def preserved(of: Generators) -> Generator[None]:
    """Whatever is drawn inside leaves no trace."""
    before = states(of)
    try:
        yield
    finally:
        restore(of, before)


def draws(module: nn.Module, x: Tensor) -> bool:
    """Whether the network draws random numbers for x [B, …]: in training, forward or backward, or in a test pass.

    Found out by watching the generators, so that functional dropout and a user's own torch.rand are seen, too.
    """
    of = generators(x.device)
    module = copy.deepcopy(module)
    with preserved(of), torch.enable_grad():
        before = states(of)
        module.train()(x).sum().backward()
        with torch.no_grad():
            module.eval()(x)
        return not all(torch.equal(a, b) for a, b in zip(before, states(of), strict=True))
