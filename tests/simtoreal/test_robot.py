"""A robot in another process: what crosses the link, how it is scored, and what happens when it fails."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env

from simtoreal import build
from simtoreal.config import ConfigError
from simtoreal.contract import contract_digest
from simtoreal.randomization.randomizer import Preset, Randomizer
from simtoreal.randomization.wrapper import RandomizedEnv
from simtoreal.robot import Target
from simtoreal.robot_env import RobotEnv, open_robot
from simtoreal.robot_link import Address, CommandLimits, RobotLink, RobotLinkError
from tests.simtoreal.robots import running_robot, scripted, tapped, write_target

HIDDEN = {
    "actuator.strength": 0.8712345,
    "actuator.latency": 0.0212345,
    "link.panda_hand.payload": 0.7412345,
    "sensor.joint_position.bias.panda_joint1": 0.0112345,
}


def drive(env, steps, seed=0):
    """`steps` control steps under random actions; the observations."""
    rng = np.random.default_rng(seed)
    seen = [env.reset()[0]]
    for _ in range(steps):
        seen.append(env.step(rng.uniform(-1, 1, env.action_space.shape))[0])
    return np.array(seen)


def shape(value):
    """A message without its numbers."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    return [shape(part) for part in value] if isinstance(value, list) else type(value).__name__


def conversation(folder, parameters):
    """Every byte that crosses in an episode with a robot of these parameters, and its observations."""
    target = write_target(folder, "PandaReach", parameters)
    with running_robot(target) as (address, _), tapped(address) as (line, crossed):
        env = RobotEnv(RobotLink(line))
        seen = drive(env, 20)
        env.close()
    return bytes(crossed), seen


def test_no_parameter_crosses_the_link_and_two_robots_differ_in_what_they_measure_alone(tmp_path):
    crossed, seen = conversation(tmp_path, HIDDEN)
    plain, seen_plain = conversation(tmp_path, {})
    for name, value in HIDDEN.items():
        assert name.encode() not in crossed
        assert repr(value)[:6].encode() not in crossed, f"{name} = {value} crossed"
    for word in (b"parameter", b"privileged", b"reward", b"success", b"seed", b"strength", b"payload", b"\x80"):
        assert word not in crossed, word
    messages, others = ([json.loads(line) for line in text.splitlines()] for text in (crossed, plain))
    assert {key for m in messages for key in m} == {
        "id", "do", "command", "protocol", "task", "contract", "control_dt", "reset_seconds", "limits", "observation",
        "seconds", "tick", "signals", "fell", "violation", "stopped",
    }  # fmt: skip
    assert messages[:2] == others[:2], "hello is the same"
    assert [shape(m) for m in messages] == [shape(m) for m in others]
    assert {name for m in messages for name in m.get("signals", ())} == {"tool_position", "goal"}
    assert np.abs(seen - seen_plain).max() > 0.01


@pytest.mark.parametrize(
    ("task", "engine"),
    [("A1Walk", "pybullet"), ("A1Walk", "mujoco-shipped"), ("PandaReach", "pybullet"), ("CartPoleSwingUp", "mujoco")],
)
def test_a_robot_is_scored_as_the_simulation_is(task, engine, tmp_path):
    values = {"actuator.strength": 0.8}
    env = build.make_env(build.task_id(task), engine=engine)
    twin = RandomizedEnv(env, Randomizer(Preset.none(task), build.parameters_of(env)), seed=3)
    rng = np.random.default_rng(0)
    with open_robot(write_target(tmp_path, task, values, engine=engine), 3) as robot:
        steps = 0
        for _ in range(2):
            obs, _ = robot.reset()
            expected, _ = twin.reset(options={"parameters": values})
            assert np.array_equal(obs, expected)
            ended = False
            while not ended:
                action = rng.uniform(-1, 1, robot.action_space.shape).astype(np.float32)
                obs, reward, terminated, truncated, info = robot.step(action)
                expected, score, *ends, truth = twin.step(action)
                np.testing.assert_allclose(obs, expected, atol=1e-5)
                assert reward == pytest.approx(score, abs=1e-5)
                assert [terminated, truncated] == ends
                for name in ("is_success", "violation"):
                    assert info[name] == truth[name]
                ended = terminated or truncated
                steps += 1
        assert robot.seconds == pytest.approx(2 * 1.0 + steps * robot.control_dt)
        with pytest.raises(ValueError, match="reset the robot first"):
            robot.step(action)
    env.close()


