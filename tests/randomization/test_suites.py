from __future__ import annotations

import gymnasium
import pytest

from simtoreal.randomization import suites
from simtoreal.randomization.randomizer import Preset, Randomizer
from simtoreal.randomization.signals import SignalsEnv
from simtoreal.randomization.suites import NothingHeldOutError, Suite, heldout, is_held_out, severity, write_suite
from simtoreal.randomization.yaml_files import ConfigFileError, dump_yaml

TEXT = """\
task: Toy
name: hard
version: 2
conditions:
  payload: {link.base.mass: {uniform: [8, 12]}}
  ice:
    ground.friction: 0.2
    actuator.latency: {uniform: [0, 0.05]}
  nominal: {}
"""


@pytest.fixture
def suite(table):
    return Suite.loads(TEXT, table, "hard.yaml")


def test_cases_come_in_the_files_order(suite):
    cases = list(suite.cases(seed=0, episodes=3))
    assert [case.name for case in cases] == [f"{c}/{k}" for c in ("payload", "ice", "nominal") for k in range(3)]
    assert all(8 <= case.parameters["link.base.mass"] <= 12 for case in cases[:3])
    assert {case.parameters["ground.friction"] for case in cases[3:6]} == {0.2}
    assert cases[-1].parameters == {}
    assert len({case.seed for case in cases}) == 9


def test_other_conditions_and_more_episodes_change_nothing(suite, table):
    fewer = Suite.loads(TEXT.replace("  payload: {link.base.mass: {uniform: [8, 12]}}\n", ""), table)
    wanted = {case.name: case for case in suite.cases(seed=4, episodes=50)}
    for case in fewer.cases(seed=4, episodes=5):
        assert wanted[case.name] == case
    assert suite.case("ice/3", seed=4) == wanted["ice/3"]


def test_conditions_and_seeds_draw_differently(table):
    same = "{ground.friction: {uniform: [0.5, 1]}}"
    twin = Suite.loads(f"task: Toy\nname: a\nversion: 1\nconditions: {{a: {same}, b: {same}}}", table)
    values = [twin.conditions[c].draw(seed, k)["ground.friction"] for c in "ab" for seed in (0, 1) for k in (0, 1)]
    assert len(set(values)) == 8


def test_no_case_repeats_a_training_draw(suite, table):
    trained = Randomizer(Preset.loads("task: T\nversion: 1\nentries: {link.base.mass: {uniform: [8, 12]}}"), table)
    drawn = {trained.draw(0, env, k)["link.base.mass"] for env in range(8) for k in range(50)}
    assert not drawn & {suite.conditions["payload"].draw(0, k)["link.base.mass"] for k in range(50)}


def test_heldout_spans_one_width_beyond_each_edge(preset_text, table):
    data = heldout(Preset.loads(preset_text), table)
    tails = {
        condition: {name: row["intervals"] for name, row in rows.items()}
        for condition, rows in data["conditions"].items()
    }
    assert tails["ground.friction"] == {"ground.friction": [[0.1, 0.5], [1.25, 2.0]]}  # -0.25 clipped at 0.1
    assert tails["actuator.latency"] == {"actuator.latency": [[0.02, 0.04]]}  # nominal is the lower bound
    assert tails["link.arm.com.x"] == {"link.arm.com.x": [[-0.05, 0.05], [0.15, 0.25]]}
    assert tails["link.each.mass"] == {
        "link.base.mass": [[1.6, 3.2], [4.8, 6.4]],
        "link.arm.mass": [[0.8, 1.6], [2.4, 3.2]],
    }
    assert list(tails) == ["link.each.mass", "link.arm.com.x", "joint.each.damping", "ground.friction",
                           "actuator.latency", "all"]  # fmt: skip
    assert set(tails["all"]) == set(table)


