"""Which parameters cost a policy most: functions whose answer is known, and a cart."""

import csv
import xml.etree.ElementTree as ET

import pytest

import simtoreal
from simtoreal.config import ConfigError

LINEAR = """task: Linear-v0
version: 1
entries:
  a: {uniform: [-0.5, 1.0]}
  b: {uniform: [0.0, 1.0]}
  c: {uniform: [-1.0, 1.0]}
  d.*: {uniform: [-1.0, 0.5]}
"""
ISHIGAMI = """task: Ishigami-v0
version: 1
entries:
  a: {uniform: [-3.141592653589793, 3.141592653589793]}
  b: {uniform: [-3.141592653589793, 3.141592653589793]}
  c: {uniform: [-3.141592653589793, 3.141592653589793]}
"""


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Runs it on a function; its task is there as a user's module would be."""
    monkeypatch.syspath_prepend(str(__import__("pathlib").Path(__file__).parent))

    def run(task, preset, **options):
        path = tmp_path / "preset.yaml"
        path.write_text(preset)
        options = {"randomization": str(path), "out": tmp_path / "out", "force": True} | options
        return simtoreal.sensitivity("polynomials:act", task=f"polynomials:{task}-v0", **options)

    return run


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_of_a_linear_function_each_effect_is_its_slope_times_its_range(known, seed):
    found = {f.entry: f for f in known("Linear", LINEAR, trajectories=8, episodes=3, seed=seed).factors}
    assert list(found) == ["a", "b", "d.*", "c"]
    assert found["a"].effect.value == pytest.approx(3.0 * 1.5)
    assert found["b"].effect.value == pytest.approx(1.0)
    assert found["c"].effect.value == pytest.approx(0.0, abs=1e-12)
    assert found["d.*"].parameters == 2
    assert 0.0 < found["d.*"].effect.value <= 2 * 1.5 / 4 + 1e-9  # of a group, together or against each other
    for entry, low, high in (("a", -1.5, 3.0), ("b", 0.0, -1.0), ("c", 0.0, 0.0), ("d.*", -0.5, 0.25)):
        assert [found[entry].low.value, found[entry].high.value] == pytest.approx([low, high], abs=1e-9)
        assert found[entry].low.low == pytest.approx(found[entry].low.high, abs=1e-9)  # luck is the same in both


def test_sobol_s_total_indices_are_those_of_the_literature(known):
    """Of the Ishigami function with a = 7, b = 0.1: 0.5576, 0.4424, 0.2437 (Saltelli et al. 2008)."""
    found = known("Ishigami", ISHIGAMI, method="sobol", trajectories=1024, episodes=2)
    assert found.metric == "return"
    total = {f.entry: f.effect for f in found.factors}
    assert [total[name].value for name in "abc"] == pytest.approx([0.5576, 0.4424, 0.2437], abs=0.05)
    assert all(total[name].low < total[name].value < total[name].high for name in "abc")


def test_no_interval_of_an_effect_that_is_never_negative_begins_below_0(known):
    found = known("Ishigami", ISHIGAMI, trajectories=4, episodes=2).factors
    uncertain = [f.effect for f in found if 2 * f.effect.value < f.effect.high]  # half a width is more than the effect
    assert uncertain
    assert {effect.low for effect in uncertain} == {0.0}


def test_entries_that_share_their_random_number_are_one(known):
    shared = LINEAR.replace("b: {uniform: [0.0, 1.0]}", "b: {uniform: [0.0, 1.0], shared: s}")
    shared = shared.replace("c: {uniform: [-1.0, 1.0]}", "c: {uniform: [-1.0, 1.0], shared: s}")
    found = {f.entry: f for f in known("Linear", shared, trajectories=8, episodes=2).factors}
    assert list(found) == ["a", "b + c", "d.*"]
    assert found["b + c"].parameters == 2
    assert found["b + c"].effect.value == pytest.approx(1.0)


def test_success_is_a_metric_too(known):
    found = known("Linear", LINEAR, metric="success", trajectories=8, episodes=2)
    assert (found.metric, found.nominal, found.factors[0].entry) == ("success", 0.0, "a")
    assert found.factors[0].high.value == 1.0  # 3 > 0.5


def test_it_is_written_drawn_and_the_same_again_in_any_number_of_workers(plain, tmp_path, cli):
    texts = []
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        options = ("--trajectories", 2, "--episodes", 2, "--seed", 3, "--workers", workers)
        said = cli("sensitivity", plain.bundle, "--out", out, *options, "--json")
        assert said.code == 0
        texts.append((out / "sensitivity.csv").read_text())
        rows = list(csv.DictReader((out / "sensitivity.csv").open()))
        assert [row["entry"] for row in rows] == [factor["entry"] for factor in said.result["factors"]]
        effects = [float(row["effect"]) for row in rows]
        assert effects == sorted(effects, reverse=True)
        drawn = ET.parse(out / "tornado.svg").getroot()
        assert drawn.tag.endswith("svg")
    assert texts[0] == texts[1]
    assert "mu* [95 %]" in cli("sensitivity", plain.bundle, "--out", tmp_path / "out1", "--force", *options[:4]).out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "fast"}, "no method 'fast'; choices: morris, sobol"),
        ({"metric": "speed"}, "no metric 'speed'; choices: return, success"),
        ({"engine": "ode"}, "no engine 'ode'"),
        ({"method": "sobol"}, "a power of two, got 80"),
        ({"method": "sobol", "trajectories": 6}, "a power of two, got 6"),
        ({"trajectories": 1}, "must be 2 or more, got 1 and 20"),
        ({"randomization": "none"}, "there is nothing to vary"),
    ],
)
def test_what_makes_no_sense_is_refused(known, options, words):
    with pytest.raises(ConfigError, match=words):
        known("Linear", LINEAR, **options)


def test_a_preset_of_another_task_is_refused(plain, tmp_path, cli):
    said = cli("sensitivity", plain.bundle, "--out", tmp_path / "out", "--randomization", "A1Walk")
    said.refused("A1Walk.yaml:2: a preset for A1Walk, not for CartPoleSwingUp")
    assert not (tmp_path / "out").exists()


def test_what_is_fixed_ranks_nothing(plain, tmp_path, cli):
    fixed = tmp_path / "fixed.yaml"
    fixed.write_text("task: CartPoleSwingUp\nversion: 1\nentries:\n  gravity: 9.0\n")
    said = cli("sensitivity", plain.bundle, "--out", tmp_path / "out", "--randomization", fixed)
    said.refused("there is nothing to vary: no preset of CartPoleSwingUp, or one without a range")


def test_an_earlier_one_is_kept(known, tmp_path):
    known("Linear", LINEAR, trajectories=2, episodes=2)
    with pytest.raises(ValueError, match="exists; choose another folder or pass --force"):
        known("Linear", LINEAR, trajectories=2, episodes=2, force=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="other"):
        known("Linear", LINEAR, trajectories=2, episodes=2, out=tmp_path / "other")
