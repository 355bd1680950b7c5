"""Defines the sections of a study file: every field, its meaning and what it allows.

Rules between sections are in `wdgrid.study.model`. Hyperparameters are named as in the paper's Algorithms 1 and 2.
"""

import json
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

from wdgrid.optim.variants import VARIANTS, Decay, names
from wdgrid.study.axes import parse_multiples
from wdgrid.study.dataset_args import BUILT_IN_DATASETS, FaultsError, Frozen, did_you_mean
from wdgrid.study.model_args import BUILT_IN_MODELS

HyperparameterName = Literal["lr", "weight_decay", "eps", "beta1", "beta2", "momentum"]
DecayUnits = Literal["raw", "normalized"]


def _is_a_variant(name: str) -> str:
    if name not in VARIANTS:
        raise ValueError(f"must be one of {', '.join(VARIANTS)}")
    return name


OptimizerName = Annotated[str, AfterValidator(_is_a_variant), Field(json_schema_extra={"enum": list(VARIANTS)})]

MAX_EPOCHS = 1_000_000
MAX_IMAGES = 2**31 - 1
MAX_PANELS = 1000
MAX_NAME_BYTES = 200  # of a study or a panel: both become parts of file names, which have at most 255

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

    kind: Literal["constant"] = Field("constant", description="a constant learning rate")


class Step(Frozen):
    """η_t = factor^n after n of the milestones."""

    kind: Literal["step"] = Field("step", description="η_t drops at fixed fractions of the budget")
    milestones: tuple[Fraction01, ...] = Field(
        (0.3, 0.6, 0.8),
        description="fractions of the budget (of all steps) at which η_t drops",
        min_length=1,
        max_length=100,
    )
    factor: Positive = Field(0.1, description="factor by which η_t is multiplied at each milestone")


class Cosine(Frozen):
    """η_t = 0.5 + 0.5 cos(π t/T), T the budget."""

    kind: Literal["cosine"] = Field("cosine", description="half a period of a cosine over the budget")


class Restarts(Frozen):
    """Cosine in periods of T_0, T_0 T_mult, T_0 T_mult², … epochs (AdamWR, SGDWR); the budget may end the last."""

    kind: Literal["restarts"] = Field("restarts", description="cosine with warm restarts")
    period: Annotated[int, Field(ge=1, le=MAX_EPOCHS)] = Field(100, description="epochs of the first period (T_0)")
    multiplier: Annotated[int, Field(ge=1, le=MAX_EPOCHS)] = Field(
        2, description="growth factor of the period (T_mult)"
    )


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


_OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def _names(built_in: dict[str, type[Frozen]]) -> str:
    return f'{", ".join(map(json.dumps, built_in))}, or your own as "package.module:function"'


def _known_or_own(name: str, built_in: dict[str, type[Frozen]]) -> str:
    if name not in built_in and not _OWN.fullmatch(name):
        raise ValueError(f"must be {', '.join(sorted(built_in))}, or your own as package.module:function")
    return name


def _checked_args(args: dict[str, Any], name: str | None, built_in: dict[str, type[Frozen]]) -> dict[str, Any]:
    """Arguments of a built-in dataset or network, validated, with defaults, so that the stored study is complete."""
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
        return f"{error['loc'][0]} is required: {model.model_fields[error['loc'][0]].description}"
    if error["type"] == "extra_forbidden":
        near = did_you_mean(str(error["loc"][-1]), model.model_fields)
        return f"unknown{near or '; allowed: ' + (', '.join(model.model_fields) or 'none')}"
    return error["msg"].removeprefix("Value error, ")


def _key_or_position(given: object) -> object:
    position = isinstance(given, int) and not isinstance(given, bool) and given >= 0
    if not position and not (isinstance(given, str) and given):
        raise ValueError("must be a key (text) or a position (a whole number from 0)")
    return given


