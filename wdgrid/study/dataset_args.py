"""Defines the arguments of the built-in datasets (loaded in `wdgrid.data`), and the base class of all sections."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class FaultsError(ValueError):
    """Several faults at once, each as (path of the field, value, what is allowed)."""

    def __init__(self, faults: list[tuple[str, object, str]]) -> None:
        super().__init__("; ".join(f"{path}: {why}" for path, _, why in faults))
        self.faults = faults


def did_you_mean(word: str, among: Iterable[str]) -> str:
    """`; did you mean width?`, or nothing if no name is similar."""
    near = get_close_matches(word, list(among), n=1)
    return f"; did you mean {near[0]}?" if near else ""


class Frozen(BaseModel):
    """Base of every section: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


PLACES = "a relative path is searched in the working directory, in $WDGRID_DATA and in ~/.cache/wdgrid"
Root = Annotated[str, Field(min_length=1)]


class DigitsArgs(Frozen):
    """scikit-learn's handwritten digits, 8 × 8 pixels: 900 images for training, 897 for testing."""

    shift: Annotated[int, Field(ge=0, le=4, strict=True)] = Field(
        1, description="training images are shifted at random by up to this many pixels in each direction"
    )


class ImageArgs(Frozen):
    """Arguments of every built-in dataset of photographs."""

    flip: Annotated[bool, Field(strict=True)] = Field(
        True, description="training images are flipped horizontally at random"
    )
    crop: Annotated[int, Field(ge=0, le=10_000, strict=True)] = Field(
        4, description="padding in pixels on each side of training images before a random crop; 0: none"
    )
    crop_size: Annotated[int, Field(ge=1, le=10_000, strict=True)] | None = Field(
        None,
        description="side in pixels of that crop, and of the central crop in tests; if not given, that of the images",
    )


class FolderArgs(ImageArgs):
    """Any folder of images, with one subfolder for each class."""

    root: Root = Field(description=f"folder with train/<class>/* and test/<class>/*; {PLACES}")
    size: Annotated[int, Field(ge=1, le=10_000, strict=True)] | None = Field(
        None, description="side in pixels to which images are resized; if not given, they are not resized"
    )


class CifarArgs(ImageArgs):
    """CIFAR-10 and CIFAR-100, 32 × 32 pixels: 50 000 images for training, 10 000 for testing."""

    root: Root = Field(".", description=f"folder with the published Python files or their archive; {PLACES}")
    download: Annotated[bool, Field(strict=True)] = Field(
        True, description="whether to download the archive if nothing is found"
    )


class Imagenet32Args(ImageArgs):
    """Downsampled ImageNet at 32 × 32 pixels."""

    root: Root = Field(".", description=f"folder with train_data_batch_1 to 10 and val_data; {PLACES}")


BUILT_IN_DATASETS: dict[str, type[Frozen]] = {
    "digits": DigitsArgs,
    "cifar10": CifarArgs,
    "cifar100": CifarArgs,
    "imagenet32": Imagenet32Args,
    "folder": FolderArgs,
}
# Arguments that only locate published data. They do not affect the results, unlike the folder of `folder`.
WHERE = {"cifar10": {"root", "download"}, "cifar100": {"root", "download"}, "imagenet32": {"root"}}
