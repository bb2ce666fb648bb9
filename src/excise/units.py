"""Numbers with their units, for people."""

from __future__ import annotations

_ONE = {"axes": "axis"}
_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(number: float, unit: str) -> str:
    """Render a count with a decimal prefix: `count(4_089_000_000, "MACs")` is `'4.09 GMACs'`.

    >>> count(25_557_032, "parameters"), count(12, "MACs"), count(1, "units")
    ('25.6 M parameters', '12 MACs', '1 unit')
    """
    for step, prefix in _STEPS:
        if number >= step:
            gap = "" if unit[:1].isupper() else " "
            return f"{number / step:.3g} {prefix}{gap}{unit}"
    if number == 1:
        unit = _ONE.get(unit, unit.removesuffix("s"))
    return f"{number:.0f} {unit}"


def size(byte_count: float) -> str:
    """Render bytes in decimal megabytes or kilobytes, as file managers do.

    >>> size(1_092_520), size(640)
    ('1.09 MB', '640 bytes')
    """
    for step, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if byte_count >= step:
            return f"{byte_count / step:.3g} {unit}"
    return f"{byte_count:.0f} bytes"


def milliseconds(value: float) -> str:
    """Render a duration in milliseconds.

    >>> milliseconds(3.14159)
    '3.14 ms'
    """
    return f"{value:.3g} ms"
