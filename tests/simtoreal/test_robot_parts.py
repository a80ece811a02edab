"""What a robot file says of a robot's sensors and drives."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import simtoreal
from simtoreal.build import make_env
from simtoreal.randomization.randomizer import Preset
from simtoreal.randomization.yaml_files import ConfigFileError, dump_yaml
from simtoreal.robot_files import fingerprint, task_of_file
from simtoreal.robots.catalog import QUADRUPED, cartpole
from simtoreal.robots.lint import unsensed
from tests.simtoreal.test_robot_files import A1, KUKA, change

EVERYTHING = {
    "encoders": {"rate": 500, "latency": 0.002},
    "imu": {"rate": 100, "latency": 0.004},
    "foot_contact": None,
    "accelerometer": {"rate": 100},
    "joint_torque": None,
    "motion_capture": None,
}


def write_network(path, weights, *, inputs=1, kind=TensorProto.FLOAT, rank=2):
    """An ONNX file of a linear actuator network."""
    w = np.array(weights, np.float32)
    shape = ["n", len(w)] if rank == 2 else ["n"]
    given = [helper.make_tensor_value_info(f"x{i}", kind, shape) for i in range(inputs)]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x0", "w"], ["torque"])],
        "actuator",
        given,
        [helper.make_tensor_value_info("torque", kind, ["n"])],
        [numpy_helper.from_array(w.astype(helper.tensor_dtype_to_np_dtype(kind)), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


@pytest.fixture
def write(tmp_path):
    def build(data, name="robot.yaml"):
        path = tmp_path / name
        path.write_text(dump_yaml(data))
        return path

    return build


def test_sensors_are_observed_at_their_rate_and_age(write):
    path = write(change(A1, sensors=EVERYTHING))
    env = make_env(f"{path}:Walk").unwrapped
    nominal = env.parameters.nominal
    for name, latency, period in (
        ("joint_position", 0.002, 0.002),
        ("joint_velocity", 0.002, 0.002),
        ("imu", 0.004, 0.01),
        ("foot_contact", 0.0, 0.0),
        ("acceleration", 0.0, 0.01),
        ("position", 0.02, 1 / 30),
        ("heading", 0.02, 1 / 30),
    ):
        assert (nominal[f"sensor.{name}.latency"], nominal[f"sensor.{name}.period"]) == (latency, period)
    names = [field.name for field in env.observation_layout.fields]
    assert names[-5:] == ["foot_contact", "acceleration", "joint_torque", "position", "heading"]
    assert unsensed(env) == []
    env.close()
    plain = task_of_file(write(A1, "plain.yaml"), "Walk")
    assert [field.name for field in plain.observation_layout.fields] == names[:-5]
    other = change(A1, sensors={**EVERYTHING, "motion_capture": {"rate": 100}})
    task = task_of_file(write(other, "other.yaml"), "Walk")
    assert [(s.latency, s.period) for s in task.sensors if s.name in ("position", "heading")] == [(0.02, 0.01)] * 2


def test_motion_capture_shows_where_the_robot_was(write):
    """Two 30ths of a second and less ago: read at 50 Hz, it stays the same for two readings of five."""
    env = make_env(f"{write(change(A1, sensors=EVERYTHING))}:Walk").unwrapped
    env.reset(seed=0)
    where = env.observation_layout.slices["position"]
    env.push((0.0, 1.0, 0.0))
    seen, true = [], []
    for _ in range(50):
        seen.append(env.step(np.zeros(12, np.float32))[0][where])
        true.append(env.world.state()[2][:3])
    seen, true = np.array(seen), np.array(true)
    assert (np.diff(seen[:, 1]) == 0.0).sum() == pytest.approx(20, abs=2)
    assert np.ptp(true[:, 1]) > 0.05
    ages = [np.abs(seen[k] - true[k - np.arange(5)]).max(axis=1).min() for k in range(5, 50)]
    assert max(ages) < 0.02  # between two control steps
    assert np.abs(seen - true).max() > 0.02
    env.close()


def test_a_foot_switch_sticks(write):
    env = make_env(f"{write(change(A1, sensors=EVERYTHING))}:Walk").unwrapped
    stuck = {
        "sensor.foot_contact.bias.FL": -0.6,
        "sensor.foot_contact.bias.FR": 0.5,
        "sensor.foot_contact.bias.RL": 0.4,
    }
    env.reset(seed=0, options={"parameters": stuck})
    where = env.observation_layout.slices["foot_contact"]
    steps = [env.step(np.full(12, k % 2, np.float32))[0][where] for k in range(40)]
    told = np.array(steps).T[[QUADRUPED.index(leg) for leg in ("FL", "FR", "RL", "RR")]]
    assert told[0].max() == 0.0
    assert told[1].min() == 1.0
    assert {*told[2]} == {*told[3]} == {0.0, 1.0}
    env.close()


def test_an_arm_may_feel_its_joints(write):
    env = make_env(f"{write(change(KUKA, sensors={'encoders': None, 'joint_torque': {'rate': 200}}))}:Reach").unwrapped
    env.reset(seed=0)
    seen = env.step(np.zeros(7, np.float32))[0]
    felt = seen[env.observation_layout.slices["joint_torque"]]
    assert np.abs(felt).max() > 5.0  # its own weight
    assert felt == pytest.approx(np.float32(env.torque), rel=1e-6)
    env.close()


@pytest.mark.parametrize(
    ("robot", "family", "sections", "words", "line"),
    [
        (
            A1,
            "Walk",
            {"sensors": {"encoders": None}},
            "gives gravity and angular_velocity, which is observed",
            "sensors",
        ),
        (A1, "Walk", {"sensors": {"imu": None}}, "gives joint_position and joint_velocity", "sensors"),
        (A1, "Walk", {"sensors": {**EVERYTHING, "sonar": None}}, "sonar", "sonar"),
        (A1, "Walk", {"sensors": {**EVERYTHING, "imu": {"rate": 2}}}, "rate", "rate"),
        (A1, "Walk", {"sensors": {**EVERYTHING, "imu": {"latency": 0.5}}}, "latency", "latency"),
        (A1, "Walk", {"sensors": {**EVERYTHING, "imu": {"hz": 100}}}, "hz", "imu"),
        (KUKA, "Reach", {"sensors": {"encoders": None, "imu": None}}, "imu is none of encoders, joint_torque", "imu"),
        (
            A1,
            "Walk",
            {"drive": {"kp": 60, "kd": 2, "motor": {"stall": 0, "speed": 20, "voltage": 24}}},
            "stall",
            "stall",
        ),
        (A1, "Walk", {"drive": {"kp": 60, "kd": 2, "motor": {"stall": 9}}}, "speed: is missing", "motor"),
        (A1, "Walk", {"drive": {"network": {"file": "no.onnx"}}}, "no.onnx", "network"),
        (
            A1,
            "Walk",
            {"drive": {"network": {"file": "n"}, "motor": {"stall": 1, "speed": 1, "voltage": 1}}},
            "a motor or a network, not both",
            "drive",
        ),
        (A1, "Walk", {"drive": {"kp": 6, "network": {"file": "n"}}}, "drive.kp: a network drives the joints", "kp"),
        (
            A1,
            "Walk",
            {"drive": {"network": {"file": "n"}}, "joints": A1["joints"] | {"FR_hip_joint": {"at": 0.0, "kd": 0.0}}},
            "joints.FR_hip_joint.kd: a network drives the joints",
            "kd",
        ),
        (KUKA, "Reach", {"drive": {"kp": 6, "kd": 2, "control": "velocity"}}, "drive.kp: velocities are foll", "kp"),
        (
            A1,
            "Walk",
            {"joints": A1["joints"] | {"FR_hip_joint": {"at": 0.0, "range": [-0.5, 0.9]}}},
            "joints.FR_hip_joint.range: from -0.5 to 0.9 leaves the URDF's, -0.802851 to 0.802851",
            "range",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(write, robot, family, sections, words, line):
    path = write(change(robot, **sections))
    with pytest.raises(ConfigFileError) as caught:
        task_of_file(path, family)
    message = str(caught.value)
    assert words in message
    number = int(message.split(":")[1])
    assert line in path.read_text().splitlines()[number - 1]


def test_a_motor_brings_a_battery(write):
    motor = {"stall": 40.0, "speed": 25.0, "voltage": 22.0}
    env = make_env(f"{write(change(A1, drive={'kp': 60, 'kd': 2, 'motor': motor}))}:Walk").unwrapped
    assert env.parameters["battery.voltage"].nominal == 22.0
    env.reset(seed=0)
    env.step(np.zeros(12, np.float32))
    torque = env.drive.torque(([9.0] * 12, [-12.5] * 12), [0.0] * 12, ())
    assert torque == pytest.approx([-20.0] * 12)  # half the free speed, half the torque at rest
    env.close()


def test_a_network_drives_as_what_it_learned(write, tmp_path):
    """One that learned the PD controller's own law is that controller, in single precision."""
    write_network(tmp_path / "drive.onnx", [60.0, 0.0, -2.0, 0.0])
    network = {"file": "drive.onnx", "lags": [0.0, 0.01]}
    files = [
        write(change(A1, drive=drive), name)
        for drive, name in (({"network": network}, "learned.yaml"), ({"kp": 60, "kd": 2}, "pd.yaml"))
    ]
    heights = []
    for path in files:
        env = make_env(f"{path}:Walk").unwrapped
        assert ("actuator.kp" in env.parameters) == (path.name == "pd.yaml")
        env.reset(seed=0)
        for k in range(25):
            env.step(np.full(12, 0.3 * np.sin(k), np.float32))
        heights.append(env.world.state()[2][:3])
        env.close()
    assert heights[0] == pytest.approx(heights[1], abs=1e-4)


