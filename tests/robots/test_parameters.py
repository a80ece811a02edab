import math

import pytest

from simtoreal.robots.parameters import Parameter, ParameterTable

TABLE = ParameterTable(
    [
        Parameter("link.arm.mass", "kg", 2.0, 0.5, 4.0),
        Parameter("actuator.latency", "s", 0.0, 0.0, 0.1),
    ]
)


def test_complete_overlays_nominal_or_a_base():
    assert TABLE.complete({}) == {"link.arm.mass": 2.0, "actuator.latency": 0.0}
    assert TABLE.complete({"actuator.latency": 0.1}) == {"link.arm.mass": 2.0, "actuator.latency": 0.1}
    base = {"link.arm.mass": 3.0, "actuator.latency": 0.05}
    assert TABLE.complete({"link.arm.mass": 4}, base) == {"link.arm.mass": 4.0, "actuator.latency": 0.05}
    assert base["link.arm.mass"] == 3.0  # untouched


def test_it_is_a_mapping_in_the_order_given():
    assert list(TABLE) == ["link.arm.mass", "actuator.latency"]
    assert len(TABLE) == 2
    assert TABLE["link.arm.mass"].unit == "kg"
    assert "link.leg.mass" not in TABLE


def test_an_unknown_name_is_answered_with_its_neighbours():
    with pytest.raises(ValueError, match=r"no parameter 'link\.arm\.mas'; did you mean link\.arm\.mass\?"):
        TABLE.complete({"link.arm.mas": 1.0})


def test_a_name_near_to_none_is_answered_with_all():
    with pytest.raises(ValueError, match=r"parameters: link\.arm\.mass, actuator\.latency"):
        TABLE.complete({"zzz": 1.0})


@pytest.mark.parametrize("values", [[1], 5, "link.arm.mass", None, [("link.arm.mass", 1.0)]])
def test_what_is_no_mapping_is_refused(values):
    with pytest.raises(ValueError, match="parameters must be a mapping name -> number, got "):
        TABLE.complete(values)


@pytest.mark.parametrize("value", [0.49, 4.01, math.nan, math.inf, -math.inf, None, "heavy", [1.0]])
def test_a_value_out_of_bounds_names_the_bounds(value):
    with pytest.raises(ValueError, match=r"link\.arm\.mass = .* is outside \[0\.5, 4\] kg"):
        TABLE.complete({"link.arm.mass": value})


@pytest.mark.parametrize("value", [0.5, 4.0])
def test_bounds_themselves_are_allowed(value):
    assert TABLE.complete({"link.arm.mass": value})["link.arm.mass"] == value


@pytest.mark.parametrize("nominal", [-1.0, 2.0, math.nan])
def test_nominal_lies_within_bounds(nominal):
    with pytest.raises(ValueError, match="nominal"):
        Parameter("x", "m", nominal, 0.0, 1.0)


def test_a_name_defined_twice_is_refused():
    with pytest.raises(ValueError, match="x is defined twice"):
        ParameterTable([Parameter("x", "m", 0.0, 0.0, 1.0)] * 2)
