"""The study files that ship with wdgrid: finding one by name, and what each costs to train.

They lie in studies/ in a checkout and in wdgrid/studies in a wheel. Costs are floating point operations by formula;
`wdgrid plan` measures the time on this machine.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from wdgrid.errors import StudyFileError
from wdgrid.study.model import Study
from wdgrid.study.sections import Task

PACKAGE = Path(__file__).parents[1]
IMAGES = {"digits": (900, 897), "cifar10": (50_000, 10_000)}  # for training, for testing
SIDES = {"digits": 8, "cifar10": 32}
# Floating point operations an image, in training and in a test: matrix products and convolutions only, multiply and
# add count as two. Counted by torch on the networks themselves, and again by a test.
FLOPS = {
    "mlp hidden=[64, 64, 64] batch_norm=True 8×8": (69_376, 25_856),
    "mlp hidden=[64, 64, 64] batch_norm=False 8×8": (69_376, 25_856),
    "mlp hidden=[64, 64] batch_norm=True 8×8": (44_800, 17_664),
    "resnet depth=8 width=8 32×32": (18_974_592, 6_472_320),
    "resnet depth=8 width=8 16×16": (4_745_088, 1_618_560),
    "resnet depth=14 width=16 32×32": (159_059_712, 53_314_816),
    "shake-shake depth=26 width=64 level=image 32×32": (10_112_154_624, 3_371_013_120),
    "shake-shake depth=26 width=96 level=image 32×32": (22_660_471_296, 7_553_785_344),
    "tf-tutorial 24×24": (105_295_104, 36_941_568),
    "tf-tutorial 8×8": (11_283_712, 3_829_504),
}


def folder() -> Path:
    """Where the shipped study files lie."""
    inside = PACKAGE / "studies"
    return inside if inside.is_dir() else PACKAGE.parent / "studies"


def names() -> list[str]:
    """Names of the shipped studies, in order of the alphabet."""
    return sorted(path.stem for path in folder().glob("*.toml"))


def study_path(word: str) -> Path:
    """The study file that a user's word stands for: an existing file, else studies/WORD.toml here, else a shipped one.

    Raises StudyFileError (one line, naming the shipped studies with a name like it) if there is none.
    """
    if Path(word).is_file():
        return Path(word)
    if Path(word).name == word:
        for path in (Path("studies", f"{word}.toml"), folder() / f"{word}.toml"):
            if path.is_file():
                return path
    near = get_close_matches(Path(word).name.removesuffix(".toml"), names(), n=3, cutoff=0.65)
    ask = f"did you mean {', '.join(near)}?" if near else "wdgrid studies lists them"
    raise StudyFileError([f"{word}: no such file, and no study of that name ships with wdgrid; {ask}"])


@dataclass(frozen=True)
class Cost:
    """What a study costs to train: `cells` over all panels and seeds, each of one of the budgets `epochs`.

    `images` are those that a cell is trained on in an epoch; `pflop` is 10¹⁵ floating point operations of the model
    (see FLOPS), tests after every epoch included.
    """

    cells: int
    epochs: list[int]
    images: int
    pflop: float


def cost(study: Study) -> Cost:
    """The cost of a shipped study, by formula. Raises KeyError for a network or a dataset that none of them uses."""
    task = study.task
    train, test = FLOPS[network_name(task)]
    images = task.train_size or IMAGES[task.dataset][0] - task.validation_size
    batch = min(task.batch_size, images)
    epoch = train * (images // batch) * batch + test * (task.test_size or IMAGES[task.dataset][1])
    panels = study.panel_names()
    counts = [(len(cells), study.panel_epochs(panels[name])) for name, cells in study.cells().items()]
    return Cost(
        cells=sum(cells for cells, _ in counts),
        epochs=sorted({epochs for _, epochs in counts}),
        images=images,
        pflop=sum(cells * epochs for cells, epochs in counts) * epoch / 1e15,
    )


def network_name(task: Task) -> str:
    """A task's network on its images, as FLOPS names it."""
    side = task.dataset_args.get("crop_size") or task.dataset_args.get("size") or SIDES[task.dataset]
    return " ".join([task.model, *(f"{k}={v}" for k, v in task.model_args.items()), f"{side}×{side}"])
