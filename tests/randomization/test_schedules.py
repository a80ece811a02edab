"""Parameters that change within an episode: when, by what, and the same again."""

import gymnasium
import numpy as np
import pytest
from scipy import stats

from simtoreal.randomization.randomizer import Preset, Randomizer
from simtoreal.randomization.schedules import SCHEDULES, Pace, RecordedChanges, written
from simtoreal.randomization.suites import heldout
from simtoreal.randomization.wrapper import RandomizedEnv
from simtoreal.randomization.yaml_files import ConfigFileError
from simtoreal.robots.parameters import Parameter, ParameterTable

TABLE = ParameterTable(
    [Parameter("a", "kg", 1.0, 0.0, 4.0), Parameter("b", "-", 0.0, -9.0, 9.0), Parameter("c.x", "-", 0.0, -1.0, 1.0)]
)
UP = 0.84134474606854  # the chance of a normal number up to 1
DOWN = 1.0 - UP


def randomizer(*lines):
    return Randomizer(Preset.loads("task: T\nversion: 1\nentries:\n" + "".join(f"  {line}\n" for line in lines)), TABLE)


def changes(made, steps, dt=0.02, **key):
    running = made.schedule(**{"seed": 3, "env": 0, "episode": 0} | key).begin()
    return {step: change for step in range(steps) if (change := running.due(step, dt))}


@pytest.mark.parametrize(
    ("schedule", "u", "chances", "ends"),
    [
        ("redraw", 0.5, [0.7, 0.2], [0.7, 0.2]),
        ("random_walk", 0.5, [UP, UP, DOWN, 0.5], [0.6, 0.7, 0.6, 0.6]),
        ("random_walk", 0.95, [UP, UP, DOWN], [1.0, 1.0, 0.9]),
        ("drift_up", 0.7, [UP, DOWN, 0.5, UP, UP], [0.8, 0.9, 0.9, 1.0, 1.0]),
        ("drift_down", 0.25, [UP, DOWN, UP], [0.15, 0.05, 0.0]),
        ("cycle_up", 0.75, [UP, DOWN, UP, UP], [0.85, 0.95, 0.75, 0.85]),
        ("cycle_down", 0.25, [UP, UP, DOWN], [0.15, 0.05, 0.25]),
        ("saw", 0.85, [UP, UP, DOWN, UP], [0.95, 1.0, 0.9, 0.8]),
    ],
)
def test_each_schedule_by_hand(schedule, u, chances, ends):
    pace, first, rising, found = Pace(1.0, schedule, 0.1), u, True, []
    for chance in chances:
        u, rising = pace.follow(u, first, rising, chance)
        found.append(u)
    assert found == pytest.approx(ends, abs=1e-9)


def test_a_saw_comes_up_again():
    pace, u, rising, found = Pace(1.0, "saw", 0.3), 0.5, True, []
    for _ in range(12):
        u, rising = pace.follow(u, 0.5, rising, UP)
        found.append(round(u, 9))
    assert found == [0.8, 1.0, 0.7, 0.4, 0.1, 0.0, 0.3, 0.6, 0.9, 1.0, 0.7, 0.4]


def test_it_changes_at_its_time_within_its_range():
    made = randomizer("a: {uniform: [0.5, 1.5], every: 0.5}", "b: {uniform: [-1, 1], every: 0.05, schedule: saw}")
    found = changes(made, 101)
    assert [step for step, change in found.items() if "a" in change] == [25, 50, 75, 100]
    assert [step for step, change in found.items() if "b" in change] == [*range(2, 101, 2)]  # 2.5 steps, to even
    assert all(0.5 <= change["a"] <= 1.5 for change in found.values() if "a" in change)
    assert len({change["a"] for change in found.values() if "a" in change}) == 4


def test_it_goes_on_from_what_the_episode_began_with():
    made = randomizer("b: {uniform: [-1, 1], every: 0.02, schedule: random_walk, step: 0.01}")
    path = [made.draw(3, 0, 0)["b"], *(change["b"] for change in changes(made, 400).values())]
    steps = np.diff(path) / 2.0  # shares of the range
    assert steps.std() == pytest.approx(0.01, rel=0.12)
    assert stats.kstest(steps / 0.01, "norm").pvalue > 0.01


def test_redrawn_values_are_of_the_distribution():
    made = randomizer("a: {log_uniform: [0.1, 4.0], every: 0.02}")
    drawn = [change["a"] for change in changes(made, 2000).values()]
    assert stats.kstest(drawn, stats.loguniform(0.1, 4.0).cdf).pvalue > 0.01


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_episode_s_changes_are_its_own(schedule):
    line = f"a: {{uniform: [0, 2], every: 0.04, schedule: {schedule}}}"
    alone, more = randomizer(line), randomizer("b: {uniform: [-1, 1], every: 0.02}", line)
    first = changes(alone, 50)
    assert changes(alone, 50) == first
    assert {step: {"a": c["a"]} for step, c in changes(more, 50).items() if "a" in c} == first
    assert changes(alone, 50, episode=1) != first != changes(alone, 50, env=1)
    assert changes(alone, 50, seed=4) != first


