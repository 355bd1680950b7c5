"""Draws the four maps of reading-the-map.md from made-up tables, and prints what wdgrid says of them.

python docs/reading_the_map.py
"""

from pathlib import Path

import numpy as np
import pandas as pd

from wdgrid.report import analyse_table, fitted
from wdgrid.report.figures import heatmaps
from wdgrid.study import Study

CIRCLES = {"report": {"top_k": 5}}
ENVIRONMENT = {"classes": 10, "test_images": 2000}


def study(title: str, optimizer: str, rates: str, decays: str, seeds: int) -> Study:
    """A study of one panel."""
    axes = {"lr": {"values": rates}, "weight_decay": {"values": decays, "unit": 0.001}}
    panels = [{"optimizer": optimizer, "lr_unit": 0.1}]
    return Study.model_validate(
        {"title": title, "task": {}, "seeds": [*range(seeds)], "axes": axes, "panels": panels} | CIRCLES
    )


def table(study: Study, slope: float, centre: tuple[float, float], cliff: float, noise: float) -> pd.DataFrame:
    """Errors around a valley with this slope; `centre` in octaves of both multiples.

    A cell diverges where the octaves of rate and decay, with noise, add up to more than `cliff`.
    """
    draw, (cells,) = np.random.default_rng(1), study.cells().values()
    rows = []
    for number, cell in enumerate(cells):
        lr, decay = cell.hyperparameters["lr"], cell.hyperparameters["weight_decay"]
        x, y = np.log2(lr / 0.1) - centre[0], np.log2(decay / 0.001) - centre[1]
        error = 4.0 + 0.12 * x**2 + 0.15 * (y - slope * x) ** 2 + noise * draw.normal()
        diverged = x + y + draw.normal() > cliff
        own = {"seed": cell.seed, "row": cell.multiples[0], "col": cell.multiples[1], "number": number}
        own |= {"lr": lr, "weight_decay": decay, "test_error": np.inf if diverged else error}
        own |= {"diverged_at": 40 if diverged else None, "divergence": "non-finite" if diverged else None}
        rows.append(own)
    (panel,) = study.panel_names()
    frame = pd.DataFrame(rows).assign(panel=panel, state="complete", divergence_step=None)
    return frame.assign(
        **dict.fromkeys(("validation_error", "test_loss", "train_loss", "weight_norm", "seconds"), np.nan)
    )


WIDE = ("1..1/256", "1/32..16")
STUDIES = {
    "separable": (study("Separable", "adamw", *WIDE, 2), (0.0, (-4.0, -0.5), 12.0, 0.15)),
    "coupled": (study("Coupled", "sgd", *WIDE, 2), (-1.0, (-4.0, -0.5), 12.0, 0.15)),
    "unstable": (study("Unstable", "adam", *WIDE, 2), (-0.5, (-4.0, -0.5), 1.0, 0.15)),
    "too-small": (study("Too small", "adamw", "1..1/8", "1/2..4", 1), (0.0, (-4.0, -0.5), 12.0, 0.3)),
}


def sentences() -> dict[str, list[str]]:
    """What wdgrid says of each map: the verdict, then what to add."""
    found = {}
    for name, (one, surface) in STUDIES.items():
        (numbers,) = analyse_table(one, table(one, *surface), {"environment": ENVIRONMENT}).values()
        advice = [numbers.advice.text] if numbers.advice else []
        found[name] = [numbers.sentence, *(alarm.text for alarm in numbers.alarms), *advice]
    return found


def draw(folder: Path) -> None:
    """Writes reading-the-map-NAME.png for each map."""
    for name, (one, surface) in STUDIES.items():
        made = table(one, *surface)
        numbers = analyse_table(one, made, {"environment": ENVIRONMENT})
        figure = heatmaps(one, "made-up numbers", made, **fitted(numbers))
        caption = next(text for text in figure.texts if text.get_label() == "caption")
        caption.set_text("Made-up numbers: no network was trained.")
        figure.savefig(folder / f"reading-the-map-{name}.png", dpi=75, metadata={"Software": None})


if __name__ == "__main__":
    draw(Path(__file__).parent)
    for name, lines in sentences().items():
        print(f"{name}:", *lines, sep="\n  ")
