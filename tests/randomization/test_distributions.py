from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from simtoreal.randomization.distributions import (
    Affine,
    Choice,
    Constant,
    Intervals,
    LogUniform,
    Mixture,
    TruncatedNormal,
    Uniform,
    line,
)
from simtoreal.randomization.forms import from_data, to_data

U = np.linspace(0, 1, 101)


def truncnorm(mean, std, low, high):
    return stats.truncnorm((low - mean) / std, (high - mean) / std, loc=mean, scale=std)


@pytest.mark.parametrize(
    ("ours", "scipys"),
    [
        (Uniform(-2.0, 3.0), stats.uniform(-2, 5)),
        (LogUniform(1e-3, 10.0), stats.loguniform(1e-3, 10)),
        (TruncatedNormal(0.0, 1.0, -2.0, 1.0), truncnorm(0, 1, -2, 1)),
        (TruncatedNormal(1.0, 0.5, 2.0, 5.0), truncnorm(1, 0.5, 2, 5)),
        (TruncatedNormal(0.0, 1.0, 8.0, 9.0), truncnorm(0, 1, 8, 9)),
        (TruncatedNormal(0.0, 1.0, -9.0, -8.0), truncnorm(0, 1, -9, -8)),
        (TruncatedNormal(0.0, 100.0, -1.0, 1.0), truncnorm(0, 100, -1, 1)),
        (Choice((3.0, 1.0, 2.0), (1.0, 2.0, 1.0)), stats.rv_discrete(values=([1, 2, 3], [0.5, 0.25, 0.25]))),
    ],
)
def test_quantiles_equal_scipys(ours, scipys):
    inside = U[1:-1] + 1e-9  # past the jumps of a discrete distribution, where conventions differ
    np.testing.assert_allclose([ours.ppf(u) for u in inside], scipys.ppf(inside), rtol=1e-9, atol=1e-12)
    places = np.linspace(ours.bounds[0] - 0.1, ours.bounds[1] + 0.1, 57)
    np.testing.assert_allclose([ours.cdf(x) for x in places], scipys.cdf(places), rtol=1e-7, atol=1e-12)
    assert ours.ppf(0.0) == pytest.approx(ours.bounds[0])
    assert ours.ppf(1.0) == pytest.approx(ours.bounds[1])


def test_intervals_weigh_by_length():
    tails = Intervals(((5.0, 6.0), (0.0, 3.0)))  # three quarters of the length lie in the lower piece
    assert [tails.ppf(u) for u in (0.0, 0.25, 0.5, 0.75, 0.875, 1.0)] == [0.0, 1.0, 2.0, 5.0, 5.5, 6.0]
    assert tails.bounds == (0.0, 6.0)


def test_a_mixture_by_hand():
    """Half of the time 1, a quarter evenly in [0, 2], a quarter evenly in [3, 5]."""
    mixed = Mixture(((2.0, Constant(1.0)), (1.0, Uniform(0.0, 2.0)), (1.0, Uniform(3.0, 5.0))))
    assert mixed.bounds == (0.0, 5.0)
    assert [mixed.cdf(x) for x in (-1.0, 0.0, 0.5, 1.0, 2.0, 2.5, 4.0, 5.0)] == [
        *(0.0, 0.0, 0.0625, 0.625, 0.75, 0.75, 0.875, 1.0)
    ]
    assert [mixed.ppf(u) for u in (0.0, 0.125001, 0.4, 0.625, 1.0)] == [0.0, 1.0, 1.0, 1.0, 5.0]
    assert [mixed.ppf(u) for u in (0.0625, 0.6875, 0.75, 0.875)] == pytest.approx([0.5, 1.5, 2.0, 4.0], rel=1e-12)


def test_draws_of_a_mixture_are_of_its_parts():
    mixed = Mixture(((3.0, TruncatedNormal(0.0, 1.0, -2.0, 2.0)), (1.0, LogUniform(0.5, 8.0))))
    drawn = np.array([mixed.ppf(u) for u in np.random.default_rng(0).random(4000)])

    def cdf(x):
        return 0.75 * truncnorm(0, 1, -2, 2).cdf(x) + 0.25 * stats.loguniform(0.5, 8).cdf(x)

    assert stats.kstest(drawn, cdf).pvalue > 0.01


def test_affine_mirrors_under_a_negative_scale():
    mirrored = Affine(Uniform(1.0, 2.0), scale=-3.0, offset=1.0)
    assert mirrored.bounds == (-5.0, -2.0)
    assert [mirrored.ppf(u) for u in (0.0, 0.5, 1.0)] == [-5.0, -3.5, -2.0]


def test_constant():
    assert {Constant(2.5).ppf(u) for u in U} == {2.5}


numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