class Task(Frozen):
    """What is trained, on what, for how long, and where."""

    dataset: str = Field(
        "digits",
        description="images and their classes; your own is a function that returns the tensors train_x, train_y, "
        "test_x, test_y, or (train, test) as torch Datasets or pairs of x and y: floating point numbers, integers "
        "(tokens), or uint8 images [N, C, H, W], which wdgrid normalises; classes from 0",
        json_schema_extra={"allowed": _names(BUILT_IN_DATASETS)},
    )
    dataset_args: dict[str, Any] = Field(
        {}, validate_default=True, description="arguments of the dataset; your own function gets them as keywords"
    )
    model: str = Field(
        "mlp",
        description="the network; your own is a function that returns an nn.Module",
        json_schema_extra={"allowed": _names(BUILT_IN_MODELS)},
    )
    model_args: dict[str, Any] = Field(
        {}, validate_default=True, description="arguments of the network; your own function gets them as keywords"
    )
    output: Annotated[str | int, BeforeValidator(_key_or_position)] | None = Field(
        None,
        description="where the logits are in what your own network returns, if that is a dict or a tuple: the key, or "
        "the position from 0; if not given, the network returns the logits themselves",
        json_schema_extra={"allowed": "text or whole number ≥ 0"},
    )
    batch_size: Annotated[int, Field(ge=1, le=MAX_IMAGES, strict=True)] = Field(
        128, description="images in a minibatch (b)"
    )
    epochs: Annotated[int, Field(ge=1, le=MAX_EPOCHS, strict=True)] = Field(100, description="budget in epochs (T)")
    train_size: Annotated[int, Field(ge=1, le=MAX_IMAGES, strict=True)] | None = Field(
        None, description="training images used (B), the first ones; if not given, all but the validation images"
    )
    test_size: Annotated[int, Field(ge=1, le=MAX_IMAGES, strict=True)] | None = Field(
        None, description="test images used, the first ones; if not given, all"
    )
    validation_size: Annotated[int, Field(ge=0, le=MAX_IMAGES, strict=True)] = Field(
        0,
        description="validation images, the last of the training images: cells are compared and picked by their "
        "validation error, and their test error is reported; 0: cells are picked by their test error, so the best test "
        "error is optimistic",
    )
    decay_multipliers: dict[str, NotNegative] = Field(
        {},
        description='factors of weight decay for parameters whose names match a pattern, such as "*.bias" = 0; '
        '"@norm" means all normalization layers, "@bias" all biases; the last pattern that matches counts; none: 1',
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to train; auto: on a GPU if there is one")
    precision: Literal["float32", "float64", "bfloat16", "tf32"] = Field(
        "float32",
        description="number format of weights and data; bfloat16: products and activations in bfloat16, weights and "
        "updates in float32; tf32: float32, with products in NVIDIA's TF32 (CUDA only)",
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
            raise FaultsError([(p, multipliers[p], "the names with @ are @norm and @bias") for p in unknown])
        return multipliers

    @field_validator("dataset_args")
    @classmethod
    def _dataset_args_fit(cls, args: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return _checked_args(args, info.data.get("dataset"), BUILT_IN_DATASETS)

    @field_validator("model_args")
    @classmethod
    def _model_args_fit(cls, args: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return _checked_args(args, info.data.get("model"), BUILT_IN_MODELS)


def _short(name: str) -> str:
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"must have at most {MAX_NAME_BYTES} bytes")
    return name


class Axis(Frozen):
    """One axis of the grid: multiples of a unit."""

    values: Multiples = Field(
        description="multiples of the unit; lr must be above 0; momentum, beta1 and beta2, times the unit, below 1",
        json_schema_extra={
            "allowed": 'list of numbers ≥ 0 or fractions such as "1/32", all different; or text, with ranges of powers '
            'of two: "0, 1/32..16"'
        },
    )
    unit: Positive = Field(
        1.0, description="what the multiples are multiplied by; for lr and weight_decay a panel may have its own unit"
    )


class Panel(Frozen):
    """One heatmap: optimizer variant × schedule × budget."""

    name: Annotated[str, Field(pattern=r"^[\w.+-]+$"), AfterValidator(_short)] | None = Field(
        None,
        description="name of the panel, no two equal; if not given, made from optimizer, schedule and epochs",
        json_schema_extra={"allowed": "text: letters, digits, . _ + -"},
    )
    optimizer: OptimizerName = Field(
        description=f"{names(Decay.GRADIENT)}: L2, λ θ is added to the gradient; {names(Decay.PAPER)}: decoupled as in "
        f"the paper, η_t λ θ is subtracted; {names(Decay.LIBRARY)}: as in the libraries, η_t lr λ θ is subtracted; "
        "kalman: the filter of the paper's section 3"
    )
    schedule: Schedule = Field(
        Cosine(kind="cosine"),
        description="η_t, the factor of learning rate and decoupled decay at each step",
        json_schema_extra={"allowed": f"{', '.join(map(json.dumps, SCHEDULES))}, or a table with kind and its fields"},
    )
    epochs: Annotated[int, Field(ge=1, le=MAX_EPOCHS, strict=True)] | None = Field(
        None, description="budget of this panel in epochs; if not given, the task's"
    )
    lr_unit: Positive | None = Field(None, description="unit of the lr axis in this panel; if not given, the axis'")
    weight_decay_unit: Positive | None = Field(
        None, description="unit of the weight_decay axis in this panel; if not given, the axis'"
    )
    decay: DecayUnits | None = Field(
        None, description="meaning of weight decay in this panel, as at the top level; if not given, the study's"
    )
    lr: Positive | None = Field(None, description="fixed learning rate α; required if lr is not an axis")
    weight_decay: NotNegative | None = Field(
        None, description="fixed weight decay, λ or λ_norm; required if weight_decay is not an axis"
    )
    momentum: Fraction01 | None = Field(
        None, description="fixed momentum of SGD; if not given, the optimizer's default"
    )
    beta1: Fraction01 | None = Field(None, description="fixed β1 of Adam; if not given, the optimizer's default")
    beta2: Fraction01 | None = Field(
        None, description="fixed β2 of Adam and of the filter; if not given, the optimizer's default"
    )
    eps: NotNegative | None = Field(
        None,
        description="fixed ε of Adam and of the filter; if not given, the optimizer's default; the filter's must be "
        "above 0, and weights with gradients below it are updated as by SGD with learning rate lr/ε",
    )


class Report(Frozen):
    """How the results are drawn; a change never retrains anything."""

    error_range: tuple[NotNegative, NotNegative] | None = Field(
        None, description="lowest and highest error of the colour scale, in percent; if not given, from the results"
    )
    top_k: Annotated[int, Field(ge=0, strict=True)] = Field(
        10, description="how many best cells are circled in a panel"
    )

    @model_validator(mode="after")
    def _range_is_a_range(self) -> Self:
        if self.error_range and self.error_range[0] >= self.error_range[1]:
            raise ValueError("error_range must be [low, high] with low < high")
        return self
