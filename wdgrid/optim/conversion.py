"""Converts the (rate, decay) of one optimizer to another library's terms, with a line to paste.

The libraries' update rules (docs/theory.md) were read in torch 2.15, timm 1.0.31, Composer 0.32, optax 0.2.8, Keras
3.15 and pytorch_optimizer 4.1; none of them is imported. η is the schedule's multiplier, α the rate. For decay, the
paper's step subtracts η λ θ, and the library form (`sgdw-torch`, `adamw-torch`) η α λ θ, so λ_library = λ_paper / α. L2
factors are the same everywhere except for Keras' regularizer, whose gradient is twice its factor. Two are not among the
targets: Schedule-Free decays in the library form, and pytorch_optimizer's `fixed_decay=True` by λ θ at any rate and
schedule.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wdgrid.optim.variants import VARIANTS, Decay, Family, Variant

TARGETS = ("paper", "torch", "timm", "composer", "optax", "keras", "pytorch_optimizer", "normalised", "tau")
ALIASES = {"normalized": "normalised", "pytorch-optimizer": "pytorch_optimizer"}

OUTSIDE = (
    "this library multiplies the momentum buffer by the rate: equal to Algorithm 1 while the rate is constant, "
    "not under a schedule"
)
NO_LIBRARY = "no library here has this optimizer"
EPS_HAT = (
    "Keras adds epsilon to the square root before its bias correction: equal only while epsilon is far below the "
    "gradients' size"
)


@dataclass(frozen=True)
class Conversion:
    """One setting in another library's terms.

    `value` is the number asked for, called `name` there: a decay, or τ in epochs; None if no value gives the same
    training. `line` is code to paste (for normalised λ and τ: the number in words). `warning` says why training is not
    exactly the same; None if it is. Where `line` calls one of PyTorch's constructors or one like them, `constructor` is
    its dotted name and `arguments` are its keyword arguments.
    """

    optimizer: str
    to: str
    name: str
    value: float | None
    line: str
    warning: str | None = None
    constructor: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class _Setting:
    """The validated input: `decay` is λ as in the paper (a decoupled decay if `decoupled`, else an L2 factor)."""

    optimizer: str
    adaptive: bool
    decoupled: bool
    lr: float
    decay: float
    constant: bool
    momentum: float
    betas: tuple[float, float]
    eps: float

    @property
    def library_decay(self) -> float:
        return self.decay / self.lr if self.decoupled else self.decay


def _number(value: float) -> str:
    return f"{value:.12g}"


def _check(name: str, value: float, low: float, low_allowed: bool) -> float:
    if not math.isfinite(value) or value < low or (value == low and not low_allowed):
        raise ValueError(f"{name} must be a finite number {'≥' if low_allowed else '>'} {low:g}, not {value:g}")
    return float(value)


def convert(
    lr: float,
    weight_decay: float,
    optimizer: str,
    to: str,
    *,
    schedule: str = "cosine",
    batch: float | None = None,
    train_size: float | None = None,
    steps_per_epoch: float | None = None,
    epochs: float | None = None,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Conversion:
    """The (lr, weight_decay) of `optimizer` in the terms of `to`, one of TARGETS.

    `normalised` needs `epochs` (of the current restart period) and `tau` does not; both need `steps_per_epoch`, or
    `batch` and `train_size`. `schedule` matters if a library is equal under a constant rate only. Raises ValueError, in
    one line, for an unknown name, a number out of range or a missing one.
    """
    to = ALIASES.get(to.lower(), to.lower())
    if optimizer not in VARIANTS:
        raise ValueError(f"optimizer must be one of {', '.join(VARIANTS)}, not {optimizer!r}")
    if to not in TARGETS:
        raise ValueError(f"can convert to {', '.join(TARGETS)}, not to {to!r}")
    lr = _check("lr", lr, 0.0, low_allowed=False)
    weight_decay = _check("weight decay", weight_decay, 0.0, low_allowed=True)
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be at least 0 and below 1, not {momentum:g}")
    variant = VARIANTS[optimizer]
    setting = _Setting(
        optimizer=optimizer,
        adaptive=variant.family is not Family.SGD,
        decoupled=variant.decay is not Decay.GRADIENT,
        lr=lr,
        decay=weight_decay * lr if variant.decay is Decay.LIBRARY else weight_decay,
        constant=schedule == "constant",
        momentum=momentum,
        betas=betas,
        eps=eps,
    )
    if to in ("normalised", "tau"):
        steps = _steps_per_epoch(steps_per_epoch, batch, train_size)
        return _normalised(setting, steps, epochs) if to == "normalised" else _tau(setting, steps)
    if variant.family is None and (to != "paper" or variant.decay is Decay.LIBRARY):
        return Conversion(optimizer, to, "weight_decay", None, "", f"{NO_LIBRARY} ({variant.decay.value})")
    if to == "paper":
        line = f"{_in_the_paper(variant).name}: lr = {_number(lr)}, weight_decay = {_number(setting.decay)}"
        return Conversion(optimizer, to, "weight_decay", setting.decay, line)
    if to == "optax":
        return _optax(setting)
    if to == "keras":
        return _keras(setting)
    return _torch_like(setting, to)


def convert_cell(
    hyperparameters: Mapping[str, float], optimizer: str, to: str, schedule: str, **numbers: float
) -> Conversion:
    """`convert` for a cell's hyperparameters by name; those that its variant does not have count as the defaults."""
    return convert(
        hyperparameters["lr"],
        hyperparameters["weight_decay"],
        optimizer,
        to,
        schedule=schedule,
        momentum=hyperparameters.get("momentum", 0.9),
        betas=(hyperparameters.get("beta1", 0.9), hyperparameters.get("beta2", 0.999)),
        eps=hyperparameters.get("eps", 1e-8),
        **numbers,
    )