def test_what_is_shared_changes_together():
    made = randomizer("b: {uniform: [-1, 1], every: 0.1, shared: s}", "c.*: {uniform: [-1, 1], every: 0.1, shared: s}")
    for change in changes(made, 30).values():
        assert change["b"] == change["c.x"]


def test_of_a_width_it_is_that_share_of_the_way_from_nominal():
    made = randomizer("a: {uniform: [0, 2], every: 0.1}")
    whole, half = changes(made, 30), changes(made, 30, width=0.5)
    assert [c["a"] for c in half.values()] == pytest.approx([1.0 + 0.5 * (c["a"] - 1.0) for c in whole.values()])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a: {uniform: [0, 1], every: 0}", r"<text>:4: a: every must be seconds above 0, got 0"),
        ("a: {uniform: [0, 1], every: often}", r'<text>:4: every of a must be a number, got "often"'),
        (
            "a: {uniform: [0, 1], every: 1, schedule: sine}",
            "schedule must be one of redraw, random_walk, .*, got 'sine'",
        ),
        (
            "a: {uniform: [0, 1], every: 1, schedule: saw, step: 2}",
            r"step must be a share of the range in \(0, 1\], got 2",
        ),
        ("a: {uniform: [0, 1], every: 1, step: 0.2}", "step of a is of a schedule that moves by steps: random_walk, "),
        ("a: {constant: 1, every: 1}", "<text>:4: every of a is for what is drawn; a constant does not change"),
        (
            "a: {uniform: [0, 1], every: 1, shared: s}\n  b: {uniform: [0, 1], every: 2, shared: s}",
            r"<text>:5: b: shares s with a \(<text>:4\): every, schedule and step must be alike",
        ),
        ("a: {uniform: [0, 1], schedule: saw}", "schedule of a is for what changes: say every how many seconds"),
        ("a: {uniform: [0, 1], evry: 1}", "evry"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_line(line, words):
    with pytest.raises(ConfigFileError, match=words):
        randomizer(line)


def test_files_and_held_out_suites_keep_it():
    line = "a: {uniform: [0.5, 1.5], every: 0.5, schedule: cycle_up, step: 0.2}"
    preset = randomizer(line).preset
    assert Preset.loads(f"task: T\nversion: 1\nentries:\n  {line}\n") == preset
    assert preset.to_data()["entries"]["a"] == {
        "uniform": [0.5, 1.5],
        "every": 0.5,
        "schedule": "cycle_up",
        "step": 0.2,
    }
    tails = heldout(preset, TABLE)["conditions"]["a"]["a"]
    assert tails == {"intervals": [[0.0, 0.5], [1.5, 2.5]], "every": 0.5, "schedule": "cycle_up", "step": 0.2}


def test_the_ranges_version_knows_of_it():
    plain, moving = randomizer("a: {uniform: [0, 1]}"), randomizer("a: {uniform: [0, 1], every: 1}")
    assert plain.version != moving.version != randomizer("a: {uniform: [0, 1], every: 2}").version
    assert plain.schedule(0, 0, 0) is None


class Recorder(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    parameters, control_dt = TABLE, 0.1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = TABLE.complete(options["parameters"])
        self.seen = []
        return np.zeros(1, np.float32), {"parameters": dict(self.now)}

    def set_parameters(self, values):
        self.now = TABLE.complete(values, self.now)
        return dict(self.now)

    def step(self, action):
        self.seen.append(dict(self.now))
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_an_environment_s_parameters_change_before_the_step_that_they_are_due_in():
    env = RandomizedEnv(
        Recorder(), randomizer("a: {uniform: [0, 2], every: 0.3}", "b: {uniform: [-1, 1], every: 0.1}"), 7
    )
    found = []
    for options in (None, {"parameters": {"b": 5.0}}, None):
        env.reset(options=options)
        for _ in range(10):
            env.step(np.zeros(1, np.float32))
        found.append(env.unwrapped.seen)
    a = [[seen["a"] for seen in run] for run in found]
    assert a[0][0] == a[0][2] != a[0][3] == a[0][5] != a[0][6]
    assert len({seen["b"] for seen in found[0]}) == 10
    assert {seen["b"] for seen in found[1]} == {5.0}  # what the caller sets stays
    env.set_next_episode(None, 0)
    env.reset()
    for _ in range(10):
        env.step(np.zeros(1, np.float32))
    assert env.unwrapped.seen == found[0]


def test_recorded_changes_are_read_as_they_were():
    made = randomizer("a: {uniform: [0, 2], every: 0.3}")
    found = changes(made, 50, dt=0.1)
    again = RecordedChanges.read(written(found))
    assert {step: change for step in range(50) if (change := again.due(step, 0.1))} == found
    assert written({}) == ""
    for text in ("[1]", '{"x": {"a": 1}}', '{"3": 1}', '{"3": {"a": "x"}}', "{"):
        with pytest.raises(ValueError):  # noqa: PT011 (of several kinds)
            RecordedChanges.read(text)
