"""Distributions as files give them: `kind: data`, read and written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from simtoreal.randomization.distributions import (
    Choice,
    Constant,
    Distribution,
    Intervals,
    LogUniform,
    Mixture,
    TruncatedNormal,
    Uniform,
)
from simtoreal.randomization.messages import shown

KINDS = ("uniform", "log_uniform", "truncated_normal", "choice", "intervals", "mixture", "constant")


def from_data(kind: str, data: Any) -> Distribution:
    """The distribution a file gives as `kind: data`; ValueError (one line) when it is none.

    `uniform` and `log_uniform` [low, high]; `truncated_normal` {mean, std, low, high}; `choice` [v, …] or
    {values, weights}; `intervals` [[low, high], …]; `mixture` [{weight, kind: data}, …]; `constant` v.
    """
    if kind in ("uniform", "log_uniform"):
        low, high = _numbers(kind, data, "[low, high]", 2)
        return Uniform(low, high) if kind == "uniform" else LogUniform(low, high)
    if kind == "truncated_normal":
        fields = ("mean", "std", "low", "high")
        if not isinstance(data, dict) or set(data) != set(fields):
            raise ValueError(f"truncated_normal needs {{mean, std, low, high}}, got {shown(data)}")
        return TruncatedNormal(*_numbers(kind, [data[name] for name in fields], "{mean, std, low, high}", 4))
    if kind == "choice":
        form = "[v, …] or {values: [v, …], weights: [w, …]}"
        if not isinstance(data, dict):
            return Choice(_numbers(kind, data, form))
        if set(data) != {"values", "weights"}:
            raise ValueError(f"choice needs {form}, got {shown(data)}")
        return Choice(_numbers(kind, data["values"], form), _numbers(kind, data["weights"], form))
    if kind == "intervals":
        form = "[[low, high], …]"
        pairs = [_numbers(kind, piece, form, 2) for piece in _list(data, kind, form)]
        return Intervals(tuple((low, high) for low, high in pairs))
    if kind == "mixture":
        return Mixture(tuple(_read_part(part) for part in _list(data, "mixture", "[{weight: w, uniform: [v, v]}, …]")))
    if kind == "constant":
        return Constant(*_numbers(kind, [data], "a number", 1))
    raise ValueError(f"unknown distribution {shown(kind)}; choices: {', '.join(KINDS)}")


def _list(data: Any, kind: str, form: str) -> list[Any]:
    if not isinstance(data, list):
        raise ValueError(f"{kind} needs {form}, got {shown(data)}")
    return data


def _read_part(data: Any) -> tuple[float, Distribution]:
    """A part of a mixture, its weight 1 unless it says another."""
    kinds = [key for key in data if key != "weight"] if isinstance(data, dict) else []
    if len(kinds) != 1:
        raise ValueError(
            f"a part of a mixture is {{weight: w, KIND: …}} of one of {', '.join(KINDS)}, got {shown(data)}"
        )
    (weight,) = _numbers("weight", [data.get("weight", 1.0)], "a number", 1)
    return weight, from_data(kinds[0], data[kinds[0]])


def to_data(distribution: Distribution) -> dict[str, Any]:
    """What `from_data` reads back: {kind: data}. An `Affine` has no such form of its own."""
    match distribution:
        case Uniform(low, high):
            return {"uniform": [low, high]}
        case LogUniform(low, high):
            return {"log_uniform": [low, high]}
        case TruncatedNormal(mean, std, low, high):
            return {"truncated_normal": {"mean": mean, "std": std, "low": low, "high": high}}
        case Choice(values, weights):
            alike = len(set(weights)) == 1
            return {"choice": list(values) if alike else {"values": list(values), "weights": list(weights)}}
        case Intervals(pieces):
            return {"intervals": [list(piece) for piece in pieces]}
        case Mixture(parts):
            return {"mixture": [{"weight": weight, **to_data(part)} for weight, part in parts]}
        case Constant(value):
            return {"constant": value}
    raise ValueError(f"no YAML form for {distribution!r}")


def _numbers(kind: str, data: Any, form: str, count: int | None = None) -> tuple[float, ...]:
    if not isinstance(data, Iterable) or isinstance(data, str | dict):
        raise ValueError(f"{kind} needs {form}, got {shown(data)}")
    values = list(data)
    if count is not None and len(values) != count:
        raise ValueError(f"{kind} needs {form}, got {shown(data)}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{kind} needs {form}, got {shown(value)} where a number belongs")
    return tuple(float(value) for value in values)
