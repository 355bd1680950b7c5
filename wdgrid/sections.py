"""The sections of a study file: every field, what it means and what it allows.

Knows each section by itself; what must hold between sections stands in `wdgrid.study`. Hyperparameters are named as
in the paper's Algorithms 1 and 2.
"""

import re
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from wdgrid.axes import parse_multiples
from wdgrid.dataset_args import BUILT_IN_DATASETS, FaultsError, Frozen

HyperparameterName = Literal["lr", "weight_decay", "eps", "beta1", "beta2", "momentum"]
OptimizerName = Literal["sgd", "sgdw", "adam", "adamw", "sgdw-torch", "adamw-torch", "kalman"]
DecayUnits = Literal["raw", "normalized"]

# What each optimizer needs beside lr and weight_decay, with the paper's default (Algorithms 1 and 2). The filter's are
# AdaBayes' (arXiv 1807.07540): a prior whose rate is 0.1 = lr/eps at lr = 0.001, and 100 observations a minibatch.
EXTRA_HYPERPARAMETERS: dict[str, dict[str, float]] = {
    "sgd": {"momentum": 0.9},
    "sgdw": {"momentum": 0.9},
    "sgdw-torch": {"momentum": 0.9},
    "adam": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    "adamw": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    "adamw-torch": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    "kalman": {"beta2": 0.999, "eps": 0.01},
}

Multiples = Annotated[
    tuple[Fraction, ...],
    BeforeValidator(parse_multiples),
    PlainSerializer(lambda values: [str(v) for v in values], return_type=list[str]),
]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction01 = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Constant(Frozen):
    """η_t = 1."""

    kind: Literal["constant"] = Field("constant", description="η_t = 1 throughout")


class Step(Frozen):
    """η_t drops by `factor` at each of `milestones`."""

    kind: Literal["step"] = Field("step", description="η_t drops at fixed shares of the budget")
    milestones: tuple[Fraction01, ...] = Field(
        (0.3, 0.6, 0.8), description="shares of the budget at which η_t drops", min_length=1
    )
    factor: Positive = Field(0.1, description="what η_t is multiplied by at each milestone")


class Cosine(Frozen):
    """η_t = 0.5 + 0.5 cos(π t/T)."""

    kind: Literal["cosine"] = Field("cosine", description="η_t = 0.5 + 0.5 cos(π t/T)")


class Restarts(Frozen):
    """Cosine within periods of `period`, `period · multiplier`, … epochs (AdamWR, SGDWR)."""

    kind: Literal["restarts"] = Field("restarts", description="cosine with warm restarts")
    period: Annotated[int, Field(ge=1)] = Field(100, description="epochs of the first period (T_0)")
    multiplier: Annotated[int, Field(ge=1)] = Field(2, description="growth of the period at each restart (T_mult)")


SCHEDULES: dict[str, type[Frozen]] = {
    "constant": Constant,
    "step": Step,
    "cosine": Cosine,
    "restarts": Restarts,
}


def _schedule_shorthand(given: object) -> object:
    return {"kind": given} if isinstance(given, str) else given


Schedule = Annotated[
    Constant | Step | Cosine | Restarts, Field(discriminator="kind"), BeforeValidator(_schedule_shorthand)
]


class MlpArgs(Frozen):
    """Arguments of the built-in model `mlp`."""

    hidden: tuple[Annotated[int, Field(ge=1, strict=True)], ...] = Field(
        (64, 64, 64), description="widths of the hidden layers"
    )
    batch_norm: Annotated[bool, Field(strict=True)] = Field(
        True, description="batch normalisation after each hidden layer"
    )


def _six_n_plus_two(depth: int) -> int:
    if depth % 6 != 2:
        raise ValueError("must be 6n + 2: 8, 14, 20, 26, …")
    return depth


Depth = Annotated[int, Field(ge=8, strict=True), AfterValidator(_six_n_plus_two)]