def test_the_robot_is_a_gymnasium_environment_and_its_seconds_are_counted(tmp_path):
    with open_robot(write_target(tmp_path, "CartPoleSwingUp", {}, reset_seconds=2.5), 0) as env:
        check_env(env, skip_render_check=True)
        before = env.seconds
        env.reset()
        for _ in range(10):
            env.step(np.zeros(1))
        assert env.seconds - before == pytest.approx(2.5 + 10 * 0.02)
        assert env.episode_seconds == 12.5
        with pytest.raises(ValueError, match="no reset option 'parameters'"):
            env.reset(options={"parameters": {"actuator.strength": 1.0}})


def test_a_command_that_is_not_finite_is_never_sent_and_fails_the_episode(tmp_path):
    target = write_target(tmp_path, "PandaReach", {})
    with running_robot(target) as (address, _), tapped(address) as (line, crossed):
        env = RobotEnv(RobotLink(line))
        env.reset()
        _, _, terminated, _, info = env.step(np.full(7, np.nan))
        env.close()
    assert terminated
    assert info["invalid_action"]
    assert not info["is_success"]
    assert [json.loads(line).get("do") for line in bytes(crossed).splitlines() if b'"do"' in line] == [
        "hello", "reset", "hold",
    ]  # fmt: skip
    assert b"NaN" not in crossed


def test_commands_pass_the_robots_limits_and_its_safety_layer_stops_what_does_not(tmp_path):
    limits = {"low": [-6.0], "high": [6.0], "slew": [100.0]}  # 2 N a control step
    target = write_target(tmp_path, "CartPoleSwingUp", {}, limits=limits)
    with open_robot(target, 0) as env:
        env.reset()
        forces, limited = [], []
        for action in [1.0] * 5 + [-1.0] * 2:
            obs, _, _, _, info = env.step(np.array([action]))
            forces.append(float(obs[5]))
            limited.append(info["limited"])
            assert info["action"] == pytest.approx([forces[-1] / 10])
        assert forces == pytest.approx([2, 4, 6, 6, 6, 4, 2])
        assert all(limited)
        obs, _, _, _, info = env.step(np.array([0.1]))
        assert (float(obs[5]), info["limited"]) == (pytest.approx(1.0), False)
    with running_robot(target) as (address, _):
        link = RobotLink(address)
        link.reset()
        for command, words in (([9.0], "safety layer stopped the robot"), ([0.0], "holds still: reset it")):
            with pytest.raises(RobotLinkError, match=words):
                link.step(command)
        link.reset()
        assert link.step([1.5]).observation[5] == pytest.approx(1.5)
        with pytest.raises(RobotLinkError, match="a command is 1 numbers"):
            link.step([1.0, 2.0])
        link.close()


