"""What is wrong with a file from outside, in our words: where, what is allowed there, and what stands there instead."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from simtoreal.randomization.messages import nearest, shown

KEY = "[key]"  # of a mapping, where pydantic finds fault with it
BOUNDS = {"gt": "above {:g}", "ge": "from {:g}", "lt": "below {:g}", "le": "up to {:g}"}
SIMPLE = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}


def first_fault(error: ValidationError, model: type[BaseModel]) -> tuple[list[str | int], str]:
    """The place of the first thing that `model` refused, and what is wrong there.

    The words follow from what `model` declares, not from what pydantic says.
    """
    first = error.errors()[0]
    where = [part for part in first["loc"] if part != KEY]
    above, _ = _declared(model, where[:-1])
    if first["type"] == "missing" and isinstance(where[-1], str):
        return where, "is missing"
    if first["type"] == "extra_forbidden":
        return where, f"no such key; {nearest(str(where[-1]), above.model_fields)}"
    if KEY in first["loc"]:
        return where, f"no such key; {nearest(str(where[-1]), map(str, get_args(get_args(above)[0])))}"
    given = first["input"]
    if first["type"] in ("missing", "too_short", "too_long") and isinstance(where[-1], int):
        where = where[:-1]  # a list that is too short is at fault itself
    return where, f"{_allowed(*_declared(model, where))}, got {_given(given)}"


def _declared(model: Any, where: list[str | int]) -> tuple[Any, tuple[Any, ...]]:
    """What a model declares at a place: its type, and what bounds that."""
    kind, bounds = _plain(model, ())
    for part in where:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields[str(part)]
            kind, bounds = _plain(field.annotation, tuple(field.metadata))
        elif get_origin(kind) is dict:
            kind, bounds = _plain(get_args(kind)[1], ())
        else:
            kinds = get_args(kind)
            kind, bounds = _plain(kinds[0] if kinds[-1] is Ellipsis else kinds[int(part)], ())
    return kind, bounds


def _plain(kind: Any, bounds: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """A type without its "or nothing" and its annotations."""
    while True:
        if get_origin(kind) is Annotated:
            kind, *more = get_args(kind)
            bounds += tuple(bound for one in more for bound in (one.metadata if isinstance(one, FieldInfo) else [one]))
        elif get_origin(kind) in (Union, UnionType):
            kind = next(one for one in get_args(kind) if one is not NoneType)
        else:
            return kind, bounds


def _allowed(kind: Any, bounds: tuple[Any, ...]) -> str:
    """In words."""
    if kind in SIMPLE:
        limits = [
            text.format(float(getattr(b, name))) for name, text in BOUNDS.items() for b in bounds if hasattr(b, name)
        ]
        return " ".join([SIMPLE[kind], *limits])
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"{getattr(kind, 'instead', '')}a mapping of {', '.join(kind.model_fields)}"
    least = max((bound.min_length for bound in bounds if hasattr(bound, "min_length")), default=0)
    most = min((bound.max_length for bound in bounds if hasattr(bound, "max_length")), default=None)
    count = f" of {least} or more" if least and most is None else f" of {least} to {most}" if most is not None else ""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if get_origin(kind) is dict:
        return f"a mapping{count}, name: {_allowed(*_plain(parts[1], ()))}"
    if parts[-1] is Ellipsis:
        return f"a list{count}, each {_allowed(*_plain(parts[0], ()))}"
    return f"a list of {len(parts)}, each {_allowed(*_plain(parts[0], ()))}"


def _given(value: Any) -> str:
    """As it stands in the file."""
    return (
        {None: "nothing", True: "true", False: "false"}[value]
        if value is None or value is True or value is False
        else shown(value)
    )