def test_what_applies_in_steps_is_held_out_from_where_another_step_is_the_nearest():
    """Holding actions for 1 or 2 steps: 2.5 comes to another, 3. Late by 0 to 1 step of 20 ms: 2 are from 30 ms on."""
    table = SignalsEnv(gymnasium.make("Pendulum-v1").unwrapped, control_dt=0.02).parameters
    late = "actuator.latency: {uniform: [0, 0.02]}, sensor.latency: {uniform: [0, 0.015]}"
    entries = f"actuator.repeat: {{choice: [1, 2]}}, {late}"
    conditions = heldout(Preset.loads(f"task: Pendulum-v1\nversion: 1\nentries: {{{entries}}}"), table)["conditions"]
    assert conditions["actuator.repeat"]["actuator.repeat"]["intervals"] == [[2.5, 3.5]]
    assert conditions["actuator.latency"]["actuator.latency"]["intervals"] == [[0.03, 0.05]]
    assert conditions["sensor.latency"]["sensor.latency"]["intervals"] == [[0.03, 0.05]]


def test_every_heldout_case_is_held_out_and_within_bounds(tmp_path, preset_text, table):
    preset = Preset.loads(preset_text)
    path = tmp_path / "heldout.yaml"
    write_suite(path, heldout(preset, table), "Made from the preset Toy.")
    suite = Suite.load(path, table)
    ranges = Randomizer(preset, table).ranges
    assert suite.held_out
    assert all(suite.held_out_cases(0, 50, ranges, table).values())
    for case in suite.cases(0, 50):
        assert 0 < severity(case.parameters, ranges, table) <= 1 + 1e-9
        for name, value in case.parameters.items():
            assert table[name].low <= value <= table[name].high


def test_heldout_keeps_what_is_shared_together(preset_text, table):
    suite = Suite.loads(dump_yaml(heldout(Preset.loads(preset_text), table)), table)
    for k in range(20):
        draw = suite.conditions["joint.each.damping"].draw(0, k)
        assert draw["joint.left.damping"] / 0.1 == pytest.approx(draw["joint.right.damping"] / 0.2)


def test_a_side_on_which_nominal_is_a_bound_has_no_tail(table):
    preset = Preset.loads("task: T\nversion: 1\nentries: {actuator.latency: {uniform: [0.01, 0.02]}}")
    conditions = heldout(preset, table)["conditions"]
    assert conditions["actuator.latency"]["actuator.latency"] == {"intervals": [[0.02, 0.03]]}


@pytest.mark.parametrize("entries", ["{}", "{ground.friction: 0.5}", "{ground.friction: {uniform: [0.1, 2.0]}}"])
def test_a_preset_that_leaves_no_room_is_refused(entries, table):
    with pytest.raises(ValueError, match="leaves no room outside its ranges"):
        heldout(Preset.loads(f"task: Toy\nversion: 1\nentries: {entries}"), table)


def test_train_and_nominal_suites(preset_text, table):
    preset = Preset.loads(preset_text)
    ranges = Randomizer(preset, table).ranges
    train = Suite.loads(dump_yaml(suites.train(preset)), table)
    assert train.conditions["train"].ranges == ranges
    nominal = Suite.loads(dump_yaml(suites.nominal("Toy")), table)
    assert nominal.case("nominal/0", seed=0).parameters == {}
    for suite in (train, nominal):
        assert not any(suite.held_out_cases(0, 20, ranges, table).values())


def test_seen_cases_are_labelled(table):
    """Trained on friction up to 1.5, the cases below it are seen and the others held out."""
    conditions = "{slick: {ground.friction: {uniform: [1.0, 2.0]}}, heavy: {link.base.mass: 9}}"
    suite = Suite.loads(f"task: T\nname: s\nversion: 1\nheld_out: true\nconditions: {conditions}", table)
    ranges = {"ground.friction": (0.5, 1.5)}
    labels = suite.held_out_cases(0, 100, ranges, table)
    for case in suite.cases(0, 100):
        assert labels[case.name] == (case.condition == "heavy" or case.parameters["ground.friction"] > 1.5)
    assert 0 < sum(labels[f"slick/{k}"] for k in range(100)) < 100


def test_a_heldout_suite_with_nothing_outside_is_refused(preset_text, table):
    suite = Suite.loads(dump_yaml(heldout(Preset.loads(preset_text), table)), table)
    everything = {name: (parameter.low, parameter.high) for name, parameter in table.items()}
    with pytest.raises(
        NothingHeldOutError, match=r"suite heldout: none of its 18 cases lies outside the training ranges"
    ):
        suite.held_out_cases(0, 3, everything, table)


