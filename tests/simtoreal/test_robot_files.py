"""A robot of one's own: a robot.yaml makes it a task, from `inspect --write` to a verdict."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import SAC

from simtoreal import Runtime
from simtoreal.build import make_env, task_id
from simtoreal.config import recipe
from simtoreal.evaluate import OtherRobot
from simtoreal.proposals import propose
from simtoreal.randomization.yaml_files import ConfigFileError, dump_yaml
from simtoreal.robot_files import known_robots, name_task, task_of_file
from simtoreal.robots.catalog import A1_JOINTS, KUKA_JOINTS, QUADRUPED, a1, kuka, pybullet_data
from simtoreal.robots.model import ModelError, RobotModel
from simtoreal.robots.tasks.reach import KukaReach
from simtoreal.robots.tasks.walk import A1Walk
from simtoreal.task_suites import load_suite
from simtoreal.trial import TrialWarning, trial

OURS = ("laikago", "mini_cheetah", "spirit40")
SPIRIT = pybullet_data() / "quadruped" / "spirit40.urdf"
CHEETAH = pybullet_data() / "mini_cheetah" / "mini_cheetah.urdf"
STAND = dict(zip(("hip", "upper", "lower"), (0.0, 0.9, -1.8), strict=True))
A1 = {
    "robot": "my_a1",
    "urdf": str(a1().urdf),
    "joints": {name: STAND[name.split("_")[1]] for name in A1_JOINTS},
    "drive": {"kp": 60, "kd": 2},
    "payload": {"link": "trunk", "point": [0.0, 0.0, 0.1], "most": 8.0},
    "com": {"link": "trunk", "reach": [0.05, 0.02, 0.012]},
    "walk": {
        "legs": {leg: f"{leg}_toe" for leg in QUADRUPED},
        "other_side": {"FR": "FL", "RR": "RL"},
        "together": ["FR", "RL"],
        "height": 0.262,
        "fallen": 0.15,
        "power": 150,
    },
}
KUKA = {
    "robot": "my_iiwa",
    "urdf": str(kuka().urdf),
    "joints": {
        name: {"at": at, "kp": kp, "kd": kd}
        for name, at, kp, kd in zip(KUKA_JOINTS, KukaReach.arm.home, KukaReach.arm.kp, KukaReach.arm.kd, strict=True)
    },
    "drive": {"kp": 100, "kd": 10, "rotor": 0.1, "damping": 0.5},
    "payload": {"link": "lbr_iiwa_link_7", "point": [0.0, 0.0, 0.045], "most": 14.0},
    "reach": {"tool": "lbr_iiwa_link_7", "low": list(KukaReach.arm.goal_low), "high": list(KukaReach.arm.goal_high)},
}


@pytest.fixture
def write(tmp_path):
    """Writes a robot file; its path."""

    def build(data, name="robot.yaml"):
        path = tmp_path / name
        path.write_text(dump_yaml(data))
        return path

    return build


def change(data, **sections):
    """A robot file with some sections changed, those of None left out."""
    return {key: value for key, value in (data | sections).items() if value is not None}


@pytest.fixture
def opened():
    made = []

    def build(task, **options):
        made.append(make_env(task, **options) if isinstance(task, str) else task(**options))
        return made[-1]

    yield build
    for env in made:
        env.close()


def follow(env, actions, parameters=None):
    """The observations and rewards of an episode under these actions."""
    seen = [env.reset(seed=3, options={"parameters": parameters or {}})[0]]
    rewards = []
    for action in actions:
        obs, reward, *_ = env.step(action)
        seen.append(obs)
        rewards.append(reward)
    return np.array(seen), np.array(rewards)


SWAPPED = {"FR": "FL_toe", "FL": "FR_toe", "RR": "RR_toe", "RL": "RL_toe"}
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (30, 12)).astype(np.float32)


@pytest.mark.parametrize("engine", ["pybullet", "mujoco"])
def test_a_catalogue_robot_described_by_a_file_is_the_same_robot(write, opened, engine):
    """Where both limit the torque alike: the A1's drive is stronger than its URDF says."""
    path = write(change(A1, joints={name: {"at": at, "effort": 33.5} for name, at in A1["joints"].items()}))
    mine, ours = opened(f"{path}:Walk", engine=engine), opened(A1Walk, engine=engine)
    values = {"link.trunk.payload": 2.0, "link.trunk.com.x": 0.02, "actuator.latency": 0.013}
    for parameters in ({}, values):
        a, b = (follow(env, ACTIONS, parameters) for env in (mine, ours))
        assert (a[0] == b[0]).all()
        assert a[1] == pytest.approx(b[1], abs=1e-9)