def test_limits_clip_to_the_range_and_to_what_may_follow():
    limits = CommandLimits((-1.0, -1.0), (1.0, 1.0), (10.0, 1.0))
    assert limits.clip([5.0, 0.5], [0.0, 0.0], 0.05) == [0.5, 0.05]
    assert limits.clip([5.0, -3.0], [0.9, -0.99], 0.05) == [1.0, -1.0]
    assert limits.allow([0.5, 0.05], [0.0, 0.0], 0.05)
    assert not limits.allow([0.51, 0.05], [0.0, 0.0], 0.05)
    for broken in (np.inf, -np.inf, np.nan):
        assert not limits.allow([broken, 0.0], [0.0, 0.0], 0.05)
        assert not CommandLimits((-1.0,), (1.0,)).allow([broken], [0.0], 0.05)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (((1.0,), (-1.0,)), "lower limit of 1.0 above an upper one of -1.0"),
        (((-1.0,), (1.0,), (0.0,)), "slew limit must be above 0, got 0.0"),
        (((-1.0,), (1.0,), (-3.0,)), "slew limit must be above 0"),
        (((-1.0, 0.0), (1.0,)), "several lengths: 1, 2"),
        (((float("nan"),), (1.0,)), "lower limit of nan"),
    ],
)
def test_limits_that_let_nothing_through_are_refused(limits, words):
    with pytest.raises(ValueError, match=words):
        CommandLimits(*limits)


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1e31", b"1" * 400, b"Infinity"])
def test_a_number_that_no_robot_can_follow_ends_the_talk_and_the_robot_holds(number, tmp_path):
    with running_robot(write_target(tmp_path, "CartPoleSwingUp", {})) as (address, process):
        host, _, port = address.removeprefix("tcp://").rpartition(":")

        def say(*lines):
            with socket.create_connection((host, int(port)), timeout=20) as line:
                for text in lines:
                    line.sendall(text + b"\n")
                line.shutdown(socket.SHUT_WR)
                with line.makefile("rb") as file:
                    return [json.loads(answer) for answer in file]

        reset = b'{"id": 1, "do": "reset"}'
        assert len(say(reset, b'{"id": 2, "do": "step", "command": [%s]}' % number)) == 1
        (answer,) = say(b'{"id": 1, "do": "step", "command": [0.0]}')
        assert answer["error"] == "the robot holds still: reset it"
        assert process.poll() is None


def test_a_robot_that_did_not_answer_gets_no_further_command(tmp_path):
    with scripted(line(KNOWN), line(START, id=2), None) as address:
        env = RobotEnv(RobotLink(address, timeout=0.4))
        env.reset()
        with pytest.raises(RobotLinkError, match="did not answer"):
            env.step(np.zeros(1))
        with pytest.raises(ValueError, match="reset the robot first"):
            env.step(np.zeros(1))
    with scripted(line(KNOWN), line(START, id=2), line({"id": 3, "error": "jammed"})) as address:
        env = RobotEnv(RobotLink(address, timeout=0.4))
        env.reset()
        with pytest.raises(RobotLinkError, match="refused reset: jammed"):
            env.reset()
        with pytest.raises(ValueError, match="reset the robot first"):
            env.step(np.zeros(1))


def test_a_robot_that_is_left_in_mid_episode_is_told_to_hold(tmp_path):
    with (
        running_robot(write_target(tmp_path, "CartPoleSwingUp", {})) as (address, _),
        tapped(address) as (line, crossed),
    ):
        env = RobotEnv(RobotLink(line))
        env.reset()
        env.step(np.zeros(1))
        env.close()
        asked = [json.loads(text).get("do") for text in bytes(crossed).splitlines() if b'"do"' in text]
        assert asked == ["hello", "reset", "step", "hold"]


