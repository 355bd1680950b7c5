"""Three cells in training, the second of which diverges: for tests that compare ways of running the steps."""

import torch
from torch import nn

from helpers.training import rate_of
from wdgrid.engine.fused.network import FusedNetwork
from wdgrid.models.decay import parts
from wdgrid.models.mlp import mlp
from wdgrid.models.resnet import resnet
from wdgrid.models.shake import shake_shake
from wdgrid.models.tf_tutorial import tf_tutorial
from wdgrid.optim.fused import Rule
from wdgrid.optim.variants import VARIANTS

K, B, STEPS, HALF = 3, 10, 8, 5
ETAS = [1.0, 0.9, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1]
DECAYS = [0.0] + [1e10] * 7  # cell 1, whose λ is 1e300, has no decay in the first step
NETWORKS = {
    "mlp": ((1, 8, 8), lambda: mlp(64, 10, [12, 9], batch_norm=True)),
    "dropout": ((6,), lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 10))),
    "resnet": ((3, 8, 8), lambda: resnet(3, 10, depth=8, width=2)),
    "shake": ((3, 8, 8), lambda: shake_shake(3, 10, depth=8, width=2, level="image")),
    "tutorial": ((3, 12, 12), lambda: tf_tutorial(3, 12, 12, 10)),
}
KINDS = {}  # what is found out about a network by trying it


def steps(kind, name="mlp", optimizer="adamw", dtype=torch.float64, products=None, device="cpu", **given):
    """Steps of three cells from the same weights, and their minibatches."""
    torch.manual_seed(5)
    shape, factory = NETWORKS[name]
    x, y = torch.randn(STEPS, B, *shape, dtype=dtype).to(device), torch.randint(0, 10, (STEPS, B)).to(device)
    network = FusedNetwork(factory(), K, x[0], KINDS.get(name), products)
    KINDS[name] = network.kind
    assert network.backend == "stacked"
    unit = rate_of(optimizer)
    hyper = {"lr": [unit, unit, unit / 4], "weight_decay": [1e-12, 1e300, 0.0]}
    hyper |= {n: [v] * K for n, v in VARIANTS[optimizer].defaults.items()}
    first, *_, last = network.columns
    decayed = parts(network.columns, {first: 0.5, last: 0.0})
    rule = Rule(optimizer, network.theta, {n: torch.tensor(v, dtype=torch.float64) for n, v in hyper.items()}, decayed)
    rule.kernel = None  # the CPU's own kernels for Adam, which a GPU does not have
    return kind(network, rule, ETAS, DECAYS, 7, **given), lambda i: (x[i % STEPS], y[i % STEPS])


def trained(run, batches):
    """Losses of two calls, with what is left behind."""
    losses = torch.cat([run.train(batches, 0, HALF), run.train(lambda i: batches(HALF + i), HALF, STEPS - HALF)])
    return losses, [run.network.theta, *run.network.buffers.values()], run.rule.state
