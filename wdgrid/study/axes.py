"""Parses and prints axis values: exact multiples of a unit, as the paper labels its axes (`"0, 1/32..16"`)."""

import re
from fractions import Fraction
from typing import Any

_RANGE = re.compile(r"\s*(?:\.\.|…)\s*")


def parse_multiple(text: str | int | float | Fraction) -> Fraction:
    """One axis value as an exact multiple of its unit: `"1/32"`, `0.5`, `2`.

    Raises ValueError unless the value is a finite number that is not negative.
    """
    if isinstance(text, bool):
        raise ValueError("must be a number or a fraction such as 1/32, not true or false")
    try:
        multiple = text if isinstance(text, Fraction) else Fraction(str(text).strip())
    except (ValueError, ZeroDivisionError):
        raise ValueError("must be a finite number or a fraction such as 1/32") from None
    if multiple < 0:
        raise ValueError("must not be negative")
    return multiple


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
    for duplicates and for anything that is not a finite number ≥ 0.
    """
    parts: list[Any]
    if isinstance(given, str):
        parts = [part for part in given.split(",") if part.strip()]
    elif isinstance(given, list | tuple):
        parts = list(given)
    else:
        raise ValueError('must be a list of values or a string such as "0, 1/32..16"')
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
    duplicates = sorted({m for m in multiples if multiples.count(m) > 1})
    if duplicates:
        raise ValueError(f"duplicate values: {', '.join(map(label, duplicates))}")
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
    """multiple × unit, rounded only once (so that 1/10 of 0.1 is the float nearest to 0.01)."""
    return float(multiple * Fraction(repr(unit)))
