"""The cart-pole tasks: start, success, failure, and the same task on another engine and in gymnasium."""

import math

import gymnasium as gym
import numpy as np
import pytest

from simtoreal.robots import task as task_module
from simtoreal.robots.catalog import cartpole
from simtoreal.robots.parameters import Parameter
from simtoreal.robots.tasks.cartpole import CartPoleBalance, CartPoleBalanceDiscrete, CartPoleSwingUp
from simtoreal.robots.world import World

ZERO = np.zeros(1, np.float32)


@pytest.fixture
def env():
    env = CartPoleSwingUp()
    yield env
    env.close()


def put(env, x, angle, speed=0.0, spin=0.0):
    env.reset(seed=0)
    env.world.reset([x, angle], [speed, spin])
    env._state = env.world.state()


def test_it_starts_hanging_in_the_middle(env):
    for seed in range(50):
        x, speed, sin, cos, spin, force = env.reset(seed=seed)[0]
        assert abs(x) <= 0.1
        assert cos < -0.99
        assert abs(sin) <= 0.05
        assert (speed, spin, force) == (0.0, 0.0, 0.0)


def test_success_is_two_seconds_upright(env):
    """Exactly upright and at rest, nothing moves: 100 steps of 20 ms."""
    put(env, 0.0, 0.0)
    won = [env.step(ZERO)[4]["is_success"] for _ in range(101)]
    assert won == [False] * 99 + [True] * 2


@pytest.mark.parametrize(("degrees", "upright"), [(11.9, True), (12.1, False), (-11.9, True), (-12.1, False)])
def test_upright_is_within_twelve_degrees(degrees, upright):
    assert CartPoleSwingUp.succeeds({"pole_angle": [math.radians(degrees)]}) is upright


def test_a_whole_turn_is_still_upright(env):
    put(env, 0.0, 2 * np.pi)
    assert env.step(ZERO)[4]["reward_signals"]["pole_angle"][0] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_leaving_the_track_is_a_failure(env, side):
    put(env, 1.99 * side, np.pi, speed=0.4 * side)
    _, _, terminated, truncated, info = env.step(ZERO)
    assert not terminated
    for _ in range(3):
        _, _, terminated, truncated, info = env.step(ZERO)
        if terminated:
            break
    assert (terminated, truncated) == (True, False)
    assert info["is_success"] is False
    assert abs(info["reward_signals"]["cart_position"][0]) > 2.0


def test_ten_newtons_to_the_right(env):
    """x'' = F / (M + m/4) while the pole hangs: after one step of 20 ms, against 0.1 N s/m, 0.195 m/s."""
    put(env, 0.0, np.pi)
    obs = env.step(np.ones(1, np.float32))[0]
    assert obs[1] == pytest.approx(10.0 / 1.025 * 0.02, rel=5e-3)
    assert obs[5] == 10.0


class HandMade(World):
    """A cart-pole by its textbook equations of motion: no engine, no contact, no drag to set."""

    physics_dt = 0.004
    joints = ("slider", "hinge")
    parameters = (Parameter("link.cart.mass", "kg", 1.0, 0.3, 3.0), Parameter("link.pole.mass", "kg", 0.1, 0.03, 0.3))

    def __init__(self, robot, physics_dt, *, rendering=False, gui=False):
        assert robot is cartpole()
        assert physics_dt == self.physics_dt
        self.reset([0.0, 0.0], [0.0, 0.0])

    def apply(self, values):
        self.values = {p.name: values[p.name] for p in self.parameters}

    def read_back(self):
        return dict(self.values)

    def reset(self, position, velocity, base=()):
        self._numbers = np.array([*position, *velocity], float)

    def state(self):
        return self._numbers[:2].tolist(), self._numbers[2:].tolist()

    def step(self, torque, wrench=(), *, base=True):
        """Runge-Kutta of fourth order; angle from upright, rod of 1 m, 0.1 N s/m on the rail, 0.001 N m s/rad."""

        def rate(s):
            _, angle, speed, spin = s
            m = self.values["link.pole.mass"]
            couple = 0.5 * m * np.cos(angle)
            mass = [[self.values["link.cart.mass"] + m, couple], [couple, m / 3]]
            force = [
                torque[0] - 0.1 * speed + 0.5 * m * np.sin(angle) * spin**2,
                torque[1] - 0.001 * spin + 0.5 * m * 9.81 * np.sin(angle),
            ]
            return np.array([speed, spin, *np.linalg.solve(mass, force)])

        s, h = self._numbers, self.physics_dt
        a = rate(s)
        b = rate(s + h / 2 * a)
        c = rate(s + h / 2 * b)
        d = rate(s + h * c)
        self._numbers = s + h / 6 * (a + 2 * b + 2 * c + d)
        return self.state()

    def gravity_torque(self, position):
        raise NotImplementedError

    def in_contact(self):
        return False

    def link_poses(self):
        raise NotImplementedError

    def reload(self):
        pass

    def mark(self, position, radius):
        pass

    def render(self, camera):
        raise NotImplementedError

    def close(self):
        pass


