"""Parses and prints axis values: exact multiples of a unit, as the paper labels its axes (`"0, 1/32..16"`)."""

import math
import re
from collections import Counter
from fractions import Fraction
from typing import Any

MAX_VALUES = 10_000
MAX_LABEL = 64  # characters of a printed value
MAX_EXPONENT = 308  # of ten, as in double precision
_RANGE = re.compile(r"\s*(?:\.\.|…)\s*")
_EXPONENT = re.compile(r"e([+-]?\d+)\s*$", re.IGNORECASE)


def parse_multiple(text: str | int | float | Fraction) -> Fraction:
    """One axis value as an exact multiple of its unit: `"1/32"`, `0.5`, `2`.

    Raises ValueError unless the value is a finite number that is not negative, within double precision, and printed in
    at most MAX_LABEL characters.
    """
    if isinstance(text, bool):
        raise ValueError("must be a number or a fraction such as 1/32, not true or false")
    try:
        multiple = text if isinstance(text, Fraction) else Fraction(_bounded(str(text).strip()))
    except _TooFarError:
        raise
    except (ValueError, ZeroDivisionError):
        raise ValueError("must be a finite number or a fraction such as 1/32") from None
    if multiple < 0:
        raise ValueError("must not be negative")
    if multiple and not 10**-MAX_EXPONENT <= multiple <= 10**MAX_EXPONENT:
        raise _TooFarError
    if len(label(multiple)) > MAX_LABEL:
        raise ValueError(f"must be printed in at most {MAX_LABEL} characters")
    return multiple


class _TooFarError(ValueError):
    def __init__(self) -> None:
        super().__init__(f"must be 0, or between 1e-{MAX_EXPONENT} and 1e{MAX_EXPONENT}")


def _bounded(text: str) -> str:
    """The text of a number, checked before it becomes a fraction, because `Fraction("1e99999999")` takes gigabytes."""
    exponent = _EXPONENT.search(text)
    if len(text) > 2 * MAX_EXPONENT + 2 or (exponent and abs(int(exponent[1])) > 2 * MAX_EXPONENT):
        raise _TooFarError
    return text


def _powers_of_two(first: Fraction, last: Fraction) -> list[Fraction]:
    for end in (first, last):
        if end <= 0 or (end.numerator & (end.numerator - 1)) or (end.denominator & (end.denominator - 1)):
            raise ValueError("both ends of a range a..b must be powers of two, such as 1/32..16")
    factor = Fraction(2) if last >= first else Fraction(1, 2)
    values = [first]
    while values[-1] != last:
        values.append(values[-1] * factor)
        if len(values) > 128:
            raise ValueError("a range a..b must have at most 128 powers of two")
    return values


def parse_multiples(given: object) -> tuple[Fraction, ...]:
    """Axis values from a study file: a list, or a string of values and ranges such as `"0, 1/32..16"`.

    A range `a..b` means every power of two from a to b. The order is preserved. Raises ValueError for an empty axis,
    for duplicates, for two values that are printed alike, for more than MAX_VALUES values and for anything that is
    not a finite number ≥ 0.
    """
    parts: list[Any]
    if isinstance(given, str):
        parts = [part for part in given.split(",") if part.strip()]
    elif isinstance(given, list | tuple):
        parts = list(given)
    else:
        raise ValueError('must be a list of values or a string such as "0, 1/32..16"')
    if len(parts) > MAX_VALUES:
        raise ValueError(f"must have at most {MAX_VALUES} values, not {len(parts)}")
    multiples: list[Fraction] = []
    for part in parts:
        ends = _RANGE.split(part.strip()) if isinstance(part, str) else [part]
        if len(ends) == 2:
            multiples += _powers_of_two(parse_multiple(ends[0]), parse_multiple(ends[1]))
        elif isinstance(part, str | int | float | Fraction):
            multiples.append(parse_multiple(part))
        else:
            raise ValueError(f"{part!r} is not a number")
    if not multiples:
        raise ValueError("must have at least one value")
    printed = Counter(map(label, multiples))
    if duplicates := [name for name, times in printed.items() if times > 1]:
        raise ValueError(f"duplicate values: {', '.join(duplicates[:10])}{', …' * (len(duplicates) > 10)}")
    return tuple(multiples)


def label(multiple: Fraction) -> str:
    """A multiple as printed on an axis: `0`, `1/32`, `16`, or a decimal if the denominator is not a power of two."""
    if multiple.denominator & (multiple.denominator - 1) == 0:
        return str(multiple)
    return f"{float(multiple):g}"


def exact_label(multiple: Fraction) -> str:
    """As `label` if that is exact, else a fraction: `1/32`, `0.1`, `1/3`."""
    printed = label(multiple)
    return printed if Fraction(printed) == multiple else str(multiple)


def scale(multiple: Fraction, unit: float) -> float:
    """multiple × unit, rounded only once (so that 1/10 of 0.1 is the float nearest to 0.01); inf if too large."""
    try:
        return float(multiple * Fraction(repr(unit)))
    except OverflowError:
        return math.inf
