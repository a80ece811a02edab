"""Bundles of policies that give one of several commands: the contract's list of them, and a command's number."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from simtoreal.export import ClosedLoop, Image, PolicyGraph, Runtime, SpecError, verify_bundle, write_bundle
from simtoreal.export.onboard.spec import spec_from_dict

ACTIONS = ((-1.0, 0.0), (1.0, 0.0), (0.0, 0.5))
OFFSETS = ((-0.4, -0.2), (0.6, -0.2), (0.1, 0.3))  # the leg's (0.1, -0.2) + (0.5, 1) a


class Chooses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.register_buffer("actions", torch.tensor(ACTIONS))

    def forward(self, observation):
        return self.actions[self.linear(observation).argmax(dim=-1)]


@pytest.fixture(scope="module")
def chooser() -> nn.Module:
    torch.manual_seed(0)
    return Chooses()


@pytest.fixture(scope="module")
def choosing(spec):
    return replace(spec, choices=OFFSETS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, chooser, choosing, recorded) -> Path:
    """A bundle that no test may change."""
    out = tmp_path_factory.mktemp("choices") / "bundle"
    return write_bundle(out, actor=chooser, spec=choosing, recorded_observations=recorded)


@pytest.mark.parametrize("more", [{}, {"history": 2}, {"recurrent": 3}])
def test_a_contract_of_choices_reads_back_as_it_was_written(choosing, more):
    spec = replace(choosing, **more)
    written = json.loads(json.dumps(spec.to_dict()))
    assert (written["format_version"], written["choices"]) == (5, [list(row) for row in OFFSETS])
    assert spec_from_dict(written) == spec
    assert spec.contract_sha256() != replace(spec, choices=OFFSETS[::-1]).contract_sha256()


def test_so_does_one_that_sees_images(choosing):
    table = replace(choosing.command_map, relative_to=())
    field = replace(choosing.observation[2], name="image", size=12)
    spec = replace(choosing, observation=(field,), command_map=table, image=Image((3, 2, 2), "CHW"))
    assert spec_from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_only_the_contract_of_such_a_policy_has_them(spec):
    assert "choices" not in spec.to_dict()
    assert spec.format_version == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"choices": [[0.0, 0.0]]}, "choices must be two commands or more, or none at all, got 1"),
        ({"choices": []}, "format version 5, what it says is of format 1"),
        ({"choices": None}, "choices must be a list, got None"),
        ({"choices": [[0.0, 0.0], [1.0]]}, r"choices\[1\] has 1 values, the command 2"),
        ({"choices": [[0.0, 0.0], 1.0]}, r"choices\[1\] must be a list of numbers, got 1.0"),
        ({"choices": [[0.0, 0.0], [0.0, float("nan")]]}, r"choices\[1\]\[1\] must be a finite number, got nan"),
        ({"choices": [[0.0, 0.0], [0.0, "1"]]}, r"choices\[1\]\[1\] must be a finite number, got '1'"),
        ({"format_version": 4}, 'unknown key "(history|image|choices)"'),
        ({"format_version": 1}, "unknown key"),
    ],
)
def test_a_contract_whose_choices_make_no_sense_is_refused(choosing, change, words):
    with pytest.raises(SpecError, match=words):
        spec_from_dict(choosing.to_dict() | change)


def test_an_absolute_choice_is_within_the_range_of_the_command(choosing):
    table = replace(choosing.command_map, relative_to=())
    with pytest.raises(SpecError, match=r"choices\[1\]\[0\] must be within \[-1.0, 1.0\], got 1.1"):
        replace(choosing, command_map=table, choices=((0.0, 0.0), (1.1, 0.0)))


def test_a_command_is_told_by_what_it_adds_to_the_observation(whole):
    runtime = Runtime(whole)
    observation = np.array([0.2, -0.3, 0.0, 0.0, 0.5], np.float32)
    for number, command in enumerate(([-0.2, -0.5], [0.8, -0.5], [0.3, 0.0])):
        assert runtime.choice(command, observation) == number
    named = {"q": [0.2, -0.3], "qd": [0.0, 0.0], "height": [0.5]}
    assert runtime.choice([0.3, 0.0], named) == 2


def test_fields_that_are_shorter_than_the_command_are_laid_end_to_end(tmp_path, choosing, chooser, recorded):
    """Of an observation (hip, qd, knee) the command counts from hip and knee; (0.1, -0.2) and half the hip's action on
    top. The graph is held against that, too."""
    _, qd, height = choosing.observation
    fields = (replace(height, name="hip"), qd, replace(height, name="knee"), replace(height, name="height"))
    table = replace(choosing.command_map, relative_to=("hip", "knee"))
    spec = replace(choosing, observation=fields, command_map=table)
    runtime = Runtime(write_bundle(tmp_path / "bundle", actor=chooser, spec=spec, recorded_observations=recorded))
    observation = np.array([0.2, 7.0, 7.0, -0.3, 7.0], np.float32)
    for number, command in enumerate(([-0.2, -0.5], [0.8, -0.5], [0.3, 0.0])):
        assert runtime.choice(command, observation) == number
    given = runtime.act(observation)
    expected = ([-0.2, -0.5], [0.8, -0.5], [0.3, 0.0])[runtime.choice(given, observation)]
    np.testing.assert_allclose(given, expected, atol=1e-6)
    assert {check.name: check.passed for check in verify_bundle(runtime.bundle)}["choices"]


def test_of_choices_that_the_range_makes_equal_it_is_the_first(whole):
    """At a hip of 0.5 the second and the third are 1.1 and 0.6; at one of 1 both are clipped to 1."""
    runtime = Runtime(whole)
    assert runtime.choice([1.0, -0.2], np.array([0.5, 0.0, 0, 0, 0])) == 1
    assert runtime.choice([1.0, 1.5], np.array([1.0, 2.0, 0, 0, 0])) == 1


def test_what_the_policy_answers_is_one_of_them(whole, chooser, recorded):
    runtime = Runtime(whole)
    with torch.no_grad():
        expected = chooser.linear(torch.from_numpy(recorded)).argmax(dim=1).tolist()
    assert set(expected) == {0, 1, 2}
    inside = np.abs(recorded[:, :2]) < 0.4  # where nothing is clipped
    for row, number in zip(recorded[inside.all(axis=1)], np.array(expected)[inside.all(axis=1)], strict=True):
        assert runtime.choice(runtime.act(row), row) == number


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (([0.0, 0.0], np.zeros(5)), r'"command" \[0.0, 0.0\] is none of the 3 choices'),
        (([float("nan"), 0.0], np.zeros(5)), "is none of the 3 choices"),
        (([0.0], np.zeros(5)), r'"command" must be \[2\], got \[1\]'),
        (({}, np.zeros(5)), r'"command" must be \[2\] numbers, got {}'),
        ((["left", 0.0], np.zeros(5)), r'"command" must be \[2\] numbers, got'),
        (([-0.4, -0.2],), "commands count from q: give the observation too"),
        (([-0.4, -0.2], np.zeros(4)), r'"observation" must be \[5\]'),
        (([-0.4, -0.2], np.zeros((2, 5))), r'"observation" must be \[5\], got \[2, 5\]'),
    ],
)
def test_what_is_no_choice_is_refused(whole, given, words):
    with pytest.raises(ValueError, match=words):
        Runtime(whole).choice(*given)


def test_a_policy_that_gives_any_command_has_no_choices(pristine):
    with pytest.raises(ValueError, match="gives any command of its range, it has no choices"):
        Runtime(pristine).choice([0.0, 0.0], np.zeros(5))
    assert "choices" not in {check.name for check in verify_bundle(pristine)}


def test_verify_holds_every_golden_answer_against_them(whole):
    (check,) = (check for check in verify_bundle(whole) if check.name == "choices")
    count = len(Runtime(whole).golden()[0])
    assert (check.passed, check.detail) == (True, f"{count} golden answers are of 3, 3 occur")


def test_a_policy_that_gives_other_commands_than_its_contract_lists_is_a_no(
    tmp_path, choosing, actor, recorded, quick_export
):
    out = write_bundle(tmp_path / "bundle", actor=actor, spec=choosing, recorded_observations=recorded)
    (check,) = (check for check in verify_bundle(out) if check.name == "choices")
    assert not check.passed
    assert "is none of the 3 choices" in check.detail
    result = subprocess.run([sys.executable, out / "onboard", "--self-test", "--json"], capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert "a golden answer: " in json.loads(result.stdout)["problem"]


def test_the_self_test_of_choices_passes(whole):
    result = subprocess.run([sys.executable, whole / "onboard", "--self-test"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert Runtime(whole).golden_choices() == 3


class Wavers(nn.Module):
    """Which of two it chooses the sign of the first number says, unless the last one is below 0."""

    def __init__(self, shift=0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[1.0, 0, 0, 0, 1.0], [-1.0, 0, 0, 0, 1.0], [0, 0, 0, 0, -1.0]]))
            self.linear.bias.copy_(torch.tensor([shift, 0.0, 0.0]))
        self.register_buffer("actions", torch.tensor(ACTIONS))

    def forward(self, observation):
        return self.actions[self.linear(observation).argmax(dim=-1)]


@pytest.fixture
def wavering(recorded):
    """Observations of which the second half makes the two best choices worth the same to rounding."""
    rows = recorded.copy()
    rows[:, 0] = np.where(rows[:, 0] < 0, -0.5, 0.5)
    rows[:, 4] = 1.0
    rows[len(rows) // 2 :, 0] *= 2e-8
    return rows


def test_no_golden_vector_is_where_two_choices_are_worth_the_same(tmp_path, choosing, wavering):
    """So that another machine's rounding does not tell against a bundle; all others stay."""
    out = write_bundle(tmp_path / "bundle", actor=Wavers(), spec=choosing, recorded_observations=wavering)
    rows, _ = Runtime(out).golden()
    clear = np.abs(wavering[:, 0]) > 0.1
    assert 0 < clear.sum() < len(wavering)
    assert np.array_equal(rows[: clear.sum()], wavering[clear])
    assert np.abs(rows[rows[:, 4] > 0, 0]).min() > 1e-6


def test_a_closed_loop_takes_either_of_two_choices_that_are_worth_the_same(tmp_path, choosing, wavering):
    """Torch's weights are shifted as if it rounded otherwise, then by more than that."""
    out = write_bundle(tmp_path / "bundle", actor=Wavers(), spec=choosing, recorded_observations=wavering)
    for shift, held in ((-1e-6, True), (-1.5, False)):
        loop = ClosedLoop(Runtime(out), PolicyGraph(Wavers(shift), choosing))
        same = [
            np.array_equal(loop.act(row), PolicyGraph(Wavers(shift), choosing).answers(row[None])[0])
            for row in wavering
        ]
        assert not all(same)
        assert loop.parity().held == held
