"""Explains, in one sentence each, the terms that the report's page uses."""

import re

TERMS = {
    "separable": ("separable", "The best value of one hyperparameter is nearly the same whatever the other one is."),
    "coupled": (
        "coupled",
        "The best value of one hyperparameter depends on the other: a valley of low errors that leans on the map.",
    ),
    "weakly coupled": (
        "weakly coupled",
        "The valley leans a little, or its interval holds both an upright one and one that leans.",
    ),
    "bent": ("bent", "The valley is not a straight line: how far the best value moves depends on where one is."),
    "can't tell": (
        "can't tell",
        "The cells do not decide: no valley stands out of the noise, or its slope's 90 % interval is wider than 1.",
    ),
    "best": (
        "best",
        "The lowest mean error over the seeds of a cell. A cell of which a seed diverged has none.",
    ),
    "corrected": (
        "corrected",
        "The lowest of many noisy cells looks better than it is. This is its error without that luck, as estimated.",
    ),
    "cost": (
        "cost",
        "Percentage points lost by tuning one hyperparameter and then the other, instead of both jointly: the mean "
        "over both orders and all values to start from that have a cell below the cap.",
    ),
    "slope": (
        "slope s",
        "How the best column value moves along the rows, in powers of two. Of weight decay over the learning rate: −1, "
        "only their product matters; 0, separable; +1, only their ratio matters.",
    ),
    "interaction": (
        "interaction",
        "The share of the errors' variation that no sum of a row effect and a column effect explains.",
    ),
    "regret": (
        "regret",
        "Percentage points lost in the best cell's row (column) with the column (row) value that is best in another.",
    ),
    "rho": ("ρ", "Correlation of the logarithms of row and column value over the ten best cells."),
    "interval": (
        "90 % interval",
        "In brackets. The range that holds the number with 90 % probability, given the noise of these runs.",
    ),
    "cap": ("cap", "Errors above the cap count as the cap, and the colours end there. Diverged cells are at the cap."),
    "lambda_norm": (
        "λ_norm",
        "Normalized weight decay, λ √(B T / b), with batch size b, B training images and T epochs: it depends less on "
        "the budget than λ.",
    ),
    "tau": ("τ", "The number of epochs over which the weights average their updates at the full learning rate."),
    "best_axes": (
        "best axes",
        "The power p for which the column value times the row value to the power of p is separable from the row value.",
    ),
}


def term_id(key: str) -> str:
    """A term's id in the page: `term-can-t-tell`."""
    return "term-" + re.sub(r"\W+", "-", key)


def explained() -> list[tuple[str, str, str]]:
    """Every term: its id in the page, its words, and what it means."""
    return [(term_id(key), *texts) for key, texts in TERMS.items()]