@pytest.mark.parametrize("engine", ["pybullet", "mujoco"])
def test_the_order_of_the_joints_is_the_files(write, opened, engine):
    legs = ("RL", "FL", "RR", "FR")
    order = [A1_JOINTS.index(f"{leg}_{part}_joint") for leg in legs for part in STAND]
    walk = A1["walk"] | {"legs": {leg: f"{leg}_toe" for leg in legs}}
    shuffled = change(A1, joints={A1_JOINTS[i]: A1["joints"][A1_JOINTS[i]] for i in order}, walk=walk)
    straight = opened(f"{write(A1, 'a.yaml')}:Walk", engine=engine)
    mine = opened(f"{write(shuffled, 'b.yaml')}:Walk", engine=engine)
    where = straight.get_wrapper_attr("observation_layout").slices
    start = np.array(straight.unwrapped.legs.stand)
    for env, joints in ((straight, np.arange(12)), (mine, np.array(order))):
        env.reset(seed=0)
        env.unwrapped.world.reset(start[joints], np.zeros(12), (0, 0, 0.262, 0, 0, 0, 1, *[0.0] * 6))
        env.unwrapped._state = env.unwrapped.world.state()
        env.unwrapped._ring.fill(env.unwrapped._state)
        env.unwrapped._phase = 0.0
        env.unwrapped._commands = straight.unwrapped._commands
    for action in ACTIONS[:10]:
        a, reward, *_ = straight.step(action)
        b, other, *_ = mine.step(action[order])
        for name in ("joint_position", "joint_velocity", "last_target"):
            assert b[where[name]] == pytest.approx(a[where[name]][order], abs=1e-4)
        assert other == pytest.approx(reward, abs=1e-4)


@pytest.mark.parametrize("engine", ["pybullet", "mujoco"])
def test_an_arm_described_by_a_file_is_the_same_arm(write, opened, engine):
    mine, ours = opened(f"{write(KUKA)}:Reach", engine=engine), opened(KukaReach, engine=engine)
    a, b = (follow(env, ACTIONS[:, :7]) for env in (mine, ours))
    assert (a[0] == b[0]).all()
    assert (a[1] == b[1]).all()
    shuffled = change(KUKA, joints=dict(reversed(KUKA["joints"].items())))
    turned = opened(f"{write(shuffled, 'turned.yaml')}:Reach", engine=engine).unwrapped.world
    pose = [0.3, -0.4, 0.5, -1.2, 0.2, 1.0, 0.1]
    assert turned.gravity_torque(pose[::-1]) == pytest.approx(list(ours.world.gravity_torque(pose))[::-1], abs=1e-9)