def _in_the_paper(variant: Variant) -> Variant:
    """The paper's own variant for one in the library form."""
    if variant.decay is not Decay.LIBRARY:
        return variant
    return next(v for v in VARIANTS.values() if (v.family, v.decay) == (variant.family, Decay.PAPER))


def _steps_per_epoch(steps_per_epoch: float | None, batch: float | None, train_size: float | None) -> float:
    if steps_per_epoch is not None:
        return _check("steps per epoch", steps_per_epoch, 0.0, low_allowed=False)
    if batch is None or train_size is None:
        raise ValueError("the steps per epoch are needed, or the batch size and the number of training examples")
    return _check("train size", train_size, 0.0, low_allowed=False) / _check("batch", batch, 0.0, low_allowed=False)


def _normalised(setting: _Setting, steps_per_epoch: float, epochs: float | None) -> Conversion:
    """λ_norm = λ / √(b / (B T)) = λ √(steps of the whole budget): the paper's appendix B.1."""
    if epochs is None:
        raise ValueError("normalised decay needs the epochs of the budget (of the current restart period)")
    value = setting.decay * math.sqrt(steps_per_epoch * _check("epochs", epochs, 0.0, low_allowed=False))
    return Conversion(
        setting.optimizer, "normalised", "weight_decay_norm", value, f"weight_decay_norm = {_number(value)}"
    )


def _tau(setting: _Setting, steps_per_epoch: float) -> Conversion:
    """τ, the epochs over which weights average their updates at η = 1 (arXiv 2405.13698): 1 / (decay per step)."""
    name, to = "tau_epochs", "tau"
    if setting.adaptive and not setting.decoupled:
        why = f"L2 under {VARIANTS[setting.optimizer].title} has no τ: its decay depends on each weight's gradients"
        return Conversion(setting.optimizer, to, name, None, "", why)
    per_step, warning = setting.decay, None
    if not setting.decoupled:
        per_step = setting.lr * setting.decay / (1 - setting.momentum)
        warning = "L2 passes through the momentum buffer: τ holds on average, over more steps than the buffer spans"
    if per_step == 0:
        return Conversion(setting.optimizer, to, name, math.inf, "no decay: weights average over all updates")
    value = 1 / per_step / steps_per_epoch
    return Conversion(setting.optimizer, to, name, value, f"tau = {_number(value)} epochs at eta = 1", warning)


def _written(arguments: Mapping[str, Any]) -> str:
    """Keyword arguments as code."""
    return ", ".join(f"{name}={_number(v) if isinstance(v, float) else v}" for name, v in arguments.items())


