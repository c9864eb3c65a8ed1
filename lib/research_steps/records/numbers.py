"""Numbers as people read them, the same on every surface: three significant digits, with their unit.

A metric has no field for its unit: the end of its name tells it, and a name that ends otherwise has none. Seconds are
shown as s, ms, µs or ns, bytes in powers of 1024.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

DIGITS = 3
# What has more of a whole part is shown as a power of ten, so that no line is filled by it.
LARGEST = 1e6
# The units of names that end so, from the largest: how much of the name's own unit one is.
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_BYTES = tuple((1024.0**power, unit) for power, unit in reversed([*enumerate(("B", "KiB", "MiB", "GiB", "TiB"))]))
# The longer end comes first: a rate is no time.
_UNITS: tuple[tuple[str, float, tuple[tuple[float, str], ...]], ...] = (
    ("_per_s", 1.0, ((0.0, "/s"),)),
    ("_bytes", 1.0, _BYTES),
    ("_ms", 1e-3, _SECONDS),
    ("_us", 1e-6, _SECONDS),
    ("_s", 1.0, _SECONDS),
)


def number(value: float, digits: int = DIGITS, sign: str = "") -> str:
    """A number by itself: '0.495', '12.3', '2048', '6.62e-07'. A whole number is shown whole, as counts are."""
    if abs(value) < LARGEST and (value == int(value) or abs(value) >= 10**digits):
        return f"{value:{sign}.0f}"
    return f"{value:{sign}#.{digits}g}".removesuffix(".")


def percent(share: float) -> str:
    """A share of 1: '1.38 %'."""
    return f"{number(100 * share)} %"


def quantity(metric: str, value: float, digits: int = DIGITS, sign: str = "") -> str:
    """A metric's value with its unit: '5.05 ms' of time_s, '1.50 MiB' of peak_bytes, '0.495' of loss."""
    for end, one, units in _UNITS:
        if metric.endswith(end) and math.isfinite(value):
            # As it is shown, so that what is rounded up to the next unit is shown in that.
            size = float(f"{abs(value) * one:.{digits - 1}e}")
            per, unit = next((scale for scale in units if size >= scale[0]), units[-1] if size else units[0])
            return f"{number(value * one / (per or 1.0), digits, sign)} {unit}"
    return number(value, digits, sign)


def ratio(value: float, digits: int = DIGITS) -> str:
    """A ratio without its sign of multiplication. Near 1 its distance from that is what is read."""
    return f"{value:.{digits}f}" if 0.1 <= value < 2 else number(value, digits)


def listed(values: Mapping[str, float], first: str = "") -> str:
    """Metrics with their values, the one of this name first: 'time_s 5.05 ms, loss 0.495'."""
    names = sorted(values, key=lambda name: (name != first, name))
    return ", ".join(f"{name} {quantity(name, values[name])}" for name in names)


def spelled(value: Any, between: str = " ") -> str:
    """A configuration as people read it: 'tokens=512 model.hidden=64', lists with commas. Its numbers are not rounded,
    because what was configured is exact."""
    if isinstance(value, Mapping):
        return between.join(_fields("", value, between))
    if isinstance(value, list | tuple):
        return ", ".join(spelled(item) for item in value)
    return str(value)


def _fields(path: str, value: Mapping[str, Any], between: str) -> Iterable[str]:
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _fields(f"{path}{name}.", inner, between)
        else:
            yield f"{path}{name}={spelled(inner, between)}"