def test_its_recipe_preset_and_suites_are_its_familys(write, opened):
    path = write(A1)
    task = task_id(f"{path}:Walk")
    assert recipe(task, "sac") == recipe("A1Walk", "sac")
    assert name_task("Walk", str(path)) == task == name_task("/elsewhere/robot.yaml:Walk", str(path))
    assert opened(task).unwrapped.__doc__.startswith("my_a1 walks")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"drive": {"kp": -1, "kd": 2}}, r"robot.yaml:16: drive.kp: a number above 0 up to 10000, got -1$"),
        ({"drive": {"kp": 60}}, "robot.yaml:16: drive.kd: is missing, and joint FR_hip_joint has none of its own"),
        ({"gait": "trot"}, r"robot.yaml:26: gait: no such key; choices: balance, com, drive, "),
        ({"wlak": {}}, "wlak: no such key; did you mean walk?"),
        ({"joints": {**A1["joints"], "tail": 0.0}}, "joints: no joint 'tail'"),
        ({"joints": {**A1["joints"], "FR_toe_fixed": 0.0}}, "joint FR_toe_fixed is fixed"),
        (
            {"joints": dict(list(A1["joints"].items())[:-1])},
            "RL_lower_joint moves, and is neither in joints nor in lock",
        ),
        ({"joints": {**A1["joints"], "FR_lower_joint": 2.0}}, "FR_lower_joint starts at 2, outside"),
        ({"joints": {**A1["joints"], "FR_lower_joint": -1.7}}, "do not stand as mirror images: -1.7 and -1.8 rad"),
        ({"payload": {"link": "back", "most": 2.0}}, "payload: no link 'back'"),
        ({"walk": A1["walk"] | {"legs": {"FR": "FR_tow", "FL": "FL_toe"}}}, "walk: no link 'FR_tow'"),
        ({"walk": A1["walk"] | {"other_side": {"FR": "FL"}}}, "needs one on the other side"),
        ({"walk": A1["walk"] | {"together": ["MR"]}}, "walk: no leg 'MR'"),
        ({"walk": None}, "this robot is no Walk: there is no section walk"),
        ({"walk": A1["walk"] | {"together": ["FR", "FL"]}}, "of FR and FL one must be in together"),
        ({"walk": A1["walk"] | {"other_side": {"FR": "RL", "FL": "RR"}}}, "one must be in together"),
        (
            {"walk": A1["walk"] | {"other_side": {"FR": "RR", "FL": "RL"}}},
            "FR_hip_joint and RR_hip_joint are no mirror",
        ),
        ({"walk": A1["walk"] | {"scale": [0.1, 0.2]}}, "robot.yaml:26: walk: scale is of one leg's 3 joints, got 2"),
        (
            {"walk": A1["walk"] | {"legs": SWAPPED}},
            "by the order of joints leg FR has",
        ),
        ({"walk": A1["walk"] | {"legs": {**A1["walk"]["legs"], "x": "FR_toe"}}}, "a leg needs a name of its own"),
        ({"walk": A1["walk"] | {"fallen": 5.0}}, r"fallen \(5\) and foot_radius \(0.02\) must be below"),
        ({"lock": ["FR_hip_joint"]}, "joint FR_hip_joint is in joints and in lock"),
        ({"urdf": "nowhere.urdf"}, "robot.yaml:2: urdf: no such file: '.*nowhere.urdf'"),
        ({"urdf": ""}, "urdf: no such file"),
        ({"drive": {"kp": "60", "kd": 2}}, r"robot.yaml:16: drive.kp: a number above 0 up to 10000, got \"60\"$"),
        ({"drive": {"kp": True, "kd": 2}}, r"robot.yaml:16: drive.kp: a number above 0 up to 10000, got true$"),
        ({"drive": {"kp": 1e30, "kd": 2}}, r"robot.yaml:16: drive.kp: a number above 0 up to 10000, got 1e\+30$"),
        ({"drive": 60}, r"robot.yaml:16: drive: a mapping of kp, kd, .*network, got 60$"),
        ({"drive": {"kp": 60, "Kd": 2}}, "drive.Kd: no such key; choices: control, damping, effort, kd, "),
        ({"drive": {"kp": 60, "kd": 2, "motor": {"stall": 20}}}, r"robot.yaml:\d+: drive.motor.speed: is missing$"),
        (
            {"joints": {**A1["joints"], "FR_hip_joint": "0.1rad"}},
            r":4: joints.FR_hip_joint: a number, or a mapping of at, ",
        ),
        ({"joints": {**A1["joints"], "FR_hip_joint": None}}, r"joints.FR_hip_joint: a number, or .*, got nothing$"),
        (
            {"joints": {**A1["joints"], "FR_hip_joint": 1e9}},
            r":4: joints.FR_hip_joint.at: a number from -10000 up to 10000, ",
        ),
        ({"joints": {}}, r"robot.yaml:3: joints: a mapping of 1 or more, name: a number, or a mapping of .*, got {}$"),
        ({"joints": None}, r"robot.yaml:1: joints: is missing$"),
        (
            {"payload": {"link": "trunk", "most": 8, "point": [0, 1]}},
            r"payload.point: a list of 3, each a number .*\[0, 1\]$",
        ),
        (
            {"payload": {"link": "trunk", "most": 8, "point": [0, 1, "z"]}},
            r"payload.point\[2\]: a number .*, got \"z\"$",
        ),
        ({"com": {"link": "trunk", "reach": [0.1, 0.1, 0.1, 0.1]}}, r"com.reach: a list of 3, each a number from 0 "),
        (
            {"com": {"link": "trunk", "reach": [0, 0, 0]}},
            r"robot.yaml:\d+: com: a reach of 0 along each axis moves noth",
        ),
        (
            {"com": {"link": "trunk", "reach": [0.1, 0.1, 0.1]}},
            r"robot.yaml:\d+: com: a body of inertia .* kg m\^2 cannot move its centre of mass by 0.1, 0.1, 0.1 m",
        ),
        (
            {"payload": {"link": "trunk", "most": 5000}},
            r"robot.yaml:\d+: payload: most: 2 times the robot's [\d.]+ kg at most, got 5000",
        ),
        (
            {"sensors": {"lidar": None}},
            r"sensors.lidar: no such key; choices: accelerometer, encoders, foot_contact, imu, ",
        ),
        ({"sensors": {"imu": {"rate": 0}}}, r"sensors.imu.rate: a number from 10 up to 10000, got 0$"),
        ({"sensors": ["imu"]}, r"sensors: a mapping, name: a mapping of rate, latency, got \['imu'\]$"),
        ({"repair_inertias": 1}, r"robot.yaml:26: repair_inertias: true or false, got 1$"),
        ({"lock": "FR_toe_fixed"}, r"robot.yaml:26: lock: a list, each a text, got \"FR_toe_fixed\"$"),
        (
            {"walk": A1["walk"] | {"legs": ["FR", "FL"]}},
            r"walk.legs: a mapping of 2 or more, name: a text, got \['FR', 'FL'\]$",
        ),
        ({"robot": 5}, r"robot.yaml:1: robot: a text, got 5$"),
        ({"robot": "a/b"}, "robot: a name of letters"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(write, cli, changed, message):
    path = write(change(A1, **changed))
    with pytest.raises(ConfigFileError, match=message) as caught:
        task_of_file(path, "Walk")
    assert "Input should" not in str(caught.value)
    cli("train", "Walk", "--robot", path, "--steps", 10, "--out", path.parent / "run").refused("robot.yaml")
    assert not (path.parent / "run").exists()


def test_bodies_that_cannot_be_are_refused_until_they_are_repaired_or_given(write):
    assert propose(CHEETAH, Path("robot.yaml"))[0]["repair_inertias"]
    data = cheetah()
    with pytest.raises(ModelError, match=r"inertia of no real body.*repair_inertias: true makes it"):
        task_of_file(write(data), "Walk")
    repaired = task_of_file(write(change(data, repair_inertias=True), "repaired.yaml"), "Walk").robot.inertials
    least, middle, most = sorted(repaired["thigh_fr"].inertia[:3])
    assert most <= least + middle
    thigh = {"mass": 0.634, "inertia": [0.001983, 0.002103, 0.000408, 0.0, 0.0, 0.0]}
    given = data | {"inertials": {link: thigh for link in ("thigh_fr", "thigh_fl", "thigh_hr", "thigh_hl")}}
    assert task_of_file(write(given, "given.yaml"), "Walk").robot.inertials["thigh_fr"].mass == 0.634


def cheetah():
    """A robot file of a URDF whose zero inertias stand in the way of a proposal."""
    legs, parts = ("fr", "fl", "hr", "hl"), ("torso_to_abduct_{}_j", "abduct_{}_to_thigh_{}_j", "thigh_{}_to_knee_{}_j")
    joint = {"at": 0.0, "effort": 17, "velocity": 40, "range": [-3, 3]}
    return {
        "robot": "cheetah",
        "urdf": str(CHEETAH),
        "joints": {part.format(leg, leg): joint for leg in legs for part in parts},
        "drive": {"kp": 40, "kd": 0.8},
        "walk": {
            "legs": {leg: f"toe_{leg}" for leg in legs},
            "other_side": {"fr": "fl", "hr": "hl"},
            "together": ["fr", "hl"],
        },
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "Walk", "--steps", 10), "Walk is what a robot file makes of a robot: name one with --robot FILE"),
        (
            ("train", "PandaReach", "--robot", "robot.yaml", "--steps", 10),
            "makes a robot file a Walk or a Reach or a Balance",
        ),
        (("train", "walk", "--robot", "robot.yaml", "--steps", 10), "not walk; did you mean Walk?"),
        (("train", "Walk", "--robot", "nowhere.yaml", "--steps", 10), "nowhere.yaml: no such robot file"),
        (("train", "Walk", "--robot", str(SPIRIT), "--steps", 10), "not a robot file (.yaml); simtoreal inspect"),
        (("train", "Walk", "--robot", "acme", "--steps", 10), "no robot 'acme', and no path of a .yaml file"),
        (("train", "robot.yaml:Swim", "--steps", 10), "no family 'Swim'"),
        (("train", "robot.yaml:Walk", "--steps", 10), "robot.yaml: no such robot file"),
    ],
)
def test_a_family_needs_a_robot_and_a_robot_a_family(cli, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    cli(*arguments, "--out", tmp_path / "run").refused(message)


@pytest.mark.parametrize(
    ("urdf", "family", "says"),
    [
        (SPIRIT, "Walk", "holds its pose for 2.0 s"),
        (pybullet_data() / "laikago" / "laikago_toes_zup.urdf", "Walk", "holds its pose for 2.0 s"),
        (kuka().urdf, "Reach", "holds its pose for 2.0 s"),
    ],
)
def test_a_proposed_robot_file_stands(cli, tmp_path, urdf, family, says):
    path = tmp_path / "robot.yaml"
    said = cli("inspect", urdf, "--write", path, "--json")
    assert said.code == 0
    trial = said.result["robot_file"]["trial"]
    assert trial["sound"]
    assert says in trial["said"]
    assert task_of_file(path, family).__name__ == f"{urdf.stem}{family}"
    cli("inspect", urdf, "--write", path).refused("--force replaces it")
    assert float(re.search(r"with (\d+)% of", trial["said"])[1]) < 50
    if family == "Walk":
        legs = task_of_file(path, "Walk").legs
        assert set(legs.names) == set(QUADRUPED)
        trot = {leg for leg, phase in zip(legs.names, legs.phase, strict=True) if phase > 0}
        assert trot in ({"FR", "RL"}, {"FL", "RR"})


def hexapod():
    """A box of 4 kg on six legs of three joints."""

    def link(name, mass, size, shape):
        xx, yy, zz = (mass * (sum(s * s for s in size) - size[i] ** 2) / 12 for i in range(3))
        inertia = f'<inertia ixx="{xx}" iyy="{yy}" izz="{zz}" ixy="0" ixz="0" iyz="0"/>'
        place = f'<origin xyz="0 0 {-size[2] / 2 if name != "body" else 0}"/>'
        return (
            f'<link name="{name}"><inertial>{place}<mass value="{mass}"/>{inertia}</inertial>'
            f"<collision><geometry>{shape}</geometry></collision></link>"
        )

    parts = [link("body", 4.0, (0.5, 0.2, 0.1), '<box size="0.5 0.2 0.1"/>')]
    for x, y in itertools.product((-0.2, 0.0, 0.2), (-0.15, 0.15)):
        before, place = "body", f"{x} {y} 0"
        leg = f"{'abc'[round(x / 0.2) + 1]}{'l' if y > 0 else 'r'}"
        for joint, axis, length in (("hip", "1 0 0", 0.0), ("thigh", "0 1 0", 0.15), ("shank", "0 1 0", 0.15)):
            name = f"{leg}_{joint}"
            parts += [
                link(name, 0.3, (0.05, 0.05, max(length, 0.05)), '<sphere radius="0.01"/>'),
                f'<joint name="{name}_joint" type="revolute"><parent link="{before}"/><child link="{name}"/>'
                f'<origin xyz="{place}"/><axis xyz="{axis}"/>'
                '<limit lower="-2" upper="2" effort="15" velocity="20"/></joint>',
            ]
            before, place = name, f"0 0 {-length}"
        parts += [
            f'<link name="{leg}_foot"><inertial><mass value="0.02"/><inertia ixx="1e-5" iyy="1e-5" izz="1e-5" ixy="0" '
            'ixz="0" iyz="0"/></inertial><collision><geometry><sphere radius="0.02"/></geometry></collision></link>',
            f'<joint name="{leg}_end" type="fixed"><parent link="{before}"/><child link="{leg}_foot"/>'
            f'<origin xyz="{place}"/></joint>',
        ]
    return f'<robot name="hexapod">{"".join(parts)}</robot>'


def test_six_legs_walk_three_and_three(cli, tmp_path):
    (tmp_path / "hexapod.urdf").write_text(hexapod())
    path = tmp_path / "robot.yaml"
    said = cli("inspect", tmp_path / "hexapod.urdf", "--write", path, "--json")
    assert said.result["robot_file"]["trial"]["sound"], said
    legs = task_of_file(path, "Walk").legs
    standing = {leg for leg, phase in zip(legs.names, legs.phase, strict=True) if phase > 0}
    assert standing in ({"R1", "L2", "R3"}, {"L1", "R2", "L3"})
    assert {leg: legs.other_side[leg] for leg in ("L1", "L2", "L3")} == {"L1": "R1", "L2": "R2", "L3": "R3"}


def test_a_drive_that_rings_is_named(write, cli):
    """300 N m at every joint, the wrist's too, is what the iiwa's URDF says: so it had the gains of a shoulder."""
    joints = {name: joint["at"] for name, joint in KUKA["joints"].items()}
    stiff = change(KUKA, joints=joints, drive=KUKA["drive"] | {"kp": 1500, "kd": 120})
    path = write(stiff)
    found = cli("inspect", f"{path}:Reach", "--json")
    said = found.result["trial"]["said"]
    assert (found.code, found.result["trial"]["sound"]) == (1, False)
    assert "which swings: kd of lbr_iiwa_joint_7 is 120, and it bears " in said
    assert said.endswith(": lower it, or raise drive.rotor")
    with pytest.warns(TrialWarning, match=re.escape(f"{path}:Reach: {said}")):
        assert cli("train", "Reach", "--robot", path, "--steps", 200, "--out", path.parent / "run").code == 0


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"drive": {"kp": 9000, "kd": 2}}, r"and 8 more, which swings: kp of \w+_lower_joint is 9000, and it bears"),
        (
            {"drive": {"kp": 60, "kd": 37}},
            r"it fell after 0\.\d+ s: kd of \w+_lower_joint is 37, and it bears 2\.\d: ",
        ),
        (
            {"drive": {"kp": 5, "kd": 0.5}},
            r"fell after 0\.\d+ s: no joint gave more than \d+% of its effort: raise kp",
        ),
        (
            {"joints": {name: {"at": at, "effort": 0.5} for name, at in A1["joints"].items()}},
            r"it fell after 0\.\d+ s: FR_hip_joint, .* and 8 more gave all of their effort: raise it",
        ),
    ],
)
def test_a_robot_that_does_not_stand_is_told_why(cli, write, sections, words):
    said = cli("inspect", f"{write(change(A1, **sections))}:Walk")
    assert said.code == 1
    assert re.search(words, said.out)