def _torch_like(setting: _Setting, to: str) -> Conversion:
    """torch, and the libraries built upon it: timm, Composer, pytorch_optimizer."""
    decay = setting.library_decay
    adam = {"betas": setting.betas, "eps": setting.eps}
    momentum = {"momentum": setting.momentum}
    outside = None if setting.constant or setting.momentum == 0 else OUTSIDE

    def answer(value: float | None, constructor: str, arguments: Mapping[str, Any], warning: str | None) -> Conversion:
        given = {"lr": setting.lr, **arguments}
        line = f"{constructor}(params, {_written(given)})"
        return Conversion(setting.optimizer, to, "weight_decay", value, line, warning, constructor, given)

    if not setting.decoupled:
        name, rest = ("Adam", {"weight_decay": decay, **adam})
        if not setting.adaptive:
            name, rest = "SGD", {**momentum, "weight_decay": decay}
        warning = None if setting.adaptive else outside
        value: float | None = setting.decay
        if to == "composer" and setting.decay > 0:
            why = "Composer's own optimizers decouple decay, and no decoupled decay equals L2"
            why += " under Adam" if setting.adaptive else " through a momentum buffer"
            why += "; use torch's, as Composer allows"
            value, warning = None, f"{why}; {warning}" if warning else why
        return answer(value, f"torch.optim.{name}", rest, warning)
    if to == "composer":
        name, rest = ("DecoupledAdamW", adam) if setting.adaptive else ("DecoupledSGDW", momentum)
        warning = None if setting.adaptive else outside
        return answer(setting.decay, f"composer.optim.{name}", {"weight_decay": setting.decay, **rest}, warning)
    if setting.adaptive:  # timm and pytorch_optimizer hand out torch's own AdamW
        return answer(decay, "torch.optim.AdamW", {"weight_decay": decay, **adam}, None)
    if to == "torch":
        why = (
            f"torch has no decoupled SGD: before each step, multiply the weights by 1 - lr * {_number(decay)} (lr is "
            "the learning rate of the step), or use timm's SGDW"
        )
        return answer(decay, "torch.optim.SGD", momentum, f"{why}; {outside}" if outside else why)
    module = "timm.optim" if to == "timm" else to
    return answer(decay, f"{module}.SGDW", {**momentum, "weight_decay": decay}, outside)


def _optax(setting: _Setting) -> Conversion:
    """Chains hold every variant; `eta` in a line is the schedule's multiplier, a function of the step."""
    lr, wd = _number(setting.lr), _number(setting.library_decay)
    rate = lr if setting.constant else f"lambda step: {lr} * eta(step)"
    b1, b2 = setting.betas
    if setting.adaptive:
        rest = f"b1={b1}, b2={b2}, eps={_number(setting.eps)}"
        line = f"optax.adamw({rate}, {rest}, weight_decay={wd})"
        if not setting.decoupled:
            line = f"optax.chain(optax.add_decayed_weights({wd}), optax.adam({rate}, {rest}))"
        return Conversion(setting.optimizer, "optax", "weight_decay", setting.library_decay, line)
    # trace after the rate is Algorithm 1's buffer; optax.sgd has the rate outside.
    buffer = f"optax.scale_by_learning_rate({rate}), optax.trace({_number(setting.momentum)})"
    if not setting.decoupled:
        line = f"optax.chain(optax.add_decayed_weights({wd}), {buffer})"
        return Conversion(setting.optimizer, "optax", "weight_decay", setting.decay, line)
    decay = f"-{_number(setting.decay)}" if setting.constant else f"lambda step: -{_number(setting.decay)} * eta(step)"
    line = f"optax.chain({buffer}, optax.add_decayed_weights({decay}))"
    return Conversion(setting.optimizer, "optax", "weight_decay", setting.decay, line)


def _keras(setting: _Setting) -> Conversion:
    """Keras 3: SGD has the rate inside the buffer, as Algorithm 1; decay is the library form; L2 is a regularizer."""
    lr = _number(setting.lr)
    b1, b2 = setting.betas
    rest = f"beta_1={b1}, beta_2={b2}, epsilon={_number(setting.eps)}"
    warning = EPS_HAT if setting.adaptive and setting.eps > 0 else None
    core = f"learning_rate={lr}, " + (rest if setting.adaptive else f"momentum={_number(setting.momentum)}")
    if setting.decoupled:
        name = "AdamW" if setting.adaptive else "SGD"
        line = f"keras.optimizers.{name}({core}, weight_decay={_number(setting.library_decay)})"
        return Conversion(setting.optimizer, "keras", "weight_decay", setting.library_decay, line, warning)
    name, factor = "Adam" if setting.adaptive else "SGD", setting.decay / 2
    line = (
        f"keras.optimizers.{name}({core})  # every layer: kernel_regularizer=keras.regularizers.L2({_number(factor)})"
    )
    return Conversion(setting.optimizer, "keras", "l2", factor, line, warning)