class ResnetArgs(Frozen):
    """Arguments of the built-in model `resnet`."""

    depth: Depth = Field(8, description="layers with weights on the longest path: 6n + 2, n blocks a stage")
    width: Annotated[int, Field(ge=1, strict=True)] = Field(
        16, description="channels of the first stage; the second has twice, the third four times as many"
    )


class ShakeShakeArgs(Frozen):
    """Arguments of the built-in model `shake-shake`."""

    depth: Depth = Field(26, description="layers with weights on the longest path: 6n + 2, n blocks a stage")
    width: Annotated[int, Field(ge=1, strict=True)] = Field(
        64, description="channels of the first stage; the second has twice, the third four times as many"
    )
    level: Literal["image", "batch"] = Field("image", description="what shares one pair of random numbers in a block")


class TfTutorialArgs(Frozen):
    """The built-in model `tf-tutorial` has no arguments: it is what the tutorial says."""


BUILT_IN_MODELS: dict[str, type[Frozen]] = {
    "mlp": MlpArgs,
    "resnet": ResnetArgs,
    "shake-shake": ShakeShakeArgs,
    "tf-tutorial": TfTutorialArgs,
}
_OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def _known_or_own(name: str, built_in: dict[str, type[Frozen]]) -> str:
    if name not in built_in and not _OWN.fullmatch(name):
        raise ValueError(f"must be {', '.join(sorted(built_in))}, or your own as package.module:function")
    return name


def _checked_args(args: dict[str, Any], name: str | None, built_in: dict[str, type[Frozen]]) -> dict[str, Any]:
    """Arguments of a built-in, checked and completed, so that the stored study says everything that was used."""
    if name not in built_in:
        return args
    try:
        return built_in[name].model_validate(args).model_dump(mode="json")
    except ValidationError as error:
        raise FaultsError(
            [(".".join(map(str, e["loc"])), e["input"], _allowed(e, built_in[name])) for e in error.errors()]
        ) from None


def _allowed(error: Any, model: type[BaseModel]) -> str:
    if error["type"] == "missing":
        return f"needs {error['loc'][0]}: {model.model_fields[error['loc'][0]].description}"
    if error["type"] == "extra_forbidden":
        return f"unknown; allowed: {', '.join(model.model_fields) or 'none'}"
    return error["msg"].removeprefix("Value error, ")