@pytest.mark.parametrize(
    ("urdf", "changed", "words"),
    [
        ("quadruped/minitaur.urdf", (), "as legs that share a foot: such a closed loop is not in a URDF"),
        ("husky/husky.urdf", (), "0.19 0 0.149)' is not a list of numbers but xacro: expand it first"),
        ("husky/husky.urdf", (r"\$\(optenv \w+ (.*?)\)", r"\1"), "a robot file is of no robot on wheels"),
        ("pendulum5.urdf", (), "hardly gets before and above the base"),
        ("racecar/racecar.urdf", (), "a robot file is of no robot on wheels"),
    ],
)
def test_what_a_robot_file_cannot_describe_is_explained(cli, tmp_path, urdf, changed, words):
    source = pybullet_data() / urdf
    copy = Path(shutil.copytree(source.parent, tmp_path / "robot")) / source.name if changed else source
    if changed:
        copy.write_text(re.sub(*changed, copy.read_text()))
    cli("inspect", copy, "--write", tmp_path / "robot.yaml").refused(words)
    assert not (tmp_path / "robot.yaml").exists()
    (tmp_path / "robot.yaml").write_text("an earlier one")
    cli("inspect", copy, "--write", tmp_path / "robot.yaml", "--force").refused(words)
    assert (tmp_path / "robot.yaml").read_text() == "an earlier one"