def test_a_robot_that_is_killed_is_a_named_error(tmp_path):
    with running_robot(write_target(tmp_path, "CartPoleSwingUp", {})) as (address, process):
        env = RobotEnv(RobotLink(address))
        drive(env, 3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with pytest.raises(RobotLinkError, match=rf"robot at {address} is gone.* in step 4"):
            env.step(np.zeros(1))
        env.close()


def test_a_robot_that_stands_still_runs_into_the_time_out(tmp_path):
    with running_robot(write_target(tmp_path, "CartPoleSwingUp", {})) as (address, process):
        env = RobotEnv(RobotLink(address, timeout=0.5))
        drive(env, 2)
        process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(RobotLinkError, match=r"did not answer step 3 within 0.5 s"):
            env.step(np.zeros(1))
        assert time.monotonic() - began < 3
        env.close()


def test_a_robot_serves_the_next_learner_and_leaves_when_its_only_one_dies(tmp_path):
    target = write_target(tmp_path, "CartPoleSwingUp", {})
    with running_robot(target) as (address, process):
        for _ in range(2):
            env = RobotEnv(RobotLink(address))
            drive(env, 2)
            env.close()
        assert process.poll() is None
    learner = (
        "import sys, time; from simtoreal.robot_env import open_robot\n"
        "with open_robot(sys.argv[1], 0) as env: env.reset(); print('ready', flush=True); time.sleep(60)"
    )
    with (
        tempfile.TemporaryDirectory() as temporary,  # a socket's path must be short
        subprocess.Popen(
            [sys.executable, "-c", learner, str(target)], stdout=subprocess.PIPE, text=True,
            env=os.environ | {"TMPDIR": temporary},
        ) as process,
    ):  # fmt: skip
        assert process.stdout.readline() == "ready\n"
        (robot,) = children(process.pid)
        process.kill()
        assert os.listdir(temporary) == []
        deadline = time.monotonic() + 10
        while os.path.exists(f"/proc/{robot}") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not os.path.exists(f"/proc/{robot}")


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


HELLO = {
    "id": 1, "protocol": 1, "task": "simtoreal/CartPoleSwingUp-v0", "contract": "x", "control_dt": 0.02,
    "reset_seconds": 1, "limits": {"low": [-1], "high": [1], "slew": None},
}  # fmt: skip
KNOWN = HELLO | {"contract": contract_digest(build.task_class("simtoreal/CartPoleSwingUp-v0"))}
START = {"id": 1, "observation": [0.0] * 6, "command": [0.0], "seconds": 1.0}
TICK = {
    "id": 2,
    "tick": 1,
    "observation": [0.0] * 6,
    "signals": {},
    "fell": False,
    "violation": False,
    "stopped": False,
}


def line(message, **changed):
    return json.dumps({**message, **changed}).encode() + b"\n"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([line(START), line(TICK, tick=2)], "answered tick 2 where 1 was due"),
        ([line(START), line(TICK, tick=1), line(TICK, id=3, tick=1)], "answered tick 1 where 2 was due"),
        ([line(START), line(TICK, id=1)], "answered request 1, not 2"),
        ([line(START), line(TICK, fell=0)], "answered fell = 0, expected a bool"),
        ([line(START), line(TICK, signals=[1])], "expected a dict"),
        ([line(START), line(TICK).replace(b"0.0", b"1e999", 1)], "1e999 is not a number that can be measured"),
        ([line(START), line(TICK).replace(b"0.0", b"9" * 400, 1)], "has more than 18 digits"),
        ([line(START), line(TICK).replace(b"0.0", b"NaN", 1)], "NaN is not a number"),
        ([line(START), line(TICK).replace(b"0.0", b'"0"', 1)], "what is no number"),
        ([line(START), b"\x80\x04K\x01.\n"], "sent what is no message"),
        ([line(START), b"7\n"], "sent what is no message"),
        ([line(START), b"x" * 70_000], "longer than"),
        ([line(START), b'{"id": 2'], "is gone: it hung up in step 1"),
        ([line(START), line({"error": "no battery"})], "refused step 1: no battery"),
        ([line(START), None], "did not answer step 1 within 0.4 s"),
    ],
)  # fmt: skip
def test_an_answer_that_makes_no_sense_is_a_named_error(answers, words):
    hangs_up = "hung up" in words
    with scripted(*answers, *([] if hangs_up else [None])) as address:
        link = RobotLink(address, timeout=0.4)
        link.reset()
        with pytest.raises(RobotLinkError, match=words):  # noqa: PT012
            link.step([0.0])
            link.step([0.0])
        link.close()


