"""Figures against published values and hand-worked cases; nothing here repeats the formulas it tests."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from simtoreal.differences import compare_bundles, compare_engines, paired_difference
from simtoreal.statistics import Episode, Gate, bootstrap_interval, cvar, heldout_suites, iqm, summarise, wilson


def episode(**changes: Any) -> Episode:
    plain: dict[str, Any] = {
        "bundle": "dr", "suite": "heldout", "condition": "payload", "case": "payload/0", "seed": 0,
        "engine": "pybullet", "return_": 1.0, "success": True, "length": 100, "held_out": True, "severity": 0.5,
    }  # fmt: skip
    return Episode(**(plain | changes))


def run(
    bundle: str, condition: str, successes: int, n: int, *, suite: str = "heldout", **changes: Any
) -> list[Episode]:
    return [
        episode(bundle=bundle, suite=suite, condition=condition, case=f"{condition}/{k}", success=k < successes,
                return_=100.0 * (k < successes) + k, **changes)
        for k in range(n)
    ]  # fmt: skip


# Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_the_mirror_image_for_failures() -> None:
    low, high = wilson(15, 148)
    assert wilson(133, 148) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"got {successes} of {n}"):
        wilson(successes, n)


def test_iqm_of_the_textbook_sample_is_six_and_a_half() -> None:
    assert iqm([5, 8, 4, 38, 8, 6, 9, 7, 7, 3, 1, 6]) == 6.5  # drops 1 3 4 and 8 9 38, leaves 5 6 6 7 7 8


def test_iqm_ignores_one_disaster_that_moves_the_mean() -> None:
    assert iqm([10.0] * 9 + [-1e6]) == 10.0


@pytest.mark.parametrize(("n", "expected"), [(20, 0.5), (19, 0.0), (30, 1.0), (1, 0.0), (9, 0.0)])
def test_cvar_is_the_mean_of_the_worst_tenth_and_of_at_least_one(n: int, expected: float) -> None:
    assert cvar(np.random.default_rng(0).permutation(n)) == expected  # 0..n-1: the worst 2, 1, 3, 1, 1 of them


def test_bootstrap_of_a_mean_agrees_with_the_t_interval() -> None:
    values = np.random.default_rng(3).normal(50, 10, size=400)
    theory = stats.t.interval(0.95, 399, loc=values.mean(), scale=stats.sem(values))
    assert bootstrap_interval(values, np.mean, seed=1) == pytest.approx(theory, abs=0.15)


def test_bootstrap_of_a_mean_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    covered = 0
    for trial in range(300):
        low, high = bootstrap_interval(rng.normal(size=40), np.mean, seed=trial, resamples=400)
        covered += low <= 0 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_strata_take_the_difference_between_conditions_out_of_the_spread() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 50), rng.normal(1000, 1, 50)])
    low, high = bootstrap_interval(values, np.mean, seed=0, strata=["easy"] * 50 + ["hard"] * 50)
    assert high - low == pytest.approx(2 * 1.96 * 0.1, rel=0.2)  # sd 1 over 100 values
    loose = bootstrap_interval(values, np.mean, seed=0)
    assert loose[1] - loose[0] > 100


def test_a_stratum_of_one_does_not_pretend_to_certainty() -> None:
    low, high = bootstrap_interval([1.0, 2.0, 3.0], np.mean, seed=0, strata="abc")
    assert low < 1.7
    assert high > 2.3


@pytest.mark.filterwarnings("error")
def test_degenerate_samples() -> None:
    assert bootstrap_interval([7.0] * 30, iqm, seed=0) == (7.0, 7.0)
    assert bootstrap_interval([7.0], np.mean, seed=0) == (-math.inf, math.inf)
    assert bootstrap_interval([1.0, 1.0, 5.0, 5.0], np.mean, seed=0, strata="aabb") == (3.0, 3.0)
    for bad in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="finite values"):
            bootstrap_interval(bad, np.mean, seed=0)


def test_bootstrap_is_a_function_of_its_seed() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap_interval(values, cvar, seed=5) == bootstrap_interval(values, cvar, seed=5)
    assert bootstrap_interval(values, np.mean, seed=5) != bootstrap_interval(values, np.mean, seed=6)


def test_summary_pools_held_out_cases_only_and_names_the_worst_condition() -> None:
    episodes = [
        *run("dr", "payload", 20, 20),
        *run("dr", "latency", 10, 20),
        *run("dr", "friction", 0, 20, held_out=False),
        *run("dr", "nominal", 19, 20, suite="nominal", held_out=False),
    ]
    summary = summarise(episodes)
    suite = summary.find("dr", "heldout")
    assert suite is not None
    assert (suite.held_out, suite.pooled.n, suite.pooled.seen) == (True, 40, 20)
    assert suite.pooled.success.value == 0.75
    assert suite.worst.condition == "latency"  # friction was seen and does not compete
    friction = suite.conditions[2]
    assert (friction.condition, friction.held_out, friction.n, friction.seen) == ("friction", False, 20, 20)
    nominal = summary.find("dr", "nominal")
    assert nominal is not None
    assert not nominal.held_out
    assert nominal.pooled.n == 20
    assert summary.find("other", "nominal") is None


def test_a_condition_partly_seen_counts_only_what_was_held_out() -> None:
    episodes = run("dr", "payload", 10, 20)
    episodes = [replace(e, held_out=e.success) for e in episodes]
    figures = summarise(episodes).suites[0].conditions[0]
    assert (figures.n, figures.seen, figures.success.value) == (10, 10, 1.0)


def test_figures_of_a_hand_worked_condition() -> None:
    episodes = [episode(case=f"payload/{k}", return_=float(r), length=10 * k, falls=k % 2, faults=k == 3, success=k > 0)
                for k, r in enumerate([5, 8, 4, 38, 8, 6, 9, 7, 7, 3, 1, 6])]  # fmt: skip
    figures = summarise(episodes).suites[0].pooled
    assert figures.return_mean.value == pytest.approx(8.5)
    assert (figures.return_iqm.value, figures.cvar.value, figures.length) == (6.5, 1.0, 55.0)
    assert (figures.falls, figures.faults, figures.violations) == (6, 1, 0)
    assert figures.success.value == pytest.approx(11 / 12)
    for metric in (figures.success, figures.return_mean, figures.return_iqm, figures.cvar):
        assert metric.low <= metric.value <= metric.high


def test_other_conditions_change_no_figure_of_this_one() -> None:
    alone = summarise(run("dr", "payload", 13, 20)).suites[0].conditions[0]
    among = summarise([*run("dr", "latency", 3, 20), *run("dr", "payload", 13, 20)]).suites[0].conditions[1]
    assert among == alone


def test_a_suite_is_held_out_when_it_is_for_every_bundle() -> None:
    train = [*run("dr", "all", 5, 5, suite="train", held_out=False), *run("plain", "all", 5, 5, suite="train")]
    assert heldout_suites([*train, *run("dr", "payload", 5, 5), *run("plain", "payload", 1, 5)]) == {"heldout"}


def test_summary_refuses_what_cannot_be_judged() -> None:
    with pytest.raises(ValueError, match="no episodes"):
        summarise([])
    with pytest.raises(ValueError, match="payload/0 of suite heldout appears twice for dr"):
        summarise([episode(), episode()])
    with pytest.raises(ValueError, match="pybullet and in mujoco"):
        summarise([episode(), episode(case="payload/1", engine="mujoco")])
    with pytest.raises(ValueError, match="holds nothing out for wide"):
        summarise([episode(), episode(bundle="wide", held_out=False)], heldout={"heldout"})


@pytest.mark.parametrize("change", [{"return_": math.nan}, {"severity": -1.0}, {"severity": math.nan}, {"length": -1}])
def test_an_impossible_episode_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="heldout:payload/0 of dr"):
        episode(**change)


def test_the_summary_is_plain_json_even_from_one_episode() -> None:
    plain = summarise([episode(severity=math.inf)]).to_json()
    read = json.loads(json.dumps(plain, allow_nan=False))
    pooled = read["suites"][0]["pooled"]
    assert pooled["return_mean"] == {"value": 1.0, "low": None, "high": None}
    assert pooled["severity"] is None
    assert read["suites"][0]["worst_condition"] == "payload"


def test_paired_difference_sees_what_unpaired_figures_cannot() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 100, size=60)  # cases differ a lot, bundles by 2 in each
    a = [episode(case=f"payload/{k}", return_=float(h) + 2 + 0.1 * (k % 3)) for k, h in enumerate(hard)]
    b = [episode(bundle="plain", case=f"payload/{k}", return_=float(h)) for k, h in enumerate(hard)]
    found = paired_difference(a, b[::-1], seed=0, metric="return_mean")
    assert found.difference.value == pytest.approx(2.1)
    assert 2.05 < found.difference.low < 2.1 < found.difference.high < 2.15
    assert (found.a, found.b, found.wins, found.losses, found.ties) == ("dr", "plain", 60, 0, 0)


def test_paired_success_counts_wins_losses_and_ties() -> None:
    a, b = run("dr", "payload", 9, 10), run("plain", "payload", 3, 10)
    found = paired_difference(a, b, seed=0)
    assert found.difference.value == pytest.approx(0.6)
    assert (found.wins, found.losses, found.ties) == (6, 0, 4)
    assert json.dumps(found.to_json(), allow_nan=False)


def test_paired_difference_refuses_different_cases() -> None:
    a, b = run("dr", "payload", 5, 10), run("plain", "payload", 5, 10)
    with pytest.raises(ValueError, match="only one of them ran heldout:payload/9"):
        paired_difference(a, b[:-1], seed=0)
    with pytest.raises(ValueError, match="from seed 0 and from seed 1"):
        paired_difference(a, [replace(e, seed=1) for e in b], seed=0)
    with pytest.raises(ValueError, match="one bundle once"):
        paired_difference([*a, *b], b, seed=0)
    with pytest.raises(ValueError, match="metrics: success, return_mean"):
        paired_difference(a, b, seed=0, metric="speed")
    with pytest.raises(ValueError, match="got none"):
        paired_difference([], b, seed=0)


def test_bundles_are_compared_on_the_cases_held_out_for_both() -> None:
    wide = [replace(e, held_out=e.case != "payload/0") for e in run("wide", "payload", 5, 10)]
    (found,) = compare_bundles([*run("dr", "payload", 9, 10), *wide], metrics=["success"])
    assert (found.n, found.wins) == (9, 4)
    three = [e for name in "abc" for e in run(name, "payload", 5, 10)]
    assert [(c.a, c.b) for c in compare_bundles(three, metrics=["success"])] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_gate_reads_the_lower_bound_of_the_worst_condition() -> None:
    summary = summarise([*run("dr", "payload", 100, 100), *run("dr", "latency", 90, 100)])
    result = Gate.parse("success >= 0.85").check(summary)
    assert not result.passed  # 90 of 100, but no more than 82.6 % is sure
    assert result.measured == pytest.approx(0.8256, abs=1e-4)
    assert (result.bundle, result.suite, result.condition) == ("dr", "heldout", "latency")
    assert "success >= 0.85 not met" in result.text
    assert "heldout/latency" in result.text
    assert Gate.parse("success>=0.82").check(summary).passed
    assert Gate.parse("heldout/payload: success > 0.95").check(summary).passed


def test_gate_reads_the_upper_bound_for_less_than() -> None:
    summary = summarise(run("dr", "payload", 10, 100))
    assert Gate.parse("success < 0.18").check(summary).passed  # upper bound .174
    assert not Gate.parse("success <= 0.17").check(summary).passed


def test_gate_asks_every_bundle() -> None:
    summary = summarise([*run("dr", "payload", 100, 100), *run("plain", "payload", 40, 100)])
    result = Gate.parse("heldout/payload:success >= 0.9").check(summary)
    assert not result.passed
    assert result.bundle == "plain"


def test_one_episode_meets_no_gate_on_return() -> None:
    result = Gate.parse("return_mean > -1e9").check(summarise([episode()]))
    assert not result.passed
    assert json.dumps(result.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("success>=0.9", (None, None, "success", ">=", 0.9)),
        ("heldout/link.trunk.mass: return_iqm > -2e1", ("heldout", "link.trunk.mass", "return_iqm", ">", -20.0)),
        (" my suite/a:b : cvar <= 5 ", ("my suite", "a:b", "cvar", "<=", 5.0)),
    ],
)
def test_gates_are_read(text: str, parts: tuple[Any, ...]) -> None:
    gate = Gate.parse(text)
    assert (gate.suite, gate.condition, gate.metric, gate.op, gate.number) == parts
    assert Gate.parse(str(gate)) == gate


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read gate"),
        ("success", "cannot read gate"),
        ("success == 1", "cannot read gate"),
        ("heldout: success > 0.9", "cannot read gate"),
        ("speed > 1", "metrics: success, return_iqm, return_mean, cvar"),
        ("success >= 90", r"success lies in \[0, 1\]"),
        ("return_mean > nan", "out of range"),
        ("return_mean > many", "'many' is not a number"),
    ],
)
def test_bad_gates_are_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Gate.parse(text)


def test_a_gate_on_a_condition_that_was_not_judged_is_refused() -> None:
    summary = summarise([*run("dr", "payload", 5, 5), *run("dr", "friction", 5, 5, held_out=False)])
    for condition in ("wind", "friction"):
        with pytest.raises(ValueError, match="judged: heldout/payload"):
            Gate.parse(f"heldout/{condition}: success > 0.5").check(summary)


def test_engines_are_compared_case_by_case_within_a_bundle() -> None:
    """8 of 10 here, the same but one there; another bundle that ran in one engine alone is left out."""
    here = run("dr", "ice", 8, 10, suite="nominal")
    there = run("dr", "ice", 7, 10, suite="nominal@mujoco", engine="mujoco")
    alone = run("plain", "ice", 2, 10, suite="nominal")
    success, returns = compare_engines([*here, *there, *alone])
    assert (success.a, success.b, success.suite, success.n) == ("dr in mujoco", "dr in pybullet", "nominal", 10)
    assert (success.wins, success.losses, success.ties) == (0, 1, 9)
    assert success.difference.value == pytest.approx(-0.1)
    assert returns.difference.value == pytest.approx(-10.0)
    assert compare_engines(here) == ()
