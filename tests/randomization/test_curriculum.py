from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simtoreal.randomization.curriculum import Boundary, Curriculum, CurriculumSettings, Move, MovingRanges, Outcome
from simtoreal.randomization.distributions import Constant, LogUniform, Uniform
from simtoreal.randomization.randomizer import Preset, Randomizer
from simtoreal.randomization.wrapper import RandomizedEnv


@pytest.fixture
def ranges(preset_text, table):
    """Of nominal .8 friction in [.5, 1.25], of no latency in [0, .02], of masses and dampings times something."""
    return MovingRanges(Randomizer(Preset.loads(preset_text), table), table)


@pytest.fixture
def moving(table):
    def make(entries):
        preset = Preset.loads(f"task: Toy\nversion: 1\nentries:\n  {entries}")
        return MovingRanges(Randomizer(preset, table), table)

    return make


def curriculum(ranges, **given):
    return Curriculum(CurriculumSettings(**given), ranges)


def test_an_end_at_nominal_is_no_boundary(ranges):
    assert [str(boundary) for boundary in ranges.boundaries] == [
        *("link.*.mass/low", "link.*.mass/high", "link.arm.com.x/low", "link.arm.com.x/high"),
        *("joint.*.damping/low", "joint.*.damping/high", "ground.friction/low", "ground.friction/high"),
        "actuator.latency/high",
    ]


def test_extents_are_shares_of_the_way_to_the_presets_ends(ranges):
    extents = np.zeros(9)
    extents[[0, 3, 6, 7, 8]] = [1.0, 1.0, 0.5, 0.2, 0.5]
    found = ranges.at(extents)
    assert found.ranges == {
        "link.base.mass": (3.2, 4.0),  # from 80 % of 4 kg
        "link.arm.mass": (1.6, 2.0),
        "link.arm.com.x": (0.1, pytest.approx(0.15)),
        "joint.left.damping": (0.1, 0.1),
        "joint.right.damping": (0.2, 0.2),
        "ground.friction": (pytest.approx(0.65), pytest.approx(0.89)),
        "actuator.latency": (0.0, 0.01),
    }
    kinds = {name: type(distribution) for name, distribution in found.distributions.items()}
    assert kinds == {name: Constant if "damping" in name else Uniform for name in kinds}
    assert ranges.at(extents).draw(0, 0, 0).keys() == ranges.whole.draw(0, 0, 0).keys()


def test_at_extent_0_everything_is_nominal_and_each_state_has_its_own_version(ranges, table):
    nothing = ranges.at(np.zeros(9))
    assert nothing.draw(5, 1, 2) == {name: table[name].nominal for name in nothing.names}
    versions = {ranges.at(np.eye(9)[i] * extent).version for i in range(9) for extent in (0.25, 0.5)}
    assert len(versions | {nothing.version, ranges.whole.version}) == 20


def test_beyond_the_preset_ranges_go_on_to_the_parameters_bounds(ranges):
    extents = np.zeros(9)
    extents[[6, 7]] = [2.5, 2.0]
    assert ranges.at(extents).ranges["ground.friction"] == (pytest.approx(0.1), pytest.approx(1.7))


def test_shapes(moving):
    found = moving(
        "ground.friction: {log_uniform: [0.4, 1.6]}\n"
        "  link.base.mass: {choice: [3, 5]}\n"
        "  joint.left.damping: {constant: 0.3}\n"
        "  joint.right.damping: {uniform: [0.4, 0.6]}\n"
    )
    assert [str(b) for b in found.boundaries] == [
        "joint.right.damping/high", "ground.friction/low", "ground.friction/high",
    ]  # fmt: skip
    drawn = found.at(np.full(3, 0.5)).distributions
    assert isinstance(drawn["ground.friction"], LogUniform)
    assert drawn["ground.friction"].bounds == pytest.approx((0.6, 1.2))
    assert isinstance(drawn["joint.right.damping"], Uniform)
    assert drawn["joint.right.damping"].bounds == pytest.approx((0.2, 0.4))  # from nominal, which the preset leaves out
    assert drawn["link.base.mass"] == found.whole.distributions["link.base.mass"]
    assert drawn["joint.left.damping"] == Constant(0.3)


def test_the_entropy_is_the_mean_logarithm_of_the_widths(ranges):
    assert ranges.entropy(np.ones(9)) == pytest.approx(0.0)
    assert ranges.entropy(np.full(9, 2.0)) == pytest.approx(math.log(2.0))
    assert ranges.entropy(np.zeros(9)) == pytest.approx(math.log(0.01))  # as narrow as counts
    extents = np.ones(9)
    extents[[0, 1]] = [0.5, 0.1]  # one entry of five at .3 of the width
    assert ranges.entropy(extents) == pytest.approx(math.log(0.3) / 5)