@pytest.mark.parametrize(
    ("values", "ranges", "expected"),
    [
        ({}, {}, False),
        ({"ground.friction": 0.8}, {}, False),
        ({"ground.friction": 0.81}, {}, True),  # fixed at nominal in training
        ({"ground.friction": 0.8 + 1e-9}, {}, False),  # an engine's rounding
        ({"ground.friction": 1.2}, {"ground.friction": (0.5, 1.2)}, False),
        ({"ground.friction": 1.21}, {"ground.friction": (0.5, 1.2)}, True),
        ({"ground.friction": 0.49}, {"ground.friction": (0.5, 1.2)}, True),
        ({}, {"ground.friction": (0.9, 1.2)}, True),  # nominal itself was never seen
        ({"ground.friction": 1.0, "link.base.mass": 5.0}, {"ground.friction": (0.5, 1.2)}, True),
    ],
)
def test_held_out_is_outside_what_was_trained(values, ranges, expected, table):
    assert is_held_out(values, ranges, table) is expected


def test_names_the_table_lacks_are_refused(table):
    with pytest.raises(ValueError, match=r'no parameter "ground.frction"; did you mean ground.friction\?'):
        is_held_out({"ground.frction": 1.0}, {}, table)
    with pytest.raises(ValueError, match="no parameter"):
        severity({}, {"ground.frction": (0.0, 1.0)}, table)


def test_severity_counts_widths_beyond_the_range(table):
    ranges = {"ground.friction": (0.5, 1.0), "link.base.mass": (3.0, 5.0)}
    assert severity({"ground.friction": 0.5, "link.base.mass": 5.0}, ranges) == 0
    assert severity({"ground.friction": 1.25, "link.base.mass": 5.2}, ranges) == pytest.approx(0.5)
    assert severity({"ground.friction": 1.25, "link.base.mass": 1.0}, ranges) == pytest.approx(1.0)
    assert severity({"actuator.latency": 0.05}, ranges) == 0
    assert severity({"actuator.latency": 0.05}, ranges, table) == pytest.approx(0.5)  # of valid bounds 0 to 0.1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: hard", "nme: hard", 'hard.yaml:2: unknown key "nme" in the file; did you mean name?'),
        ("name: hard", "name: a b", 'hard.yaml:2: name must be letters, digits, _ . -, got "a b"'),
        ("version: 2", "version: 0", "hard.yaml:3: version must be a whole number from 1, got 0"),
        ("version: 2", "version: 2\nheld_out: 1", "hard.yaml:4: held_out must be true or false, got 1"),
        ("payload:", "pay/load:", 'hard.yaml:5: a condition\'s name must be letters, digits, _ . -, got "pay/load"'),
        (
            "ground.friction: 0.2",
            "ground.friction: 0.02",
            "hard.yaml:7: ground.friction: range [0.02, 0.02] of ground.fr",
        ),
        ("actuator.latency:", "actuator.delay:", "hard.yaml:8: actuator.delay: no such parameter; "),
        ("nominal: {}", "ice: {}", 'hard.yaml:9: duplicate key "ice", first on line 6'),
        ("nominal: {}", "nominal:", "hard.yaml:9: conditions.nominal must be a mapping (key: value), got None"),
    ],
)
def test_files_are_refused_with_their_line(old, new, message, table):
    with pytest.raises(ConfigFileError) as caught:
        Suite.loads(TEXT.replace(old, new), table, "hard.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_suite_needs_conditions(table):
    with pytest.raises(ConfigFileError, match=r"^s.yaml:4: conditions is empty: a suite needs at least one$"):
        Suite.loads("task: T\nname: s\nversion: 1\nconditions: {}", table, "s.yaml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("paylod/1", r'no condition "paylod" in suite hard; did you mean payload\?'),
        ("payload", 'no condition ""'),
        ("payload/x", "a case is condition/number"),
        ("payload/-1", "a case is condition/number"),
    ],
)
def test_cases_that_are_none(name, message, suite):
    with pytest.raises(ValueError, match=message):
        suite.case(name, seed=0)


def test_condition_names_stay_unique_and_plain(table):
    preset = Preset.loads("task: T\nversion: 1\nentries:\n  '*': {scale: {uniform: [0.9, 1.1]}}", "p.yaml")
    del table["actuator.latency"]
    assert set(heldout(preset, table)["conditions"]) == {"each", "all"}