def test_another_network_is_another_robot(write, tmp_path):
    write_network(tmp_path / "drive.onnx", [60.0, -2.0])
    task = f"{write(change(A1, drive={'network': {'file': 'drive.onnx', 'lags': [0.0]}}))}:Walk"
    before = fingerprint(task)
    assert sorted(before) == ["file", "network", "urdf"]
    write_network(tmp_path / "drive.onnx", [50.0, -2.0])
    after = fingerprint(task)
    assert {name for name in before if before[name] != after[name]} == {"network"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": [1.0] * 4}, r"must take float32 \[n, 2\] with 1 lags"),
        ({"weights": [1.0, 1.0], "kind": TensorProto.DOUBLE}, "must take float32"),
        ({"weights": [1.0, 1.0], "inputs": 2}, "one input and one output, has 2"),
        ({"weights": [1.0, 1.0], "rank": 1}, "must take float32"),
        ({"weights": [float("nan"), 1.0]}, "finite torque"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(write, tmp_path, options, words):
    write_network(tmp_path / "drive.onnx", options.pop("weights"), **options)
    path = write(change(A1, drive={"network": {"file": "drive.onnx", "lags": [0.0]}}))
    with pytest.raises(ConfigFileError, match=words):
        task_of_file(path, "Walk")


def test_what_is_no_network_is_refused(write, tmp_path):
    (tmp_path / "drive.onnx").write_bytes(b"no model")
    path = write(change(A1, drive={"network": {"file": "drive.onnx"}}))
    with pytest.raises(ConfigFileError, match="onnxruntime"):
        task_of_file(path, "Walk")


def test_an_edited_urdf_is_seen(write, tmp_path):
    """The robot file is as it was, the URDF beside it is not."""
    copied = shutil.copytree(Path(A1["urdf"]).parent, tmp_path / "a1")
    urdf = copied / Path(A1["urdf"]).name
    path = write(change(A1, urdf=f"a1/{urdf.name}"))
    before = task_of_file(path, "Walk")
    assert task_of_file(path, "Walk") is before
    urdf.write_text(urdf.read_text().replace("<robot", "<!-- edited --><robot", 1))
    assert task_of_file(path, "Walk") is not before


CART = {
    "robot": "my_cart",
    "urdf": str(cartpole().urdf),
    "joints": {"slider": {"at": 0.0, "effort": 10.0, "velocity": 50.0}, "hinge": 0.0},
    "drive": {"damping": 0.0},
    "balance": {"driven": "slider", "pole": "hinge", "room": 2.0},
}
FURUTA = {
    "robot": "furuta",
    "urdf": str(Path(__file__).parent / "assets" / "furuta.urdf"),
    "joints": {"turn": {"at": 0.5, "effort": 0.4}, "swing": 0.0},
    "balance": {"driven": "turn", "pole": "swing", "room": 2.0},
}


@pytest.mark.parametrize("engine", ["pybullet", "mujoco"])
def test_a_cart_pole_described_by_a_file_is_the_catalogues(write, engine):
    """But for what the catalogue knows of its bearings."""
    mine, ours = (
        make_env(task, engine=engine).unwrapped for task in (f"{write(CART)}:Balance", "simtoreal/CartPoleBalance-v0")
    )
    still = {f"joint.{joint}.damping": 0.0 for joint in ("slider", "hinge")}
    actions = np.random.default_rng(0).uniform(-0.3, 0.3, (60, 1)).astype(np.float32)
    found = []
    for env in (mine, ours):
        seen, _ = env.reset(seed=2, options={"parameters": still | {"link.pole.mass": 0.12}})
        found.append([seen.tolist()])
        for action in actions:
            seen, reward, terminated, _, info = env.step(action)
            found[-1].append([*seen.tolist(), reward, *info["reward_terms"].values()])
            if terminated:
                break
        env.close()
    assert found[0] == found[1]
    assert len(found[0]) > 20


@pytest.mark.parametrize("engine", ["pybullet", "mujoco"])
def test_a_pole_on_an_arm_that_turns_is_a_balancer_too(write, engine):
    """Angles count from the middle and from upright. Let go, it falls as a pole on a cart does, whose mass M is the
    arm's inertia over its length squared: lean'' = (M + m) g / (l / 2 (4 / 3 (M + m) - m)) lean."""
    env = make_env(f"{write(FURUTA)}:Balance", engine=engine).unwrapped
    assert env.command_layout.fields[0].unit == "N m"
    seen, _ = env.reset(seed=0)
    assert abs(seen[0]) <= 0.3
    assert abs(env.world.state()[0][0] - 0.5) <= 0.3
    env.world.reset([0.5, 0.01], [0.0, 0.0])
    env._state = env.world.state()
    for _ in range(10):
        seen, _, terminated, *_ = env.step(np.zeros(1, np.float32))
    cart, pole = (0.3 * 0.3**2 / 3) / 0.3**2, 0.1
    rate = np.sqrt((cart + pole) * 9.81 / (0.2 * (4 / 3 * (cart + pole) - pole)))
    assert not terminated
    assert seen[2] == pytest.approx(0.01 * np.cosh(0.2 * rate), rel=0.05)
    assert unsensed(env) == []
    env.close()


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"balance": {"driven": "swing", "pole": "turn", "room": 1.0}}, "turn does not hang on swing"),
        ({"balance": {"driven": "turn", "pole": "turn", "room": 1.0}}, "joint swing is neither driven nor the pole's"),
        (
            {"balance": {"driven": "turn", "pole": "swnig", "room": 1.0}},
            "no joint 'swnig' in joints; did you mean swing",
        ),
        ({"balance": {"driven": "turn", "pole": "swing", "room": 3.0}}, "leaves joint turn's range, from -3.1 to 3.1"),
        ({"balance": {"driven": "turn", "pole": "swing", "room": -1.0}}, "balance.room"),
        ({"sensors": {"imu": None, "encoders": None}}, "imu is none of encoders"),
        ({"joints": {"turn": 0.0}}, "joint swing moves, and is neither in joints nor in lock"),
    ],
)
def test_what_is_no_balancer_is_refused(write, sections, words):
    with pytest.raises(ConfigFileError) as caught:
        task_of_file(write(change(FURUTA, **sections)), "Balance")
    assert words in str(caught.value)