@st.composite
def distributions(draw):
    low, high = sorted((draw(numbers), draw(numbers)))
    kind = draw(st.sampled_from(["uniform", "log", "normal", "choice", "intervals", "affine", "mixture"]))
    if kind == "mixture":
        parts = [Constant(draw(numbers)), Choice((low, high)), Uniform(low, high), LogUniform(1.0, 9.0)]
        chosen = draw(st.lists(st.tuples(st.floats(0.01, 10), st.sampled_from(parts)), min_size=2, max_size=4))
        return Mixture(tuple(chosen))
    if kind == "log":
        return LogUniform(*sorted((draw(st.floats(1e-9, 1e9)), draw(st.floats(1e-9, 1e9)))))
    if kind == "normal" and high - low > 1e-3:
        return TruncatedNormal(draw(st.floats(low, high)), draw(st.floats(1e-3, 1e6)), low, high)
    if kind == "choice":
        return Choice(tuple(draw(st.lists(numbers, min_size=1, max_size=5))))
    if kind == "intervals" and high - low > 1e-3:
        third = (high - low) / 3
        return Intervals(((low, low + third), (high - third, high)))
    if kind == "affine":
        return Affine(Uniform(low, high), draw(st.floats(0.1, 10)) * draw(st.sampled_from([-1, 1])), draw(numbers))
    return Uniform(low, high)


@settings(max_examples=200, deadline=None)
@given(distributions(), st.floats(0, 1), st.floats(0, 1))
def test_quantiles_rise_and_stay_in_bounds(distribution, u, v):
    low, high = distribution.bounds
    a, b = distribution.ppf(min(u, v)), distribution.ppf(max(u, v))
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    assert low - slack <= a <= b + slack
    assert b <= high + slack


@settings(max_examples=100, deadline=None)
@given(distributions())
def test_files_keep_distributions(distribution):
    if not isinstance(distribution, Affine):
        ((kind, data),) = to_data(distribution).items()
        assert from_data(kind, data) == distribution


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("uniform", [2, 1], r"low must not exceed high, got \[2.0, 1.0\]"),
        ("uniform", [1, 2, 3], r"uniform needs \[low, high\], got \[1, 2, 3\]"),
        ("uniform", [1, "x"], 'got "x" where a number belongs'),
        ("uniform", [0, True], "got True where a number belongs"),
        ("uniform", 3, r"uniform needs \[low, high\], got 3"),
        ("uniform", "ab", "uniform needs"),
        ("uniform", [-1.7e308, 1.7e308], "too wide"),
        ("uniform", [0, math.inf], "high must be a finite number, got inf"),
        ("log_uniform", [0, 1], "log_uniform needs low > 0, got 0.0"),
        ("truncated_normal", [0, 1], "needs {mean, std, low, high}"),
        ("truncated_normal", {"mean": 0, "std": 0, "low": -1, "high": 1}, "needs std > 0, got 0.0"),
        ("truncated_normal", {"mean": 0, "std": 1, "low": 1, "high": 1}, "needs low < high"),
        ("truncated_normal", {"mean": 0, "std": 1, "low": 40, "high": 41}, "more than 30 std from the mean"),
        ("choice", [], "at least one value"),
        ("choice", {"values": [1, 2], "weights": [1]}, "2 values and 1 weights"),
        ("choice", {"values": [1, 2], "weights": [1, -1]}, "weights >= 0, got -1.0"),
        ("choice", {"values": [1, 2], "weights": [0, 0]}, "sum of weights above 0"),
        ("intervals", [[0, 2], [1, 3]], r"overlap: \[0.0, 2.0\] and \[1.0, 3.0\]"),
        ("intervals", [[1, 1]], "needs low < high"),
        ("intervals", [], "at least one"),
        ("intervals", 1, "intervals needs"),
        ("mixture", {"uniform": [0, 1]}, r"mixture needs \[\{weight"),
        ("mixture", [{"uniform": [0, 1]}], "at least two parts, got 1"),
        ("mixture", [{"uniform": [0, 1]}, {"weight": 0, "constant": 1}], "needs a weight above 0, got 0.0"),
        ("mixture", [{"uniform": [0, 1]}, {"weight": 1}], "a part of a mixture is {weight: w, KIND"),
        ("mixture", [{"uniform": [0, 1]}, {"mixture": [{"constant": 1}, {"constant": 2}]}], "is no mixture itself"),
        ("mixture", [{"uniform": [0, 1]}, {"uniform": [2, 1]}], "low must not exceed high"),
        ("constant", [1], "a number"),
        ("gauss", [0, 1], 'unknown distribution "gauss"; choices: uniform'),
    ],
)
def test_refusals_name_the_value(kind, data, message):
    with pytest.raises(ValueError, match=message) as caught:
        from_data(kind, data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "distribution",
    [Uniform(-2.0, 3.0), Affine(Uniform(-2.0, 3.0), 4.0, 1.0), Affine(Uniform(-2.0, 3.0), -4.0, 1.0)],
)
def test_a_line_is_the_quantile_function(distribution):
    begin, end = line(distribution)
    quantiles = [distribution.ppf(u) for u in U]
    assert [begin + u * (end - begin) for u in U] == pytest.approx(quantiles, rel=1e-12, abs=1e-12)
    assert line(LogUniform(1.0, 2.0)) is line(Affine(LogUniform(1.0, 2.0), 2.0)) is None


def test_a_scale_of_zero_is_refused():
    with pytest.raises(ValueError, match="scale of 0"):
        Affine(Uniform(0, 1), scale=0.0)
