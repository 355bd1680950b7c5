"""Error surfaces whose answer is known: bowls whose valley has a slope of our choosing, on the paper's axes."""

from fractions import Fraction

import numpy as np

from wdgrid.analysis.separability import Separability, analyse
from wdgrid.analysis.surface import Surface

LR = 0.1 * 2.0 ** -np.arange(11)
DECAY = 1e-3 * np.array([0, *2.0 ** np.arange(-5, 5)])
X = np.log2(LR) - np.log2(LR).mean()
Y = np.log2([DECAY[1] / 2, *DECAY[1:]])  # a decay of 0 stands one octave below the smallest
Y = Y - Y[1:].mean()


def surface(errors: np.ndarray, rows: np.ndarray = LR, cols: np.ndarray = DECAY, panel: str = "p") -> Surface:
    errors = errors if errors.ndim == 3 else errors[..., None]
    rows, cols = np.asarray(rows, float), np.asarray(cols, float)
    labels = [tuple(f"{value:g}" for value in axis) for axis in (rows, cols)]
    return Surface(panel, "lr", "weight_decay", rows, cols, *labels, errors)


def alone(errors: np.ndarray, **arguments) -> Separability:
    keys = {"rows", "cols"} & set(arguments)
    given_surface = surface(errors, **{key: arguments.pop(key) for key in keys})
    return analyse({"p": given_surface}, **{"draws": 20, **arguments})["p"]


def bowl(slope: float, a: float = 0.1, b: float = 0.15, at: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """4 % at the bottom; the best log decay moves by `slope` per octave of rate."""
    x, y = np.meshgrid(X - at[0], Y - at[1], indexing="ij")
    return 4 + b * (y - slope * x) ** 2 + a * x**2


def labelled(errors: np.ndarray, rows: list[str], cols: list[str]) -> Surface:
    values = [np.array([float(Fraction(text)) for text in axis]) for axis in (rows, cols)]
    return Surface("p", "lr", "weight_decay", *values, tuple(rows), tuple(cols), errors[..., None])