def test_a_joint_that_is_held_by_nothing_needs_gains_elsewhere(write):
    with pytest.raises(
        ConfigFileError, match=r"robot.yaml:16: drive.kp: is missing, and joint FR_hip_joint has none of its own"
    ):
        task_of_file(write(change(A1, drive={"effort": 30})), "Walk")


def test_a_balancer_is_proposed_from_two_joints_of_which_one_has_no_motor(tmp_path, cli):
    path = tmp_path / "robot.yaml"
    said = cli("inspect", FURUTA["urdf"], "--write", path)
    assert said.code == 0
    assert "at 12 degrees 0.12 N m holds it, and the drive gives up to 0.54 N m" in said.out  # (I + m r^2) g 12 deg / r
    task = task_of_file(path, "Balance")
    assert (task.balancer.driven, task.balancer.pole, task.balancer.effort) == ("turn", "swing", 0.54)
    assert task.balancer.room == pytest.approx(3.1 / 2)


def test_goals_out_of_the_tools_reach_are_refused(write):
    """The iiwa's joints 2 to 7 and its flange lie one behind another: 1.1025 m by its URDF."""
    reach = KUKA["reach"] | {"high": [1.3, 0.3, 0.6]}
    with pytest.raises(ConfigFileError, match=r"goals' corner \[1.3, .*the tool never more than 1.1 m"):
        task_of_file(write(change(KUKA, reach=reach)), "Reach")