def test_a_robot_file_names_a_urdf_with_which_it_shares_a_folder_by_the_way_to_it(tmp_path):
    folder = tmp_path / "lab" / "urdf"
    folder.mkdir(parents=True)
    shutil.copy(SPIRIT, folder)
    assert propose(folder / SPIRIT.name, tmp_path / "lab" / "robot.yaml")[0]["urdf"] == "urdf/spirit40.urdf"
    assert propose(folder / SPIRIT.name, Path("/robot.yaml"))[0]["urdf"] == str(folder / SPIRIT.name)


def test_inspect_says_what_else_a_robot_file_can_be_looked_at_as(cli, write):
    path = write(A1)
    cli("inspect", path).refused(f"of a robot file there are tasks to inspect: simtoreal inspect {path}:Walk")
    cli("inspect", path.with_name("gone.yaml:Walk")).refused("gone.yaml: no such robot file")
    assert "--robot" not in cli("inspect", path.with_name("gone.yaml:Walk")).err


def test_from_a_urdf_to_a_verdict(cli, tmp_path):
    """A robot that is not in the catalogue: proposed, trained a little, exported, verified, judged, moved, replayed."""
    folder = tmp_path / "lab"
    folder.mkdir()
    shutil.copy(SPIRIT, folder)
    path, run, bundle = folder / "robot.yaml", tmp_path / "run", tmp_path / "bundle"
    assert cli("inspect", folder / SPIRIT.name, "--write", path).code == 0
    brief = [f"{key}={value}" for key, value in {"evaluate_every": 200, "evaluate_episodes": 1}.items()]
    settings = [word for text in (*brief, "agent.compile=false") for word in ("--set", text)]
    assert cli("train", "Walk", "--robot", path, "--steps", 200, "--workers", 2, "--out", run, *settings).code == 0
    assert f'task: "{path}:Walk"' in (run / "config.yaml").read_text()
    assert "randomization: Walk" in (run / "config.yaml").read_text()
    assert cli("export", run, "--out", bundle).code == 0
    assert set(json.loads((bundle / "spec.json").read_text())["provenance"]["robot"]) == {"file", "urdf"}
    assert "passed" in cli("verify", bundle).out
    said = path.read_text()
    path.write_text(re.sub(r"kp: [0-9.]+", "kp: 50.0", said))
    cli("export", run, "--out", tmp_path / "other").refused("was trained on another version of")
    cli("train", f"{path}:Walk", "--resume", "--steps", 300, "--out", run).refused("was trained on another version of")
    cli("train", "Walk", "--resume", "--steps", 300, "--out", run).refused("was trained on another version of")
    cli("train", "Reach", "--resume", "--steps", 300, "--out", run).refused("name one with --robot FILE")
    path.write_text(said)
    suites = ("--suite", "train", "--suite", "nominal", "--episodes", 1)
    judged = cli("evaluate", bundle, *suites, "--out", tmp_path / "v", "--json")
    assert judged.code == 0
    assert {"train", "nominal"} <= set(json.dumps(judged.result).replace('"', " ").split())
    table = make_env(f"{path}:Walk").get_wrapper_attr("parameters")
    assert len(load_suite("Walk", "heldout", table).conditions) > 20  # an arm's is run below
    assert "identical" in cli("replay", tmp_path / "v", "nominal/nominal/0").out
    moved = folder.rename(tmp_path / "elsewhere") / "robot.yaml"
    cli("evaluate", bundle, "--suite", "nominal", "--episodes", 1, "--out", tmp_path / "w").refused(
        "name it with --robot FILE"
    )
    again = cli("evaluate", bundle, "--robot", moved, "--suite", "nominal", "--episodes", 1, "--out", tmp_path / "w")
    assert again.code == 0
    assert "another version" not in again.err
    moved.write_text(re.sub(r"kp: [0-9.]+", "kp: 50.0", moved.read_text()))
    other = moved.rename(moved.with_name("weaker.yaml"))
    with pytest.warns(OtherRobot, match="made with another version of this robot"):
        cli("evaluate", bundle, "--robot", other, "--suite", "nominal", "--episodes", 1, "--out", tmp_path / "x")