class Task(Frozen):
    """What is trained, on what, for how long, and where."""

    dataset: str = Field(
        "digits",
        description='"digits", "cifar10", "cifar100", "imagenet32", "folder", or your own as "package.module:function"',
    )
    dataset_args: dict[str, Any] = Field({}, validate_default=True, description="arguments of the dataset")
    model: str = Field(
        "mlp",
        description='"mlp", "resnet", "shake-shake", "tf-tutorial", or your own nn.Module factory as '
        '"package.module:function"',
    )
    model_args: dict[str, Any] = Field({}, validate_default=True, description="arguments of the model")
    batch_size: Annotated[int, Field(ge=1, strict=True)] = Field(128, description="images a minibatch")
    epochs: Annotated[int, Field(ge=1, strict=True)] = Field(100, description="budget in epochs (T)")
    train_size: Annotated[int, Field(ge=1, strict=True)] | None = Field(
        None, description="training images used; all if not given"
    )
    test_size: Annotated[int, Field(ge=1, strict=True)] | None = Field(
        None, description="test images used; all if not given"
    )
    validation_size: Annotated[int, Field(ge=0, strict=True)] = Field(
        0,
        description="images taken off the end of the training images, never trained on: cells are compared and picked "
        "by their error on these and reported on test; 0: picked on test itself, so the best test error is optimistic",
    )
    decay_multipliers: dict[str, NotNegative] = Field(
        {},
        description="what weight decay is multiplied by, for parameters whose name matches a pattern: *.bias = 0; "
        "@norm stands for normalization layers, @bias for all biases; of several the last one counts; not matched: 1",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where to train; auto takes a GPU if there is one"
    )
    precision: Literal["float32", "float64", "bfloat16", "tf32"] = Field(
        "float32",
        description="number format of weights and data; bfloat16: products and activations in bfloat16, weights and "
        "updates in float32; tf32: float32 with NVIDIA's shorter products (CUDA only)",
    )

    @field_validator("dataset")
    @classmethod
    def _dataset_exists(cls, name: str) -> str:
        return _known_or_own(name, BUILT_IN_DATASETS)

    @field_validator("model")
    @classmethod
    def _model_exists(cls, name: str) -> str:
        return _known_or_own(name, BUILT_IN_MODELS)

    @field_validator("decay_multipliers")
    @classmethod
    def _patterns_are_known(cls, multipliers: dict[str, float]) -> dict[str, float]:
        if unknown := [p for p in multipliers if p.startswith("@") and p not in ("@norm", "@bias")]:
            raise FaultsError([(p, multipliers[p], "of the names with @ there are @norm and @bias") for p in unknown])
        return multipliers

    @field_validator("dataset_args")
    @classmethod
    def _dataset_args_fit(cls, args: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return _checked_args(args, info.data.get("dataset"), BUILT_IN_DATASETS)

    @field_validator("model_args")
    @classmethod
    def _model_args_fit(cls, args: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return _checked_args(args, info.data.get("model"), BUILT_IN_MODELS)


class Axis(Frozen):
    """One axis of the grid: multiples of a unit."""

    values: Multiples = Field(description='list, or string with ranges over powers of two: "0, 1/32..16"')
    unit: Positive = Field(1.0, description="what the multiples are multiplied by")


class Panel(Frozen):
    """One heatmap: optimizer variant × schedule × budget."""

    name: Annotated[str, Field(pattern=r"^[\w.+-]+$")] | None = Field(
        None, description="name of the panel; made from optimizer, schedule and epochs if not given"
    )
    optimizer: OptimizerName = Field(description="variant of the update rule and of its decay")
    schedule: Schedule = Field(
        Cosine(kind="cosine"), description='"constant", "step", "cosine", "restarts" or a table with details'
    )
    epochs: Annotated[int, Field(ge=1, strict=True)] | None = Field(
        None, description="budget of this panel; the task's if not given"
    )
    lr_unit: Positive | None = Field(None, description="unit of the lr axis in this panel; the axis' if not given")
    weight_decay_unit: Positive | None = Field(
        None, description="unit of the weight decay axis in this panel; the axis' if not given"
    )
    decay: DecayUnits | None = Field(None, description="raw or normalized weight decay; the study's if not given")
    lr: Positive | None = Field(None, description="fixed learning rate, where lr is no axis")
    weight_decay: NotNegative | None = Field(None, description="fixed weight decay, where it is no axis")
    momentum: Fraction01 | None = Field(None, description="fixed momentum of SGD (default 0.9)")
    beta1: Fraction01 | None = Field(None, description="fixed β1 of Adam (default 0.9)")
    beta2: Fraction01 | None = Field(None, description="fixed β2 of Adam and of the filter (default 0.999)")
    eps: NotNegative | None = Field(
        None,
        description="fixed ε of Adam (default 1e-8) and of the filter (default 0.01; weights with gradients below it "
        "move as under SGD of rate lr/ε)",
    )


class Report(Frozen):
    """How the results are drawn; changing it never retrains anything."""

    error_range: tuple[NotNegative, NotNegative] | None = Field(
        None, description="colour limits in percent; from the data if not given"
    )
    top_k: Annotated[int, Field(ge=0, strict=True)] = Field(10, description="how many best cells are circled a panel")

    @model_validator(mode="after")
    def _range_is_a_range(self) -> Self:
        if self.error_range and self.error_range[0] >= self.error_range[1]:
            raise ValueError("error_range must be [low, high] with low < high")
        return self
