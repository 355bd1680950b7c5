"""Makes error surfaces of known slope, with noise as measured on the gallery's studies, for the calibration.

Every surface is E(x, y) = 2 + f(x) + g(y − offset − s x) in percent unless its name says otherwise, x and y in octaves
from the middle of the grid. f is 0.05 x². Errors above 90 % are 90 %; infinity is divergence.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "symmetric": lambda u: 0.15 * u**2,
    "broad": lambda u: 0.04 * u**2,
    "wall at large decay": lambda u: np.where(u > 0, 0.8, 0.08) * u**2,
    "wall at small decay": lambda u: np.where(u < 0, 0.8, 0.08) * u**2,
    "flat at small decay": lambda u: np.where(u > 0, 0.3 * u**2, 1.2 * (1 - np.exp(-(u**2) / 8))),
    "flat at large decay": lambda u: np.where(u < 0, 0.3 * u**2, 1.2 * (1 - np.exp(-(u**2) / 8))),
    "V": lambda u: 0.5 * np.abs(u),
    "plateau": lambda u: 0.4 * np.maximum(np.abs(u) - 1.5, 0) ** 1.5,
    "cliff into divergence": lambda u: np.where(u > 1.6, np.inf, 0.12 * u**2),
    "saturating": lambda u: 2.5 * (1 - np.exp(-(u**2) / 6)),
    "two basins": lambda u: np.minimum(0.15 * u**2, 0.15 * (u - 6) ** 2 + 0.8),
}
OTHERS = (
    "large decay kills slow rates",
    "scaled by rate",
    "steep in the rate",
    "bent by 1.5",
    "bent by 2.5",
    "no valley",
)
FAMILIES = (*SHAPES, *OTHERS)
STRAIGHT = tuple(name for name in FAMILIES if not name.startswith(("bent", "no ")))
GRIDS = ((11, 10, 1), (8, 8, 1), (6, 6, 2), (5, 5, 2), (21, 20, 1))  # rows, columns, octaves a step
SHARES = (0.55, 0.15, 0.15, 0.1, 0.05)
SLOPES = (-1.5, -1.0, -0.75, -0.5, -0.25, 0.0, 0.0, 0.25, 0.5, 1.0)
IMAGES = 897


@dataclass(frozen=True, eq=False)
class Case:
    """A noise-free surface [R, C] over octaves x [R] and y [C], and errors [R, C, S] as a study would measure them."""

    slope: float
    offset: float
    x: np.ndarray
    y: np.ndarray
    truth: np.ndarray
    errors: np.ndarray

    @property
    def crossed(self) -> int:
        """Rows in which the valley lies on the grid."""
        line = self.offset + self.slope * self.x
        return int(((line >= self.y.min()) & (line <= self.y.max())).sum())


def surface(family: str, slope: float, offset: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Noise-free errors [R, C] in percent."""
    rate = x[:, None]
    u = y[None] - offset - slope * rate
    f = 0.05 * rate**2
    if family in SHAPES:
        g = SHAPES[family](u)
    elif family == "large decay kills slow rates":
        g = 0.12 * u**2 + 0.3 * np.maximum(u - 1.5, 0) * np.maximum(-rate, 0)
    elif family == "scaled by rate":
        g = 0.12 * u**2 * np.exp(0.15 * rate)
    elif family == "steep in the rate":
        g, f = 0.12 * u**2, np.where(rate > 0, 0.25, 0.04) * rate**2
    elif family.startswith("bent by"):
        change = float(family.split()[-1])
        g = 0.15 * (u - change / (2 * np.ptp(x)) * (rate**2 - np.mean(x**2))) ** 2
    else:
        g, f = 0 * u, 0.1 * rate**2
    return np.where(np.isinf(g), np.inf, np.minimum(2 + f + g, 90.0))


def measured(truth: np.ndarray, seeds: int, rng: np.random.Generator, spread: float = 0.4) -> np.ndarray:
    """Errors [R, C, S]: a spread between seeds of 0.4 points at 2 %, as in the digits study, growing as √error.

    Above 5 % the spread is 35 % of the error and skewed. Errors come in steps of one of 897 images.
    """
    normal = rng.standard_normal((*truth.shape, seeds))
    true = np.where(np.isinf(truth), 90.0, truth)[..., None]
    low, high = true + spread * np.sqrt(true / 2) * normal, true * np.exp(0.35 * normal - 0.35**2 / 2)
    errors = np.clip(np.where(true > 5, high, low), 100 / IMAGES, 90)
    return np.where(np.isinf(truth)[..., None], np.inf, np.round(errors * IMAGES / 100) * 100 / IMAGES)


def draw_case(family: str, seeds: int, rng: np.random.Generator) -> Case:
    """A case of random grid, slope and offset; the valley lies up to a third of the grid beyond its edge at x = 0."""
    rows, cols, step = GRIDS[int(rng.choice(len(GRIDS), p=SHARES))]
    slope = float(rng.choice(SLOPES))
    x = step * ((rows - 1) / 2 - np.arange(rows))
    y = step * (np.arange(cols) - (cols - 1) / 2)
    offset = float(rng.uniform(-0.8, 0.8)) * step * cols / 2
    truth = surface(family, slope, offset, x, y)
    return Case(slope, offset, x, y, truth, measured(truth, seeds, rng))