def test_other_packages_install_robots_and_tasks(tmp_path, write):
    """By entry points: a robot file's path under simtoreal.robots, a task's class under simtoreal.tasks."""
    package = tmp_path / "site"
    info = package / "acme-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[simtoreal.robots]\nacme_dog = acme:dog\n\n"
        "[simtoreal.tasks]\nAcmeReach = acme:AcmeReach\nA1Walk = acme:AcmeReach\n"
        "NoTask = acme:dog\nGone = acme.gone:Walk\n"
    )
    (package / "acme.py").write_text(
        "from simtoreal.robots.tasks.reach import KukaReach\n"
        f"def dog():\n    return {str(write(A1))!r}\n"
        "class AcmeReach(KukaReach):\n    'An arm of another package.'\n"
    )
    code = (
        "import json, simtoreal; from simtoreal.robot_files import name_task; from simtoreal.build import make_env;"
        "found = simtoreal.tasks(); env = make_env('simtoreal/AcmeReach-v0');"
        "print(json.dumps([found['broken'], found['robots'],"
        "found['tasks']['AcmeReach']['summary'], name_task('Walk', 'acme_dog'),"
        "type(make_env('simtoreal/A1Walk-v0').unwrapped).__name__]))"
    )
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    broken, robots, summary, task, walk = json.loads(done.stdout.splitlines()[-1])
    assert broken.keys() == {"NoTask", "Gone"}
    assert "No module named 'acme.gone'" in broken["Gone"]
    assert robots == sorted(["acme_dog", *OURS])
    assert summary == "An arm of another package."
    assert task.endswith("robot.yaml:Walk")
    assert walk == "A1Walk"
    assert "which is taken" in done.stderr
    assert "simtoreal/AcmeReach-v0" not in gym.registry