def test_a_share_of_the_episodes_stands_at_a_boundary_each_as_often(ranges):
    found = Counter(ranges.probed(0.4, 3, env, episode) for env in range(8) for episode in range(1000))
    inside = found.pop(None)
    assert inside == pytest.approx(4800, abs=4 * math.sqrt(8000 * 0.4 * 0.6))
    assert len(found) == 9
    assert all(abs(count - 3200 / 9) < 4.5 * math.sqrt(3200 / 9) for count in found.values())
    assert ranges.probed(0.4, 3, 5, 77) == ranges.probed(0.4, 3, 5, 77)
    assert {ranges.probed(1.0, 0, 0, k) is None for k in range(100)} == {False}
    assert {ranges.probed(0.0, 0, 0, k) for k in range(100)} == {None}


def test_at_a_boundary_all_of_an_entry_stand_there(ranges):
    extents = np.full(9, 0.5)
    assert ranges.standing_at(0, extents) == {"link.base.mass": 3.6, "link.arm.mass": 1.8}
    assert ranges.standing_at(8, extents) == {"actuator.latency": 0.01}


def test_a_full_queue_moves_its_boundary_and_begins_anew(ranges):
    adr = curriculum(ranges, queue=3, high=0.6, low=0.3, step=0.5)
    assert not adr.take(10, [Outcome(7, 1.0), Outcome(None, 0.0), Outcome(6, 0.0)])
    assert not adr.take(20, [Outcome(7, 1.0)])
    assert adr.take(30, [Outcome(7, 0.0)])  # 2 of 3
    assert adr.moves == [Move(30, 7, 0.5)]
    assert not adr.take(40, [Outcome(7, 1.0), Outcome(7, 0.0)])
    assert not adr.take(50, [Outcome(7, 0.5)])  # in between: the mean goes on moving
    assert adr.take(60, [Outcome(7, 1.0), Outcome(7, 1.0)])
    assert adr.take(70, [Outcome(7, 0.0)] * 3)
    assert [(move.step, move.extent) for move in adr.moves] == [(30, 0.5), (60, 1.0), (70, 0.5)]
    assert (adr.extents[7], adr.widest[7], adr.extents.sum()) == (0.5, 1.0, 0.5)
    assert adr.drawn_from.ranges["ground.friction"] == (0.8, 1.25)


def test_boundaries_stay_between_nominal_and_the_limit(ranges):
    adr = curriculum(ranges, queue=1, step=0.4, limit=1.0)
    adr.take(1, [Outcome(0, 0.0)])
    assert adr.moves == []
    adr.take(2, [Outcome(0, 1.0)] * 5)
    assert [move.extent for move in adr.moves] == pytest.approx([0.4, 0.8, 1.0])
    assert curriculum(ranges, queue=1, step=1.5, limit=3.0).take(1, [Outcome(0, 1.0)])


def test_by_success_all_move_together_by_all_episodes(ranges):
    success = curriculum(ranges, kind="success", queue=2, high=0.8, low=0.2, step=0.25)
    assert success.settings.probes == 0.0
    success.take(5, [Outcome(None, 1.0)])
    assert success.take(6, [Outcome(None, 1.0)])
    assert success.extents.tolist() == [0.25] * 9
    assert len(success.moves) == 9
    success.take(7, [Outcome(None, 0.0)] * 2)
    assert success.extents.tolist() == [0.0] * 9
    assert success.widest.tolist() == [0.25] * 9


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    outcomes=st.lists(st.tuples(st.integers(0, 8), st.sampled_from([0.0, 0.5, 1.0])), max_size=60),
    cut=st.integers(0, 60),
)
def test_it_goes_on_from_its_state(ranges, outcomes, cut):
    whole, first, second = (curriculum(ranges, queue=2, step=0.3) for _ in range(3))
    steps = list(enumerate(outcomes))
    for k, (boundary, performance) in steps:
        whole.take(k, [Outcome(boundary, performance)])
    for k, (boundary, performance) in steps[:cut]:
        first.take(k, [Outcome(boundary, performance)])
    second.load_state_dict(first.state_dict())
    for k, (boundary, performance) in steps[cut:]:
        second.take(k, [Outcome(boundary, performance)])
    for name, array in whole.state_dict().items():
        assert np.isfinite(array).all()
        np.testing.assert_array_equal(array, second.state_dict()[name])


