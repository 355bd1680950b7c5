"""Lists the optimizer variants with everything that the rest of wdgrid needs to know about each.

A new variant is a record here, a function in `wdgrid.optim.algorithms` and an update in `wdgrid.optim.fused`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Family(Enum):
    """An optimizer that libraries have."""

    SGD = "SGD"
    ADAM = "Adam"


class Decay(Enum):
    """Where weight decay acts; the value is its form on figures."""

    GRADIENT = "L2: gradient + λ θ"
    PAPER = "decoupled: θ − η_t λ θ"
    LIBRARY = "decoupled as in PyTorch: θ − η_t α λ θ"


@dataclass(frozen=True)
class Variant:
    """One optimizer variant.

    `name` is written in study files, `title` on figures. `family` is the optimizer in other libraries that differs only
    in its decay and in where its rate acts; None if there is none. `defaults` are the hyperparameters that it has
    beside lr and weight_decay, `positive` those of them that may not be 0, with the reason. `counterpart` is the target
    of `wdgrid convert` to which reports convert the best cell, or None.
    """

    name: str
    title: str
    family: Family | None
    decay: Decay
    defaults: Mapping[str, float]
    counterpart: str | None = None
    positive: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def algorithm(self) -> str:
        """Whose hyperparameters they are, on an axis."""
        return self.family.value if self.family else self.title

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """Every hyperparameter that it has; each can be an axis."""
        return ("lr", "weight_decay", *self.defaults)


MOMENTUM = {"momentum": 0.9}  # Algorithm 1
MOMENTS = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}  # Algorithm 2
# AdaBayes' (arXiv 1807.07540): a prior whose rate is 0.1 = lr/eps at lr = 0.001, and 100 observations a minibatch.
FILTER = {"beta2": 0.999, "eps": 0.01}
RATE_OF_PRIOR = {"eps": "lr/eps is the prior's rate"}

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("sgd", "SGD", Family.SGD, Decay.GRADIENT, MOMENTUM),
        Variant("sgdw", "SGDW", Family.SGD, Decay.PAPER, MOMENTUM, "timm"),
        Variant("adam", "Adam", Family.ADAM, Decay.GRADIENT, MOMENTS),
        Variant("adamw", "AdamW", Family.ADAM, Decay.PAPER, MOMENTS, "torch"),
        Variant("sgdw-torch", "SGDW (torch)", Family.SGD, Decay.LIBRARY, MOMENTUM, "paper"),
        Variant("adamw-torch", "AdamW (torch)", Family.ADAM, Decay.LIBRARY, MOMENTS, "paper"),
        Variant("kalman", "Kalman filter", None, Decay.PAPER, FILTER, positive=RATE_OF_PRIOR),
    )
}


def names(decay: Decay) -> str:
    """The variants with this decay, for a sentence."""
    return ", ".join(variant.name for variant in VARIANTS.values() if variant.decay is decay)