def test_what_stable_baselines3_trained_on_a_robot_file_is_imported(write, tmp_path, cli):
    path = write(KUKA)
    env = make_env(f"{path}:Reach")
    model = SAC("MlpPolicy", env, seed=0)
    model.save(tmp_path / "model.zip")
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    cli("import", tmp_path / "model.zip", "--task", "Reach", "--out", run).refused("name one with --robot FILE")
    assert cli("import", tmp_path / "model.zip", "--task", "Reach", "--robot", path, "--out", run).code == 0
    assert cli("export", run, "--out", bundle).code == 0
    observation, _ = env.reset(seed=0)
    policy = Runtime(bundle)
    expected, _ = model.predict(observation, deterministic=True)
    command = env.unwrapped.command_layout.command(
        expected.astype(float), observation.astype(float), env.unwrapped.observation_layout
    )
    assert np.abs(policy.act(observation) - command).max() < 1e-5
    env.close()
    judged = cli("evaluate", bundle, "--suite", "heldout", "--episodes", 1, "--out", tmp_path / "verdict")
    assert judged.code == 0
    assert "conditions it never saw" in judged.out
    path.write_text(path.read_text() + "# edited\n")
    cli("export", run, "--out", bundle, "--force").refused("another version of")


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("engine", ["pybullet", "mujoco"])
def test_a_robot_of_ours_stands(name, engine):
    """By name, wherever a robot file may be given; for 2 s it holds its pose under the targets of standing."""
    assert name in known_robots()
    task = name_task("Walk", name)
    assert trial(task).sound
    env = make_env(task, engine=engine)
    height = env.unwrapped.legs.height
    env.reset(seed=0)
    for _ in range(100):
        env.step(np.zeros(12, np.float32))
    assert env.unwrapped.world.state()[2][2] == pytest.approx(height, rel=0.1)
    env.close()