@pytest.mark.parametrize(
    ("hello", "start", "words"),
    [
        ({"reset_seconds": -1}, {}, "reset_seconds = -1, expected 0 to 3600 s"),
        ({"limits": {"low": [1], "high": [-1], "slew": None}}, {}, "has a lower limit of 1.0 above"),
        ({"limits": {"low": [-1, -1], "high": [1, 1], "slew": None}}, {}, "2 command limits, the contract has 1"),
        ({}, {"seconds": -50}, "seconds = -50, expected 0 to 3600 s"),
        ({}, {"command": [0.0, 0.0]}, "2 commands in force, the contract has 1"),
        ({}, {"observation": [0.0]}, "1 observations, the contract has 6"),
        ({}, {}, "0 numbers of cart_position, the contract has 1"),
    ],
)
def test_what_does_not_fit_the_contract_is_a_named_error(hello, start, words):
    answers = line(KNOWN, **hello), line(START, **{"id": 2} | start), line(TICK, id=3), None
    with scripted(*answers) as address, pytest.raises(RobotLinkError, match=words):  # noqa: PT012
        env = RobotEnv(RobotLink(address, timeout=2.0))
        env.reset()
        env.step(np.zeros(1))


def test_a_robot_of_another_contract_or_protocol_or_task_is_refused():
    for hello, words in (
        (line(HELLO), "another contract of simtoreal/CartPoleSwingUp-v0"),
        (line(HELLO, protocol=2), "speaks protocol 2, this is 1"),
        (line(HELLO, task="Pendulum-v1"), "none of ours"),
    ):
        with scripted(hello) as address, pytest.raises(ConfigError, match=words):
            RobotEnv(RobotLink(address))


@pytest.mark.parametrize("text", ["tcp://", "tcp://host", "tcp:host:1", "tcp://host:99999", "unix:", "udp://h:1", ""])
def test_an_address_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="expected tcp://HOST:PORT or unix:PATH"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "Pendulum-v1"}, "a robot has a task of ours"),
        ({"task": "PandaWalk"}, "no task 'PandaWalk'"),
        ({"parameters": {"actuator.strenght": 1.0}}, "no such parameter"),
        ({"parameters": {"actuator.strength": 9.0}}, "leaves its valid bounds"),
        ({"reset_seconds": -1}, "reset_seconds must be from 0"),
        ({"limits": {"slew": [1.0, 2.0]}}, "slew has 2 numbers, a command 1"),
        ({"limits": {"slew": "fast"}}, "slew must be a list of numbers"),
        ({"limits": {"low": [20.0]}}, "t.yaml: a lower limit of 20.0 above an upper one of 10.0"),
        ({"limits": {"slew": [-1.0]}}, "t.yaml: a slew limit must be above 0"),
        ({"limits": {"speed": [1.0]}}, 'unknown key "speed"'),
        ({"engine": "newton"}, "t.yaml:1: engine must be one of pybullet, mujoco, mujoco-shipped, got 'newton'"),
        ({"gravity": 1}, 'unknown key "gravity"'),
    ],
)
def test_a_bad_target_file_is_refused_in_one_line_by_the_process_that_reads_it(change, words, tmp_path):
    document = {"task": "CartPoleSwingUp", "version": 1, "reset_seconds": 1.0, "parameters": {}} | change
    (tmp_path / "t.yaml").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=words), open_robot(tmp_path / "t.yaml", 0):
        pass


def test_the_committed_targets_can_be_read():
    folder = os.path.join(os.path.dirname(__file__), "..", "..", "examples", "targets")
    names = sorted(os.listdir(folder))
    assert names
    for name in names:
        target = Target.load(os.path.join(folder, name))
        assert name == f"{target.preset.task}.yaml"
        env = build.make_env(build.task_id(target.preset.task))
        assert Randomizer(target.preset, build.parameters_of(env)).names
        env.close()