def test_python_makes_any_task_by_its_name(write):
    env = simtoreal.make_env(f"{write(FURUTA)}:Balance", engine="mujoco")
    assert env.reset(seed=0)[0].shape == (5,)
    env.close()


BRIEF = ("agent.learning_starts=100", "agent.compile=false", "evaluate_every=300", "evaluate_episodes=1")
SERVO = change(
    KUKA,
    drive={"control": "velocity", "kd": 10, "rotor": 0.1, "damping": 0.5},
    joints={name: {"at": joint["at"], "kd": joint["kd"]} for name, joint in KUKA["joints"].items()},
)


@pytest.mark.parametrize("engine", ["pybullet", "mujoco"])
def test_an_arm_that_is_driven_by_velocities_has_them(write, engine):
    env = make_env(f"{write(SERVO)}:Reach", engine=engine).unwrapped
    assert [field.name for field in env.command_layout.fields] == ["joint_velocity_target"]
    assert "actuator.kp" not in env.parameters
    env.reset(seed=0)
    before = env.world.state()[0]
    for _ in range(20):
        env.step(np.zeros(7, np.float32))
    assert env.world.state()[0] == pytest.approx(before, abs=0.01)  # gravity is carried: nothing sinks
    action = np.array([0.2, -0.1, 0.1, 0.2, -0.2, 0.1, 0.3], np.float32)
    for _ in range(10):
        seen = env.step(action)[0]
    assert env.world.state()[1] == pytest.approx(2.0 * action, abs=0.06)
    assert seen[env.observation_layout.slices["last_velocity_target"]] == pytest.approx(2.0 * action)
    assert env.command_layout.changing([0.1] * 7, env.observation_layout).relative_to == ("last_velocity_target",)
    env.close()


