"""The named physical parameter: one float with a unit, a nominal value and valid bounds."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """One number of a robot that may differ between simulation and hardware."""

    name: str
    unit: str
    nominal: float
    low: float
    high: float
    description: str = ""

    def __post_init__(self) -> None:
        if not self.low <= self.nominal <= self.high:
            raise ValueError(f"{self.name}: nominal {self.nominal} lies outside [{self.low}, {self.high}] {self.unit}")


class ParameterTable(Mapping[str, Parameter]):
    """Name -> parameter, in a fixed order."""

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self._by_name: dict[str, Parameter] = {}
        for parameter in parameters:
            if parameter.name in self._by_name:
                raise ValueError(f"parameter {parameter.name} is defined twice")
            self._by_name[parameter.name] = parameter
        self.nominal = {name: parameter.nominal for name, parameter in self._by_name.items()}

    def __getitem__(self, name: str) -> Parameter:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def complete(self, values: Mapping[str, float], base: Mapping[str, float] | None = None) -> dict[str, float]:
        """The complete vector: `base` (nominal if None) overlaid with `values`.

        Raises:
            ValueError: no mapping, an unknown name, or a value that is not a finite number within the parameter's
                bounds.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"parameters must be a mapping name -> number, got {values!r}")
        out = dict(self.nominal if base is None else base)
        for name, value in values.items():
            parameter = self._by_name.get(name)
            if parameter is None:
                raise ValueError(f"no parameter {name!r}; {self._hint(name)}")
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = math.nan
            if not parameter.low <= number <= parameter.high:
                raise ValueError(
                    f"{name} = {value} is outside [{parameter.low:g}, {parameter.high:g}] {parameter.unit}"
                )
            out[name] = number
        return out

    def _hint(self, name: str) -> str:
        near = difflib.get_close_matches(str(name), self._by_name, n=3)
        return f"did you mean {', '.join(near)}?" if near else f"parameters: {', '.join(self._by_name)}"
