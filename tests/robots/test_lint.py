"""The lint names what no sensor gives, and that alone; and what further sensors of a robot add to what is seen."""

import gymnasium as gym
import numpy as np
import pytest

from simtoreal.robots.lint import unsensed
from simtoreal.robots.sensors import Accelerometer, ContactSensor, TorqueSensor
from simtoreal.robots.tasks.reach import PandaReach
from simtoreal.robots.tasks.walk import A1Walk


@pytest.mark.every_robot
def test_every_task_observes_what_its_sensors_give(task_id):
    env = gym.make(task_id).unwrapped
    assert unsensed(env) == []
    env.close()


class Cheat(PandaReach):
    """Sees where its tool really is, and how far it is from where it began."""

    def observe(self, readings, command):
        return super().observe(readings, command) | {"tool_position": self._tool.position(self._state[0])}


class Remembers(PandaReach):
    """Takes a mean over its own readings, as a filter does."""

    def remember(self, readings):
        now = np.array(readings["joint_velocity"])
        self._filtered = now if self.control_step == 0 else 0.2 * self._filtered + 0.8 * now

    def observe(self, readings, command):
        return super().observe(readings, command) | {"joint_velocity": self._filtered.tolist()}


def test_a_field_that_looks_into_the_simulator_is_named():
    env = Cheat()
    assert unsensed(env) == ["tool_position"]
    env.close()


class SeesFriction(A1Walk):
    """Told what the ground is like, which stays as it is for the whole of an episode."""

    def observe(self, readings, command):
        return super().observe(readings, command) | {"yaw_rate_command": (self.read_parameters()["ground.friction"],)}


class KnowsItsBias(PandaReach):
    """Told how far off its encoders are."""

    def observe(self, readings, command):
        seen = super().observe(readings, command)
        bias = self._readers["joint_position"].bias
        return seen | {"joint_position": [q - off for q, off in zip(readings["joint_position"], bias, strict=True)]}


@pytest.mark.parametrize(("task", "field"), [(SeesFriction, "yaw_rate_command"), (KnowsItsBias, "joint_position")])
def test_what_only_another_robot_would_see_otherwise_is_named(task, field):
    env = task()
    assert unsensed(env) == [field]
    env.close()


def test_a_filter_of_readings_is_no_such_field():
    env = Remembers()
    assert unsensed(env) == []
    env.close()


class EquippedWalk(A1Walk):
    """An A1 with all that it can carry."""

    more_sensors = (
        ContactSensor(A1Walk.legs.names),
        Accelerometer(),
        TorqueSensor(A1Walk.legs.joints, 5.0, 2.0),
    )


class EquippedReach(PandaReach):
    """A Panda that feels its joints."""

    more_sensors = (TorqueSensor(PandaReach.arm.joints, 5.0, 2.0),)


@pytest.fixture(params=[EquippedWalk, EquippedReach])
def equipped(request, engine):
    env = request.param(engine=engine, privileged=True)
    yield env
    env.close()


def test_further_sensors_are_observed_and_nothing_else_changes(equipped, engine):
    plain = type(equipped).__mro__[1](engine=engine)
    assert unsensed(equipped) == []
    layout, size = equipped.observation_layout, plain.observation_layout.size
    names = [sensor.name for sensor in equipped.more_sensors]
    assert [field.name for field in layout.fields[-len(names) :]] == names
    for env in (equipped, plain):
        env.reset(seed=1)
    for _ in range(10):
        seen, *rest, _ = equipped.step(np.zeros(equipped.action_space.shape, np.float32))
        bare, *same, _ = plain.step(np.zeros(plain.action_space.shape, np.float32))
        assert seen["policy"].shape == (layout.size,)
        assert seen["policy"][:size].tobytes() == bare.tobytes()
        assert rest == same
    torque = seen["policy"][layout.slices["joint_torque"]]
    assert torque == pytest.approx(np.float32(equipped.torque), rel=1e-6)
    assert np.abs(torque).max() > 1.0
    plain.close()


def test_a_standing_robot_feels_the_ground(engine):
    env = EquippedWalk(engine=engine)
    seen, _ = env.reset(seed=0)
    for _ in range(25):
        seen = env.step(np.zeros(12, np.float32))[0]
    part = env.observation_layout.slices
    assert seen[part["foot_contact"]].tolist() == [1.0] * 4
    assert np.linalg.norm(seen[part["acceleration"]]) == pytest.approx(9.81, rel=0.05)
    env.close()


def test_in_a_mirror_left_feet_are_right_ones():
    env = EquippedWalk(privileged=True)
    env.reset(seed=0)
    n, p = env.observation_layout.size, env.privileged_layout.size
    rows = {name: np.arange(1.0, n + 1.0, dtype=np.float32)[None] for name in ("obs", "next_obs")}
    rows |= {name: np.ones((1, p), np.float32) for name in ("privileged", "next_privileged")}
    rows["action"] = np.ones((1, 12), np.float32)
    image, part = env.mirror_image(rows)["obs"][0], env.observation_layout.slices
    first = part["foot_contact"].start + 1.0
    assert image[part["foot_contact"]].tolist() == [first + 1, first, first + 3, first + 2]
    x, y, z = rows["obs"][0][part["acceleration"]]
    assert image[part["acceleration"]].tolist() == [x, -y, z]
    torque = rows["obs"][0][part["joint_torque"]]
    assert image[part["joint_torque"]][:6].tolist() == [-torque[3], torque[4], torque[5], -torque[0], *torque[1:3]]
    assert (env.mirror_image(env.mirror_image(rows))["obs"] == rows["obs"]).all()
    env.close()