def test_a_velocity_is_at_most_the_joint_s_own(write):
    joints = {**SERVO["joints"], "lbr_iiwa_joint_1": {"at": 0.0, "kd": 100, "velocity": 0.5}}
    layout = task_of_file(write(change(SERVO, joints=joints)), "Reach").command_layout
    assert layout.high[:2].tolist() == [0.5, layout.high[1]]
    assert layout.high[1] > 0.5
    assert (layout.low == -layout.high).all()


def test_a_robot_lacks_what_its_family_s_preset_holds_for_optional(write, tmp_path):
    """A servo has no kp, and an arm need not say what it carries; both are trained with the preset of all arms."""
    path = write({name: section for name, section in SERVO.items() if name != "payload"})
    found = simtoreal.train(f"{path}:Reach", steps=300, seed=0, out=tmp_path / "run", assignments=BRIEF)
    drawn = Preset.load(found.run / "randomization.yaml").entries
    assert {entry.optional for entry in drawn if entry.pattern == "actuator.kp"} == {True}
    bundle = simtoreal.export(found.run, tmp_path / "bundle")
    ranges = json.loads((bundle / "spec.json").read_text())["training_ranges"]
    assert "actuator.kd" in ranges
    assert not [name for name in ranges if name.endswith((".payload", "actuator.kp"))]
