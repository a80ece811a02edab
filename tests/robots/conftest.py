"""Small robots whose motion has an analytic answer, and the shipped tasks by registry."""

import os
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import simtoreal
from simtoreal.robots import catalog
from simtoreal.robots.actuators import ForceDrive, PDDrive
from simtoreal.robots.catalog import Drag, Robot
from simtoreal.robots.layout import ChoiceLayout, CommandLayout, Field, Layout, nearest_choice
from simtoreal.robots.mujoco_world import MuJoCoWorld
from simtoreal.robots.pybullet_world import PyBulletWorld
from simtoreal.robots.sensors import JointSensor
from simtoreal.robots.task import Task
from simtoreal.robots.task_definition import Start
from simtoreal.robots.world import Camera

assert simtoreal.__version__  # importing it registers the ids
TASKS = sorted(name for name in gym.registry if name.startswith("simtoreal/"))
ONE_EACH = (  # of each family, and of each kind of action and observation; the others are the same code with other data
    "A1Walk",
    "CartPoleBalanceDiscrete",
    "CartPoleSwingUp",
    "PandaPush",
    "PandaReach",
    "PixelCartPole",
    "QuadrotorTrajectory",
    "RacecarPath",
)
ASSETS = Path(__file__).parent / "assets"
NO_DRAG = Drag(0.0, 50.0, 0.0, 50.0, "N s/m", "N")
SLIDER = Robot("slider", ASSETS / "slider.urdf", {"slide": NO_DRAG})
LIFT = Robot("lift", ASSETS / "lift.urdf", {"rope": NO_DRAG}, payload={"cage": (0.2, 0.0, 0.0)}, max_payload=5.0)


def pytest_generate_tests(metafunc):
    if "task_id" in metafunc.fixturenames:
        every = metafunc.definition.get_closest_marker("every_robot") or "SIMTOREAL_SOAK" in os.environ
        metafunc.parametrize("task_id", TASKS if every else [f"simtoreal/{name}-v0" for name in ONE_EACH])


@pytest.fixture(params=["pybullet", "mujoco"])
def engine(request):
    return request.param


@pytest.fixture
def make(task_id, engine):
    """Makes the task under test in either engine; everything it made is closed at the end."""
    made = []

    def build(**options):
        made.append(gym.make(task_id, disable_env_checker=True, engine=engine, **options).unwrapped)
        return made[-1]

    yield build
    for env in made:
        env.close()


@pytest.fixture(params=[PyBulletWorld, MuJoCoWorld])
def world(request, tmp_path):
    """Makes a world of a robot by name, in either engine, at nominal values overlaid with the given ones."""
    yield from _worlds(request.param, tmp_path)


@pytest.fixture
def bullet_world(tmp_path):
    """As `world`, in PyBullet."""
    yield from _worlds(PyBulletWorld, tmp_path)


def _worlds(engine, tmp_path):
    diagonal = tmp_path / "diagonal.urdf"
    diagonal.write_text((ASSETS / "block.urdf").read_text().replace('xyz="1 0 0"', 'xyz="1 1 0"'))
    pendulum = replace(catalog.cartpole(), locked=("slider",), payload={"pole": (0.0, 0.0, 1.0)}, max_payload=3.0)
    robots = {
        "slider": SLIDER,
        "lift": LIFT,
        "block": Robot("block", ASSETS / "block.urdf", {"along": NO_DRAG, "up": NO_DRAG}, table=True),
        "block on the diagonal": Robot("block", diagonal, {"along": NO_DRAG, "up": NO_DRAG}, table=True),
        "cartpole": catalog.cartpole(),
        "pendulum": pendulum,
        "pendulum without ballast": replace(pendulum, com_reach={}),
        "cart with locked pole": replace(catalog.cartpole(), locked=("hinge",)),
        "panda": catalog.panda(),
        "panda with cube": catalog.panda_with_cube(),
    }
    made = []

    def build(name, values=None, physics_dt=0.001):
        out = engine(robots[name], physics_dt)
        made.append(out)
        out.apply({p.name: p.nominal for p in out.parameters} | (values or {}))
        return out

    yield build
    for each in made:
        each.close()


class Slide(Task):
    """2 kg on a frictionless horizontal rail, pushed by up to 20 N."""

    robot = SLIDER
    physics_dt = 0.004
    control_dt = 0.02
    horizon = 200
    success_hold = 0.1
    velocity_bound = 90.0
    camera = Camera((0.0, 0.0, 0.0), 2.0)
    observation_layout = Layout(Field("position", 1, "m"), Field("velocity", 1, "m/s"))
    command_layout = CommandLayout(Field("force", 1, "N"), scale=[20.0], low=[-20.0], high=[20.0])
    reward_layout = Layout(Field("position", 1, "m"))
    sensors = (
        JointSensor("position", "position", ("slide",), "m", 1.0, 1.0),
        JointSensor("velocity", "velocity", ("slide",), "m/s", 1.0, 1.0),
    )
    commanded_joints = ("slide",)

    def make_drive(self):
        return ForceDrive(self.world.joints, ("slide",), (20.0,))

    def start(self, rng):
        return Start((0.0,), (0.0,), (0.0,))

    def signals(self, state):
        return {"position": state[0]}

    def observe(self, readings, command):
        return readings

    @staticmethod
    def reward_terms(signals, action):
        return {"position": signals["position"][0]}

    @staticmethod
    def succeeds(signals):
        return False


class Lift(Slide):
    """2 kg on a vertical rail under a PD drive of 400 N/m and 80 N s/m that compensates 2 kg of gravity, up to 60 N."""

    robot = LIFT
    command_layout = CommandLayout(Field("height", 1, "m"), scale=[1.0], low=[-1.0], high=[1.0])
    sensors = (
        JointSensor("position", "position", ("rope",), "m", 1.0, 1.0),
        JointSensor("velocity", "velocity", ("rope",), "m/s", 1.0, 1.0),
    )
    commanded_joints = ("rope",)
    compensates_gravity = True

    def make_drive(self):
        return PDDrive([400.0], [80.0], [60.0])

    def apply_bias(self):
        self.drive.encoder_bias = self._readers["position"].bias


@pytest.fixture
def slide():
    env = Slide()
    yield env
    env.close()


@pytest.fixture
def lift():
    env = Lift()
    yield env
    env.close()


def as_action(env, numbers):
    """Numbers in [-1, 1], one for all or one for each element of a command, as an action of the environment's space."""
    full = np.full(env.command_layout.size, numbers, np.float32)
    if isinstance(env.command_layout, ChoiceLayout):
        number = float(full[0])
        return nearest_choice(number, len(env.command_layout.commands)) if np.isfinite(number) else number
    return full


@pytest.fixture
def act():
    """`as_action`."""
    return as_action


@pytest.fixture
def rollout():
    """Observations [steps + 1, n] of one episode under seeded random actions, or those of `policy(env)`."""

    def run(env, seed, steps, parameters=None, policy=None):
        rng = np.random.default_rng(seed)
        obs, _ = env.reset(seed=seed, options={"parameters": parameters or {}})
        out = [obs]
        for _ in range(steps):
            action = policy(env) if policy else as_action(env, rng.uniform(-1.0, 1.0, env.command_layout.size))
            obs, _, terminated, truncated, _ = env.step(action)
            out.append(obs)
            if terminated or truncated:
                break
        return np.array(out)

    return run
