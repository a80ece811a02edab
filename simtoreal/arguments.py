"""What may stand behind an option, as it is typed."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TypeVar

Value = TypeVar("Value")


def whole(text: str, least: int = 0) -> int:
    """A whole number as it is typed; a seed, say."""
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least}, got {text!r}")
    return int(text)


def count(text: str) -> int:
    """A whole number from 1."""
    return whole(text, least=1)


def seconds(text: str) -> float:
    """A positive, finite number of seconds."""
    return _positive(text, "must be a number of seconds above 0")


def _positive(text: str, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}")
    return value


def port(text: str) -> int:
    """A TCP port, 0 for any that is free."""
    value = whole(text)
    if value > 65535:
        raise argparse.ArgumentTypeError(f"must be from 0 to 65535, got {text!r}")
    return value


def rate(text: str) -> float:
    """A positive, finite factor."""
    return _positive(text, "must be a number above 0")


def named_numbers(text: str) -> tuple[str, list[float]]:
    """NAME=NUMBER,NUMBER,... as it is typed."""
    name, _, values = text.partition("=")
    try:
        return name, [float(value) for value in values.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be NAME=NUMBER, once for each name, got {text!r}") from None


def named_number(text: str) -> tuple[str, float]:
    """NAME=NUMBER as it is typed."""
    name, values = named_numbers(text)
    if len(values) != 1:
        raise argparse.ArgumentTypeError(f"must be NAME=NUMBER, got {text!r}")
    return name, values[0]


def once_each(option: str, pairs: Sequence[tuple[str, Value]]) -> dict[str, Value]:
    """What a repeatable option was given, by name. Raises ValueError for a name that was given twice."""
    found: dict[str, Value] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{option} {name} is given twice")
        found[name] = value
    return found
