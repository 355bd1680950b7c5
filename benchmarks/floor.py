"""One cell at a time in wdgrid's engine beside a plain loop with torch.optim, and K cells: ratios of processor time.

    python benchmarks/floor.py [mlp,small_cnn,cnn,mixer,ViT,gn_cnn,GPT,ResNet8]

One thread, one process; steps of each in turn, seven times; the median of the ratios plain / wdgrid (above 1: faster).
"""

import copy
import statistics
import sys
import time
from collections.abc import Callable

import networks
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wdgrid.engine import one_thread
from wdgrid.engine.fused.network import Backend, FusedNetwork, Kind
from wdgrid.engine.randomness import draws
from wdgrid.engine.steps import Stepwise
from wdgrid.optim.fused import Rule

SHAPES = {"ResNet8": (3, 32, 32)}
BATCH, REPEATS, SAMPLE_S = 64, 7, 0.12
Steps = Callable[[int], object]
WAYS: tuple[tuple[Backend, int], ...] = ("one by one", 1), ("stacked", 1), ("stacked", 8)


def plain(module: nn.Module, x: Tensor, y: Tensor, name: str) -> Steps:
    """Steps as one writes them."""
    module = copy.deepcopy(module).train()
    adamw = torch.optim.AdamW(module.parameters(), lr=1e-3)
    sgd = torch.optim.SGD(module.parameters(), lr=1e-2, momentum=0.9, weight_decay=1e-4)
    optimizer = adamw if name == "adamw" else sgd

    def steps(n: int) -> None:
        for _ in range(n):
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()

    return steps


def fused(module: nn.Module, x: Tensor, y: Tensor, name: str, kind: Kind, cells: int) -> Steps:
    """Steps of wdgrid's engine."""
    network = FusedNetwork(module, cells, x, kind)
    hyper = {"lr": 1e-3, "weight_decay": 1e-4}
    hyper |= {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8} if name == "adamw" else {"momentum": 0.9}
    rule = Rule(name, network.theta, {key: torch.full((cells,), value) for key, value in hyper.items()})
    run = Stepwise(network, rule, [1.0] * 100_000, [1.0] * 100_000, 0)
    return lambda n: run.train(lambda i: (x, y), 0, n)


def row(name: str, optimizer: str) -> str:
    """One line of the table."""
    torch.manual_seed(0)
    module, shape = getattr(networks, name)(), SHAPES.get(name, (1, 8, 8))
    x, y = torch.randn(BATCH, *shape), torch.randint(0, 10, (BATCH,))
    random = draws(module, x)
    ways = [(plain(module, x, y, optimizer), 1)]
    ways += [(fused(module, x, y, optimizer, Kind(backend, random), k), k) for backend, k in WAYS]
    counts = [max(2, int(SAMPLE_S / _seconds(steps, 3))) for steps, _ in ways]
    times = [
        [_seconds(steps, count) / cells for (steps, cells), count in zip(ways, counts, strict=True)]
        for _ in range(REPEATS)
    ]
    ratios = [statistics.median(one[0] / one[i] for one in times) for i in range(1, len(ways))]
    took = 1e6 * statistics.median(one[0] for one in times)
    return f"| {name}, {optimizer} | {took:.0f} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |"


def _seconds(steps: Steps, n: int) -> float:
    """Processor time of a step."""
    steps(1)
    began = time.process_time()
    steps(n)
    return (time.process_time() - began) / n


def main() -> None:
    """The table."""
    one_thread()
    names = sys.argv[1] if len(sys.argv) > 1 else "mlp,small_cnn,cnn,mixer,ViT,gn_cnn,GPT,ResNet8"
    print(f"| network, optimizer | plain, µs a step | {' | '.join(f'{b} × {k}' for b, k in WAYS)} |")
    print(f"|---|---|{'---|' * len(WAYS)}")
    for name in names.split(","):
        for optimizer in ("sgdw", "adamw"):
            print(row(name, optimizer), flush=True)


if __name__ == "__main__":
    main()
