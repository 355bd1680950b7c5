"""Collects the axis values and seeds that boundary alarms and advice propose, as written in a study file.

All panels share the axes and the seeds, so the proposals of all panels are merged.
"""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

from wdgrid.study.axes import exact_label, parse_multiple

if TYPE_CHECKING:
    from wdgrid.analysis.advice import Advice
    from wdgrid.analysis.boundary import Boundary
    from wdgrid.analysis.separability import Separability
    from wdgrid.study import Study


def alarms(numbers: "Mapping[str, Separability]") -> "list[tuple[str, Boundary]]":
    """Every alarm with its panel."""
    return [(panel, alarm) for panel, found in numbers.items() for alarm in found.alarms]


def advices(numbers: "Mapping[str, Separability]") -> "list[tuple[str, Advice]]":
    """What would decide a panel's verdict, for every panel of which something would."""
    return [(panel, found.advice) for panel, found in numbers.items() if found.advice is not None]


def more_seeds(numbers: "Mapping[str, Separability]", study: "Study") -> str | None:
    """The stored seeds and as many more as any panel asks for, as TOML; None where none does."""
    more = max((one.seeds for _, one in advices(numbers)), default=0)
    fresh = [seed for seed in range(max(study.seeds) + more + 1) if seed not in study.seeds]
    return str([*study.seeds, *fresh[:more]]) if more else None


def extended_axes(numbers: "Mapping[str, Separability]", study: "Study", besides: Iterable[str] = ()) -> dict[str, str]:
    """Stored and proposed values as TOML, by axis; empty if nothing is proposed.

    Axes named in `besides` are included with their stored values even if no alarm concerns them.
    """
    wanted: dict[str, list[Fraction]] = {}
    asked = [(alarm.axis, alarm.add) for _, alarm in alarms(numbers)]
    asked += [(one.axis, one.add) for _, one in advices(numbers) if one.axis is not None]
    for axis, add in asked:
        wanted.setdefault(axis, []).extend(parse_multiple(text) for text in add)
    if not any(wanted.values()):
        return {}
    axes = {}
    for name, axis in study.axes.items():
        added = [value for value in dict.fromkeys(wanted.get(name, [])) if value not in axis.values]
        if added or name in besides:
            axes[name] = _toml(_in_order(axis.values, added))
    return axes


def _in_order(values: tuple[Fraction, ...], added: list[Fraction]) -> list[Fraction]:
    """All values in the axis' order, ascending or descending; if it has neither, the new ones come last."""
    for down in (False, True):
        if list(values) == sorted(values, reverse=down):
            return sorted([*values, *added], reverse=down)
    return [*values, *added]


def _toml(values: list[Fraction]) -> str:
    """A TOML string such as `"0, 1/32..16"`: three or more powers of two in a row become a range."""
    parts: list[str] = []
    start = 0
    while start < len(values):
        end = start + 1
        if end < len(values) and (ratio := _ratio(values[start], values[end])) is not None:
            while end + 1 < len(values) and _ratio(values[end], values[end + 1]) == ratio:
                end += 1
        if end - start >= 2 and end < len(values) and _is_power(values[start]):
            parts.append(f"{exact_label(values[start])}..{exact_label(values[end])}")
            start = end + 1
        else:
            parts.append(exact_label(values[start]))
            start += 1
    return '"' + ", ".join(parts) + '"'


def _ratio(first: Fraction, second: Fraction) -> Fraction | None:
    """second/first if it is 2 or 1/2, else None."""
    ratio = second / first if first > 0 else None
    return ratio if ratio in (Fraction(2), Fraction(1, 2)) else None


def _is_power(value: Fraction) -> bool:
    return value > 0 and not value.numerator & (value.numerator - 1) and not value.denominator & (value.denominator - 1)
