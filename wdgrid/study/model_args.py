"""Defines the arguments of the built-in networks, which are in `wdgrid.models`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from wdgrid.study.dataset_args import Frozen


class MlpArgs(Frozen):
    """Linear layers and ReLUs on flattened images."""

    hidden: tuple[Annotated[int, Field(ge=1, le=1_000_000, strict=True)], ...] = Field(
        (64, 64, 64), description="widths of the hidden layers", max_length=1000
    )
    batch_norm: Annotated[bool, Field(strict=True)] = Field(
        True, description="batch normalisation after each hidden layer"
    )


def _six_n_plus_two(depth: int) -> int:
    if depth % 6 != 2:
        raise ValueError("must be 6n + 2: 8, 14, 20, 26, …")
    return depth


Depth = Annotated[
    int,
    Field(ge=8, le=10_000, strict=True, json_schema_extra={"allowed": "8, 14, 20, 26, … (6n + 2) ≤ 10000"}),
    AfterValidator(_six_n_plus_two),
]


class ResnetArgs(Frozen):
    """A residual network for small images (He et al., 2016)."""

    depth: Depth = Field(
        8, description="layers with weights on the longest path: 6n + 2 for n blocks in each of three stages"
    )
    width: Annotated[int, Field(ge=1, le=100_000, strict=True)] = Field(
        16, description="channels of the first stage; the second has twice and the third four times as many"
    )


class ShakeShakeArgs(Frozen):
    """A Shake-Shake network (Gastaldi, 2017); 26 2x64d by default."""

    depth: Depth = Field(
        26, description="layers with weights on the longest path: 6n + 2 for n blocks in each of three stages"
    )
    width: Annotated[int, Field(ge=1, le=100_000, strict=True)] = Field(
        64, description="channels of the first stage; the second has twice and the third four times as many"
    )
    level: Literal["image", "batch"] = Field(
        "image",
        description="whether the random weights of a block's two branches are drawn for each image or for each batch",
    )


class TfTutorialArgs(Frozen):
    """The network of TensorFlow's CIFAR-10 tutorial; it has no arguments."""


BUILT_IN_MODELS: dict[str, type[Frozen]] = {
    "mlp": MlpArgs,
    "resnet": ResnetArgs,
    "shake-shake": ShakeShakeArgs,
    "tf-tutorial": TfTutorialArgs,
}
