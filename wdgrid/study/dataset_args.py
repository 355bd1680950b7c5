"""Arguments of the built-in datasets (loaded in `wdgrid.data`), and the base of every section of a study file."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class FaultsError(ValueError):
    """Several faults at once, each as (path of the field, value, what is allowed)."""

    def __init__(self, faults: list[tuple[str, object, str]]) -> None:
        super().__init__("; ".join(f"{path}: {why}" for path, _, why in faults))
        self.faults = faults


class Frozen(BaseModel):
    """Base of every section: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


PLACES = "if relative, looked for in the working directory, in $WDGRID_DATA and in ~/.cache/wdgrid"
Root = Annotated[str, Field(min_length=1)]


class DigitsArgs(Frozen):
    """scikit-learn's handwritten digits: 900 images of 8 × 8 pixels to train on, 897 to test on."""

    shift: Annotated[int, Field(ge=0, le=4, strict=True)] = Field(
        1, description="training images are shifted by up to this many pixels each way"
    )


class ImageArgs(Frozen):
    """Arguments of every built-in dataset of photographs."""

    flip: Annotated[bool, Field(strict=True)] = Field(True, description="training images are mirrored at random")
    crop: Annotated[int, Field(ge=0, strict=True)] = Field(
        4, description="pixels added on each side of training images before a random window is cut out; 0: none"
    )
    crop_size: Annotated[int, Field(ge=1, strict=True)] | None = Field(
        None,
        description="side in pixels of that window, and of the central one in a test; the image's own if not given",
    )


class FolderArgs(ImageArgs):
    """Any folder of images, a folder a class."""

    root: Root = Field(description=f"folder with train/<class>/* and test/<class>/*; {PLACES}")
    size: Annotated[int, Field(ge=1, strict=True)] | None = Field(
        None, description="side in pixels to which images are resized; as they are if not given"
    )


class CifarArgs(ImageArgs):
    """CIFAR-10 and CIFAR-100: 50 000 images of 32 × 32 pixels to train on, 10 000 to test on."""

    root: Root = Field(".", description=f"folder with the published Python files, or their archive; {PLACES}")
    download: Annotated[bool, Field(strict=True)] = Field(
        True, description="the archive is downloaded where nothing is found"
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
# Where published data lies does not decide the numbers; which folder of images is meant does.
WHERE = {"cifar10": {"root", "download"}, "cifar100": {"root", "download"}, "imagenet32": {"root"}}