def test_anothers_state_is_refused(ranges):
    adr = curriculum(ranges, queue=2)
    with pytest.raises(ValueError, match="expected extents, filled, moves, queues, widest"):
        adr.load_state_dict({})
    with pytest.raises(ValueError, match=r"queues of shape \(9, 2\), expected \(9, 3\)"):
        curriculum(ranges, queue=3).load_state_dict(adr.state_dict())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "other"}, "kind must be one of adr, success"),
        ({"share": 0.0}, "share must lie in"),
        ({"queue": 0}, "queue must be from 1 to 10000"),
        ({"high": 0.2}, "low must lie below high"),
        ({"high": 1.5}, r"high of successes must lie in \(0, 1\], got 1.5"),
        ({"high": math.nan}, "low must lie below high"),
        ({"step": 2.0}, "step must be from 0.001 to the limit, got step 2.0 and limit 1.0"),
        ({"step": 1e-12}, "step must be from 0.001 to the limit, got step 1e-12"),
        ({"metric": "return"}, "high and low must be given"),
        ({"metric": "return", "high": 1.0}, "high and low must be given"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        CurriculumSettings(**wrong)


def test_a_preset_without_a_range_has_nothing_to_widen(moving):
    with pytest.raises(ValueError, match="no range that could widen"):
        Curriculum(CurriculumSettings(), moving("ground.friction: {constant: 0.7}"))


def test_environments_draw_within_the_extents_and_say_where_they_stood(block, ranges):
    class Short(block):
        def step(self, action):
            return (*super().step(action)[:3], True, {})

    env = RandomizedEnv(Short(), ranges.whole, seed=4, curriculum=ranges, probes=0.5)
    _, info = env.reset()
    assert info["parameters"]["ground.friction"] == 0.8
    extents = np.full(9, 0.5)
    env.set_extents(extents)
    assert env.extents.tolist() == [0.0] * 9, "of the running episode"
    stood = Counter()
    for episode in range(1, 200):
        _, info = env.reset()
        assert info["draw"]["version"] == ranges.at(extents).version
        *_, last = env.step(np.zeros(1, np.float32))
        index = last["boundary"]
        stood[index] += 1
        expected = ranges.at(extents).draw(4, 0, episode)
        if index >= 0:
            expected |= ranges.standing_at(index, extents)
        assert info["parameters"].items() >= expected.items()
    assert stood[-1] == pytest.approx(100, abs=28)
    assert len(stood) == 10


def test_what_stands_at_a_boundary_does_not_move_within_the_episode(block, moving):
    class Moves(block):
        control_dt = 0.02

        def set_parameters(self, values):
            self.values |= values

    found = moving("ground.friction: {uniform: [0.5, 1.25], every: 0.02}")
    env = RandomizedEnv(Moves(), found.whole, seed=0, curriculum=found, probes=1.0)
    env.set_extents(np.ones(2))
    for _ in range(5):
        env.reset()
        start = env.unwrapped.values["ground.friction"]
        assert start in (0.5, 1.25)
        for _ in range(4):
            env.step(np.zeros(1, np.float32))
        assert env.unwrapped.values["ground.friction"] == start


def test_without_a_curriculum_ranges_do_not_move(block, ranges):
    env = RandomizedEnv(block(), ranges.whole)
    with pytest.raises(ValueError, match="no curriculum"):
        env.set_extents(np.zeros(9))
    moved = RandomizedEnv(block(), ranges.whole, curriculum=ranges)
    with pytest.raises(ValueError, match="extents must be 9 numbers from 0"):
        moved.set_extents(np.zeros(3))
    with pytest.raises(ValueError, match="extents must be 9 numbers from 0"):
        moved.set_extents(-np.ones(9))


def test_a_boundary_is_named_by_entry_and_end():
    assert str(Boundary("link.*.mass", "low")) == "link.*.mass/low"
    assert replace(CurriculumSettings(), step=0.5).thresholds == (0.25, 0.75)


def test_a_boundary_goes_no_farther_than_its_parameters_bounds(moving):
    found = moving("actuator.latency: {uniform: [0.0, 0.05]}\n  ground.friction: {uniform: [0.1, 1.4]}\n")
    assert [str(b) for b in found.boundaries] == [
        "ground.friction/low",
        "ground.friction/high",
        "actuator.latency/high",
    ]
    adr = curriculum(found, queue=1, step=1.0, limit=5.0)
    adr.take(1, [Outcome(i, 1.0) for i in (0, 1, 2) for _ in range(6)])
    assert adr.extents.tolist() == [1.0, pytest.approx(2.0), pytest.approx(2.0)], "at the bounds"
    assert len(adr.moves) == 5
