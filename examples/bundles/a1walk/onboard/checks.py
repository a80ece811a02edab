"""Checks of plain values read from a contract: each returns the value it was given, or raises naming the field."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any


class SpecError(ValueError):
    """A bundle or its contract cannot be trusted; the message names the file or field, what was found and expected."""


def text(value: Any, where: str, empty: bool = True) -> str:
    """A string, not the empty one unless `empty`."""
    if not isinstance(value, str) or not (value or empty):
        raise SpecError(f"{where} must be {'a' if empty else 'a non-empty'} string, got {value!r}")
    return value


def number(value: Any, where: str) -> float:
    """A finite number."""
    try:
        if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:
        raise SpecError(f"{where} must be a finite number, got a whole number beyond any float") from None
    raise SpecError(f"{where} must be a finite number, got {value!r}")


def numbers_of(values: Any, where: str) -> tuple[float, ...]:
    """A list of finite numbers."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise SpecError(f"{where} must be a list of numbers, got {values!r}")
    return tuple(number(value, f"{where}[{index}]") for index, value in enumerate(values))


def mapping(value: Any, where: str) -> dict[str, Any]:
    """A mapping from non-empty strings."""
    if not isinstance(value, Mapping):
        raise SpecError(f"{where} must be a mapping, got {value!r}")
    return {text(key, f"a name in {where}", empty=False): value[key] for key in value}


def with_keys(value: Any, where: str, keys: Iterable[str]) -> dict[str, Any]:
    """A mapping with exactly these keys."""
    data, expected = mapping(value, where), tuple(keys)
    unknown = sorted(set(data) - set(expected))
    if unknown:
        close = difflib.get_close_matches(unknown[0], expected, 3) or expected
        raise SpecError(f'{where} has an unknown key "{unknown[0]}"; known: {", ".join(close)}')
    missing = [key for key in expected if key not in data]
    if missing:
        raise SpecError(f'{where} lacks "{missing[0]}"')
    return data


def items(value: Any, where: str) -> tuple[Any, ...]:
    """A list or tuple."""
    if not isinstance(value, (list, tuple)):
        raise SpecError(f"{where} must be a list, got {value!r}")
    return tuple(value)