def test_a_second_engine_stands_behind_the_same_boundary_and_agrees(env, rollout, monkeypatch):
    """Both dampings, the coupling and gravity come out alike for a second of random pushes on another pole."""
    monkeypatch.setattr(task_module, "make_world", lambda engine, *made, **how: HandMade(*made, **how))
    twin = CartPoleSwingUp()
    assert twin.observation_space == env.observation_space
    assert "link.cart.mass" in twin.parameters
    assert "joint.hinge.friction" not in twin.parameters  # what an engine cannot do is absent from its table
    values = {
        "link.cart.mass": 1.4,
        "link.pole.mass": 0.25,
        "actuator.latency": 0.013,
        "sensor.cart_velocity.noise": 0.1,
    }
    ours, theirs = (rollout(each, 2, 50, values) for each in (env, twin))
    assert np.abs(ours).max(0)[[0, 1, 4]].min() > 0.1
    np.testing.assert_allclose(ours, theirs, atol=0.05)


@pytest.fixture(params=[CartPoleBalance, CartPoleBalanceDiscrete])
def balance(request):
    env = request.param()
    yield env
    env.close()


def test_it_starts_near_upright(balance):
    starts = np.array([balance.reset(seed=seed)[0][:4] for seed in range(200)])
    assert (np.abs(starts) <= [0.3, 0.2, 0.08, 0.2]).all()
    assert (np.ptp(starts, axis=0) > [0.5, 0.35, 0.14, 0.35]).all()


@pytest.mark.parametrize(("x", "won"), [(0.49, True), (-0.51, False)])
def test_it_is_to_stand_near_the_middle(x, won):
    """Exactly upright and at rest, nothing moves: 500 steps of 20 ms."""
    env = CartPoleBalance()
    put(env, x, 0.0)
    for step in range(1, 501):
        _, _, terminated, truncated, info = env.step(ZERO)
        assert (terminated, truncated) == (False, step == 500)
        assert info["is_success"] is (won and step >= 100)
    env.close()


@pytest.mark.parametrize(
    ("x", "degrees", "fallen"),
    [(0.0, 11.9, False), (0.0, -12.1, True), (0.0, 12.1, True), (1.99, 0.0, False), (2.01, 0.0, True)],
)
def test_it_ends_beyond_twelve_degrees_or_off_the_track(x, degrees, fallen):
    signals = {"cart_position": [x], "pole_angle": [math.radians(degrees)]}
    assert CartPoleBalance.fails(signals) is CartPoleBalanceDiscrete.fails(signals) is fallen


def test_what_a_step_is_worth(balance):
    """At 0.3 m from the middle half of `centred`; of 10 N that were 0 before, 0.01 + 0.05 less."""
    put(balance, 0.3, 0.0)
    push = 1 if isinstance(balance, CartPoleBalanceDiscrete) else np.ones(1, np.float32)
    _, reward, *_, info = balance.step(push)
    assert info["reward_terms"]["centred"] == pytest.approx(0.25, rel=0.01)
    assert reward == pytest.approx(0.75 if isinstance(push, int) else 0.69, abs=0.003)
    assert info["reward_signals"]["force_change"] == (10.0,)


def test_it_moves_as_gymnasium_s_cart_pole_does():
    """Without drag it is the same cart and pole, once theirs too is integrated in steps of 4 ms."""
    ours, theirs = CartPoleBalanceDiscrete(), gym.make("CartPole-v1", disable_env_checker=True).unwrapped
    theirs.kinematics_integrator = "semi-implicit euler"
    assert ours.action_space == theirs.action_space
    assert ours.observation_space.shape == theirs.observation_space.shape
    assert (ours.horizon, ours.control_dt) == (gym.spec("CartPole-v1").max_episode_steps, theirs.tau)
    theirs.tau = ours.physics_dt
    obs, _ = ours.reset(seed=1, options={"parameters": {"joint.slider.damping": 0.0, "joint.hinge.damping": 0.0}})
    theirs.reset()
    theirs.state = tuple(map(float, obs))
    widest = np.zeros(4)
    for _ in range(60):
        push = int(obs @ (1.0, 1.5, 18.0, 4.0) > 0.0)  # towards where it falls, so both stay up
        obs, peer = ours.step(push)[0], np.array([theirs.step(push)[0] for _ in range(5)][-1])
        assert (np.abs(obs - peer) < [0.003, 0.005, 0.003, 0.01]).all()
        widest = np.maximum(widest, np.abs(peer))
    assert (widest > [0.1, 0.2, 0.02, 0.2]).all()
    ours.close()


def test_a_push_is_the_number_of_a_choice():
    env = CartPoleBalanceDiscrete()
    env.reset(seed=0)
    for choice, newton in ((0, -10.0), (1, 10.0), (np.int64(1), 10.0)):
        env.step(choice)
        assert env.last_command == [newton]
    with pytest.raises(ValueError, match="action must be a whole number from 0 to 1, got 2"):
        env.step(2)
    env.close()
