from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import time
import timeit

import pytest

from simtoreal.randomization.philox import uniforms
from simtoreal.randomization.randomizer import Preset, Randomizer
from simtoreal.randomization.yaml_files import ConfigFileError, dump_yaml


def randomizer(entries, table):
    """The randomizer of a preset whose entries start on line 4 of toy.yaml."""
    return Randomizer(Preset.loads(f"task: Toy\nversion: 1\nentries:\n{entries}\n", "toy.yaml"), table)


def test_ranges_are_in_the_parameters_units(preset_text, table):
    ranges = Randomizer(Preset.loads(preset_text), table).ranges
    expected = {
        "link.base.mass": (3.2, 4.8),
        "link.arm.mass": (1.6, 2.4),
        "link.arm.com.x": (0.05, 0.15),
        "joint.left.damping": (0.05, 0.15),
        "joint.right.damping": (0.1, 0.3),
        "ground.friction": (0.5, 1.25),
        "actuator.latency": (0.0, 0.02),
    }
    assert list(ranges) == list(expected)
    for name, pair in expected.items():
        assert ranges[name] == pytest.approx(pair)


def test_a_draw_is_the_quantile_of_its_names_number(table):
    drawn = randomizer("  ground.friction: {uniform: [0.5, 1.5]}", table).draw(3, 4, 5)
    assert drawn == {"ground.friction": pytest.approx(0.5 + uniforms(3, 4, 5, ["ground.friction"])[0])}


def test_draws_stay_in_their_ranges_and_differ(preset_text, table):
    r = Randomizer(Preset.loads(preset_text), table)
    draws = [r.draw(0, env, episode) for env in range(10) for episode in range(10)]
    for name, (low, high) in r.ranges.items():
        values = [draw[name] for draw in draws]
        assert low <= min(values) < max(values) <= high
        assert len(set(values)) == 100


def test_adding_a_name_changes_no_other_draw(table):
    few = randomizer("  ground.friction: {uniform: [0.5, 1.25]}", table)
    more = randomizer(
        "  link.*.mass: {scale: {uniform: [0.8, 1.2]}}\n  ground.friction: {uniform: [0.5, 1.25]}\n"
        "  actuator.latency: {uniform: [0, 0.02]}",
        table,
    )
    for key in [(0, 0, 0), (1, 2, 3), (2**64 - 1, 2**31, 9)]:
        assert more.draw(*key)["ground.friction"] == few.draw(*key)["ground.friction"]


def test_a_larger_table_changes_no_draw(preset_text, table):
    larger = {"a.first": table["ground.friction"]} | dict(reversed(table.items()))
    preset = Preset.loads(preset_text)
    assert Randomizer(preset, larger).draw(1, 2, 3) == Randomizer(preset, table).draw(1, 2, 3)


def test_copies_draw_the_same(preset_text, table):
    r = Randomizer(Preset.loads(preset_text), table)
    assert pickle.loads(pickle.dumps(r)).draw(5, 6, 7) == copy.deepcopy(r).draw(5, 6, 7) == r.draw(5, 6, 7)


def test_matches_draw_each_unless_shared(table):
    each = randomizer("  joint.*.damping: {scale: {uniform: [0.5, 1.5]}}", table).draw(0, 0, 0)
    shared = randomizer("  joint.*.damping: {scale: {uniform: [0.5, 1.5]}, shared: true}", table).draw(0, 0, 0)
    assert each["joint.left.damping"] / 0.1 != pytest.approx(each["joint.right.damping"] / 0.2)
    assert shared["joint.left.damping"] / 0.1 == pytest.approx(shared["joint.right.damping"] / 0.2)


def test_entries_may_share_a_named_number(table):
    draw = randomizer(
        "  joint.left.damping: {uniform: [0, 1], shared: wear}\n  joint.right.damping: {uniform: [0, 1], shared: wear}",
        table,
    ).draw(0, 0, 0)
    assert draw["joint.left.damping"] == draw["joint.right.damping"]


@pytest.mark.parametrize("order", [1, -1])
def test_an_exact_name_wins_over_a_pattern(order, table):
    lines = ["  link.*.mass: {scale: {uniform: [0.8, 1.2]}}", "  link.arm.mass: 3.5"]
    r = randomizer("\n".join(lines[::order]), table)
    assert r.ranges["link.arm.mass"] == (3.5, 3.5)
    assert r.ranges["link.base.mass"] == pytest.approx((3.2, 4.8))