@pytest.mark.parametrize(
    ("urdf", "words"),
    [
        (
            "package://no_such_package/a1.urdf",
            "no_such_package is no folder above, none on ROS_PACKAGE_PATH, no Python",
        ),
        ("package://pybullet_data/a1/none.urdf", r"a1/none.urdf is not a file in .*pybullet_data$"),
        ("package://pybullet_data/../numpy/__init__.py", r"is not a file in .*pybullet_data$"),
    ],
)
def test_a_urdf_may_lie_in_a_package(write, urdf, words):
    assert task_of_file(write(change(A1, urdf="package://pybullet_data/a1/a1.urdf")), "Walk").robot.urdf == a1().urdf
    with pytest.raises(ConfigFileError, match=rf"robot\.yaml:2: urdf: .*{words}"):
        task_of_file(write(change(A1, urdf=urdf)), "Walk")


def test_a_family_s_preset_is_shown_for_a_robot(cli, tmp_path):
    cli("tasks", "--preset", "Walk").refused("name a robot with --robot FILE")
    cli("tasks", "--robot", "robot.yaml").refused("name --preset or --parameters too")
    (tmp_path / "robot.yaml").write_text(dump_yaml(A1))
    cli("tasks", "--preset", "A1Walk", "--robot", tmp_path / "robot.yaml").refused("a Walk or a Reach or a Balance")
    entries = cli("tasks", "--preset", "Walk", "--robot", tmp_path / "robot.yaml", "--json").result["entries"]
    ranges = {name: ends for entry in entries for name, ends in entry["ranges"].items()}
    mass = RobotModel(a1().urdf).inertial("FR_hip").mass
    assert ranges["link.FR_hip.mass"] == pytest.approx([0.8 * mass, 1.2 * mass])