def test_constants_may_be_bare(table):
    r = randomizer("  ground.friction: 0.3\n  link.base.mass: {scale: 1.5}\n  link.arm.com.x: {offset: -0.1}", table)
    assert r.draw(0, 0, 0) == pytest.approx({"ground.friction": 0.3, "link.base.mass": 6.0, "link.arm.com.x": 0.0})


def test_a_negative_nominal_scales(table):
    table["x"] = type(table["ground.friction"])("m", -2.0, -4.0, 0.0)
    assert randomizer("  x: {scale: {uniform: [0.5, 1.5]}}", table).ranges["x"] == (-3.0, -1.0)


def test_a_range_that_ends_on_a_bound_survives_rounding(table):
    table["x"] = type(table["ground.friction"])("m", 0.1, 0.0, 0.3)  # 3 * 0.1 > 0.3 in floating point
    r = randomizer("  x: {scale: {uniform: [1, 3]}}", table)
    assert r.ranges["x"] == (0.1, 0.3)
    assert randomizer("  x: {scale: 3}", table).draw(0, 0, 0) == {"x": 0.3}


def test_nothing_is_drawn_without_entries(table):
    r = Randomizer(Preset.none("Toy"), table)
    assert (r.draw(0, 0, 0), r.ranges, r.names) == ({}, {}, ())


def test_what_is_optional_may_name_nothing(table):
    entries = "  wheel.*: {uniform: [0, 1], optional: true}\n  ground.friction: {uniform: [0.5, 1], optional: true}"
    found = randomizer(entries, table)
    assert found.ranges == {"ground.friction": (0.5, 1.0)}
    assert found.version == randomizer("  ground.friction: {uniform: [0.5, 1]}", table).version
    assert [entry.optional for entry in Preset.loads(dump_yaml(found.preset.to_data())).entries] == [True, True]


def test_the_version_follows_what_decides_the_draws(preset_text, table):
    def version(text, table=table):
        return Randomizer(Preset.loads(text), table).version

    same = version(preset_text)
    assert version(preset_text.replace("source: somewhere", "source: elsewhere")) == same
    assert version(preset_text, dict(reversed(table.items()))) == same
    assert version(preset_text.replace("1.25", "1.26")) != same
    assert version(preset_text.replace(", shared: true", "")) != same
    assert version(preset_text.replace("  ground.friction:  {uniform: [0.5, 1.25]}\n", "")) != same


def test_presets_are_written_as_they_are_read(preset_text, table):
    preset = Preset.loads(preset_text)
    again = Preset.loads(dump_yaml(preset.to_data()))
    assert (again.task, again.version, again.entries) == ("Toy", 3, preset.entries)
    assert Randomizer(again, table).version == Randomizer(preset, table).version


REFUSED = [
    ("ground.frction: 1", 'toy.yaml:4: ground.frction: no such parameter; did you mean ground.friction?'),
    ("'joint.*.armature': 1", "matches no parameter; choices: joint.left.damping, joint.right.damping"),
    ("'wheel.*': 1", "toy.yaml:4: wheel.*: pattern matches no parameter; choices: actuator.latency, ground.friction, "),
    (
        "ground.friction: {uniform: [0.5, 9]}",
        "toy.yaml:4: ground.friction: range [0.5, 9] of ground.friction leaves its valid bounds [0.1, 2] (nominal 0.8)",
    ),
    (
        "link.*.mass: {scale: {uniform: [0.2, 1]}}",
        "toy.yaml:4: link.*.mass: range [0.8, 4] kg of link.base.mass leaves its valid bounds [1, 20] (nominal 4)",
    ),
    ("ground.friction: {unifrom: [0, 1]}", 'toy.yaml:4: unknown key "unifrom" in entries.ground.friction; did '),
    ("ground.friction: {uniform: [0, 1], scale: 2}", "needs exactly one of uniform, log_uniform, truncated_normal, "),
    ("ground.friction: {scale: {}}", "toy.yaml:4: scale of ground.friction needs exactly one of uniform"),
    ("ground.friction: {scale: {scale: 2}}", 'toy.yaml:4: unknown key "scale" in entries.ground.friction.scale; '),
    ("ground.friction: {}", "got none"),
    ("ground.friction:", "toy.yaml:4: ground.friction must be a number or a draw, {uniform: [low, high]}, got None"),
    ("ground.friction: no", 'toy.yaml:4: ground.friction must be a number or a draw, {uniform: [low, high]}, got "no"'),
    ("ground.friction: {uniform:\n    [2, 1]}", "toy.yaml:4: ground.friction: low must not exceed high, got [2.0, "),
    ("ground.friction:\n    uniform: [a, 1]", 'toy.yaml:5: ground.friction: uniform needs [low, high], got "a"'),
    ("ground.friction: {uniform: [1, 1e999]}", 'toy.yaml:4: "1e999" is not a finite number'),
    (
        "ground.friction: {uniform: [0.5, 1], shared: wear}",
        "toy.yaml:4: ground.friction: shares wear with no other parameter",
    ),
    ("ground.friction: {constant: 1, shared: 3}", "toy.yaml:4: shared of ground.friction must be true, false or a "),
    ("ground.friction: {constant: 1, optional: 3}", "optional of ground.friction must be true or false, got 3"),
    ("ground.friction: {constant: 1, source: 3}", "toy.yaml:4: source of ground.friction must be text, got 3"),
    ("actuator.latency: {scale: {uniform: [1, 2]}}", "scale of actuator.latency, whose nominal is 0, changes nothing"),
    (
        "ground.friction: {uniform: [0.5, 1], shared: actuator.latency}\n  actuator.latency: {uniform: [0, 0.1]}",
        "toy.yaml:5: actuator.latency: actuator.latency is shared and a parameter drawn by itself, see ground.friction",
    ),
    (
        "'*.friction': 1\n  'ground.*': 1",
        "toy.yaml:5: ground.*: ground.friction is matched by *.friction too (toy.yaml:4); give it an entry of its own",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "message"), REFUSED)
def test_refusals_name_line_value_and_choices(entry, message, table):
    with pytest.raises(ConfigFileError) as caught:
        randomizer(f"  {entry}", table)
    assert message in str(caught.value)
    assert str(caught.value).startswith("toy.yaml:")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: Toy\nversion: 1", 'toy.yaml:1: the file lacks the key "entries"'),
        ("task: 3\nversion: 1\nentries: {}", "toy.yaml:1: task must be a name, got 3"),
        ("task: Toy\nversion: 1.5\nentries: {}", "toy.yaml:2: version must be a whole number from 1, got 1.5"),
        ("task: Toy\nversion: true\nentries: {}", "toy.yaml:2: version must be"),
        ("task: Toy\nversion: 1\nentry: {}", 'toy.yaml:3: unknown key "entry" in the file; did you mean entries?'),
        ("- task", "toy.yaml:1: the file must be a mapping (key: value), got ['task']"),
        ("task: Toy\nversion: 1\nentries: [a]", "toy.yaml:3: entries must be a mapping"),
    ],
)
def test_headers_are_checked(text, message):
    with pytest.raises(ConfigFileError) as caught:
        Preset.loads(text, "toy.yaml")
    assert message in str(caught.value)


def test_a_table_with_a_nominal_outside_its_bounds_is_refused(table):
    table["x"] = type(table["ground.friction"])("m", 2.0, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"parameter x: nominal 2.0 lies outside its bounds \[0.0, 1.0\]"):
        Randomizer(Preset.none("Toy"), table)


def test_files_are_loaded_with_their_path(tmp_path, preset_text):
    path = tmp_path / "Toy.yaml"
    path.write_text(preset_text + "  ground.slope: {uniform: [1]}\n")
    with pytest.raises(ConfigFileError, match=rf"^{path}:9: ground.slope: uniform needs \[low, high\], got \[1\]$"):
        Preset.load(path)


def test_forty_names_cost_little(table):
    wide = {f"link.{i}.mass": table["link.arm.mass"] for i in range(40)}
    r = randomizer("  link.*.mass: {scale: {uniform: [0.8, 1.2]}}", wide)
    best = min(timeit.repeat(lambda: r.draw(1, 2, 3), number=50, repeat=50, timer=time.process_time)) / 50
    assert best < 150e-6


def test_importing_the_room_is_light():
    code = (
        "import sys, simtoreal; before = set(sys.modules); import simtoreal.randomization as r;"
        "print(sorted(set(sys.modules) - before)); print([n for n in r.__all__ if getattr(r, n, None) is None]);"
        "print([m for m in ('scipy', 'torch', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == ["['simtoreal.randomization']", "[]", "[]"]
