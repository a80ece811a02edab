from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from scipy import stats

from simtoreal.randomization.curriculum import Curriculum, CurriculumSettings, MovingRanges, Outcome
from simtoreal.randomization.randomizer import Preset, Randomizer
from simtoreal.randomization.signals import MOST_LATENCY, SignalsEnv, offered_parameters
from simtoreal.randomization.wrapper import RandomizedEnv


class Counter(gymnasium.Env):
    """Shows how many steps it has made and the action that it really got; the reward is that action."""

    observation_space = spaces.Box(np.float32([-100, -np.inf]), np.float32([100, np.inf]))
    action_space = spaces.Box(-2.0, 4.0, (1,), np.float32)
    dt = 0.1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.options = options
        self.shown = np.zeros(2, np.float32)
        return self.shown, {}

    def step(self, action):
        self.shown[:] = self.shown[0] + 1, action[0]  # the same array, as some do
        return self.shown, float(action[0]), False, False, {}


class Named(Counter):
    """With a parameter of its own."""

    def __init__(self):
        self.parameters = {"mass": SignalsEnv(Counter()).parameters["actuator.noise"]}
        self.mass = 0.0

    def reset(self, *, seed=None, options=None):
        self.mass = options["parameters"].get("mass", 0.0)
        return super().reset(seed=seed)[0], {"parameters": {"mass": self.mass}}

    def set_parameters(self, values):
        self.mass = values["mass"]


def episode(env, actions, seed=0, **parameters):
    """The observations of an episode, and its rewards."""
    first, info = env.reset(seed=seed, options={"parameters": parameters})
    assert info["parameters"].items() >= parameters.items()
    steps = [env.step(np.float32([action])) for action in actions]
    return np.array([first, *(step[0] for step in steps)]), [step[1] for step in steps]


def test_at_nominal_nothing_is_between():
    seen, rewards = episode(SignalsEnv(Counter()), [1, 2, 3])
    assert seen.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert rewards == [1, 2, 3]
    env = SignalsEnv(Counter())
    env.reset(seed=1, options={"other": 2})
    assert env.unwrapped.options == {"other": 2}, "what is not ours goes on"


def test_it_is_a_gymnasium_environment():
    env = SignalsEnv(gymnasium.make("Pendulum-v1", disable_env_checker=True).unwrapped, ("cos", "sin", "speed"))
    check_env(env, skip_render_check=True)


def test_its_parameters():
    env = SignalsEnv(Counter(), ("count", "action"))
    assert {name: (p.unit, p.nominal, p.low, p.high) for name, p in env.parameters.items()} == {
        "sensor.count.noise": ("own", 0.0, 0.0, 200.0),
        "sensor.count.bias": ("own", 0.0, -200.0, 200.0),
        "sensor.action.noise": ("own", 0.0, 0.0, 1e6),
        "sensor.action.bias": ("own", 0.0, -1e6, 1e6),
        "sensor.latency": ("s", 0.0, 0.0, MOST_LATENCY * 0.1),
        "sensor.dropout": ("-", 0.0, 0.0, 0.9),
        "actuator.latency": ("s", 0.0, 0.0, MOST_LATENCY * 0.1),
        "actuator.noise": ("-", 0.0, 0.0, 1.0),
        "actuator.repeat": ("step", 1.0, 1.0, 10.0),
    }


def test_latencies_are_whole_control_steps():
    env = SignalsEnv(Counter())
    seen, rewards = episode(env, [1, 2, 3, 4], **{"sensor.latency": 0.2})
    assert seen[:, 0].tolist() == [0, 0, 0, 1, 2]
    assert rewards == [1, 2, 3, 4]
    seen, rewards = episode(env, [1, 2, 3, 4], **{"actuator.latency": 0.16})
    assert rewards == [1, 1, 1, 2], "the middle of its range until the first arrives"
    assert seen[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert episode(SignalsEnv(Counter(), still=np.float32([0.0])), [1, 2], **{"actuator.latency": 0.1})[1] == [0, 1]


def test_an_action_is_held():
    env = SignalsEnv(Counter())
    assert episode(env, [1, 2, 3, -1, -2], **{"actuator.repeat": 2.0})[1] == [1, 1, 3, 3, -2]
    assert episode(env, [1, 2, 3, -1, -2], **{"actuator.repeat": 2.6, "actuator.latency": 0.1})[1] == [1, 1, 1, 1, -1]


def test_bias_and_noise_are_of_each_channel():
    env = SignalsEnv(Counter())
    quiet, _ = episode(env, [0] * 2000)
    seen, _ = episode(env, [0] * 2000, **{"sensor.0.noise": 0.5, "sensor.1.bias": 3.0})
    off = seen - quiet
    assert (off[:, 1] == 3.0).all()
    assert stats.kstest(off[:, 0] / 0.5, "norm").pvalue > 0.01
    assert abs(np.corrcoef(off[1:, 0], off[:-1, 0])[0, 1]) < 0.08
    again, _ = episode(env, [2] * 2000, **{"sensor.0.noise": 0.5})
    np.testing.assert_allclose(again[:, 0] - quiet[:, 0], off[:, 0], atol=2e-4)  # float32 of 2000
    other, _ = episode(env, [0] * 2000, seed=1, **{"sensor.0.noise": 0.5})
    assert abs(np.corrcoef(other[:, 0] - quiet[:, 0], off[:, 0])[0, 1]) < 0.08


def test_what_is_lost_is_seen_again():
    seen, _ = episode(SignalsEnv(Counter()), [0] * 4000, **{"sensor.dropout": 0.3})
    lost = np.diff(seen[:, 0]) == 0
    assert lost.mean() == pytest.approx(0.3, abs=0.03)
    assert (seen[1:, 0][~lost] == np.arange(1, 4001)[~lost]).all()


def test_actuator_noise_is_a_share_of_half_the_range_and_stays_in_it():
    _, rewards = episode(SignalsEnv(Counter()), [1] * 4000, **{"actuator.noise": 0.1})
    assert stats.kstest((np.array(rewards) - 1) / 0.3, "norm").pvalue > 0.01
    _, rewards = episode(SignalsEnv(Counter()), [1] * 400, **{"actuator.noise": 1.0})
    assert (min(rewards), max(rewards)) == (-2.0, 4.0)
    assert "actuator.noise" not in SignalsEnv(Counter(), noisy_actions=False).parameters


def test_they_change_within_an_episode():
    env = SignalsEnv(Counter())
    env.reset(seed=0)
    env.step(np.float32([1]))
    env.step(np.float32([2]))
    env.set_parameters({"sensor.latency": 0.1, "sensor.1.bias": 10.0})
    assert env.step(np.float32([3]))[0].tolist() == [2.0, 12.0]
    env.set_parameters({"sensor.latency": 0.0, "sensor.1.bias": 0.0})
    assert env.step(np.float32([4]))[0].tolist() == [4.0, 4.0]
    _, info = env.reset(seed=0)
    assert set(info["parameters"].values()) == {0.0, 1.0}


def test_an_environments_own_parameters_stay():
    env = SignalsEnv(Named())
    assert {"mass", "sensor.latency"} <= env.parameters.keys()
    _, info = env.reset(options={"parameters": {"mass": 0.5, "sensor.latency": 0.1}})
    assert (env.unwrapped.mass, info["parameters"]["mass"], info["parameters"]["sensor.latency"]) == (0.5, 0.5, 0.1)
    env.set_parameters({"mass": 0.7})
    assert env.unwrapped.mass == 0.7


def test_what_is_set_at_a_reset_alone_is_drawn_once_an_episode():
    class Fixed(Named):
        set_parameters = property()  # hasattr is False

    def randomizer(table, mass):
        text = f"task: Counter\nversion: 1\nentries:\n  mass: {mass}\n  sensor.latency: {{choice: [0.1], every: 0.5}}\n"
        return Randomizer(Preset.loads(text), table)

    own, whole = Fixed(), SignalsEnv(Fixed())
    assert randomizer(whole.parameters, "{uniform: [0, 1]}").draw(0, 0, 0).keys() == {"mass", "sensor.latency"}
    for table in (offered_parameters(own) | whole.parameters, whole.parameters):
        with pytest.raises(ValueError, match=r":4: mass: mass is set at a reset alone: its environment has no set_"):
            randomizer(table, "{uniform: [0, 1], every: 1.0}")
    randomizer(SignalsEnv(Named()).parameters, "{uniform: [0, 1], every: 1.0}")


def test_images_and_states_have_no_noise():
    class Sees(Counter):
        observation_space = spaces.Box(0, 255, (8, 8, 1), np.uint8)

    assert list(SignalsEnv(Sees()).parameters) == [
        "sensor.latency", "sensor.dropout", "actuator.latency", "actuator.noise", "actuator.repeat",
    ]  # fmt: skip
    assert SignalsEnv(Counter(), noisy_observations=False).parameters == SignalsEnv(Sees()).parameters


def test_bad_values_and_spaces_are_refused():
    env = SignalsEnv(Counter())
    with pytest.raises(ValueError, match=r"no parameter 'sensor.2.noise'; did you mean"):
        env.reset(options={"parameters": {"sensor.2.noise": 1.0}})
    with pytest.raises(ValueError, match=r"sensor.dropout = 1.5 is outside \[0, 0.9\]"):
        env.reset(options={"parameters": {"sensor.dropout": 1.5}})
    with pytest.raises(ValueError, match="outside"):
        env.set_parameters({"actuator.repeat": np.nan})
    with pytest.raises(ValueError, match="a mapping name"):
        env.reset(options={"parameters": 3})
    with pytest.raises(ValueError, match="2 channels with names of their own"):
        SignalsEnv(Counter(), ("one", "one"))
    with pytest.raises(ValueError, match="a Box of observations and a Box of actions"):
        SignalsEnv(gymnasium.make("CartPole-v1"))


def test_presets_and_curricula_hold_for_it():
    env = SignalsEnv(Counter())
    preset = Preset.loads(
        "task: Counter\nversion: 1\nentries:\n"
        "  sensor.?.noise: {uniform: [0.0, 0.2]}\n  sensor.latency: {uniform: [0.0, 0.3], every: 0.5}\n"
    )
    randomizer = Randomizer(preset, env.parameters)
    ranges = MovingRanges(randomizer, env.parameters)
    drawn = RandomizedEnv(env, randomizer, seed=3, curriculum=ranges, probes=0.5)
    assert drawn.reset()[1]["parameters"]["sensor.latency"] == 0.0
    adr = Curriculum(CurriculumSettings(queue=1, step=1.0), ranges)
    adr.take(1, [Outcome(i, 1.0) for i in range(2)])
    drawn.set_extents(adr.extents)
    latencies = []
    for _ in range(20):
        _, info = drawn.reset()
        assert 0.0 <= info["parameters"]["sensor.0.noise"] <= 0.2
        for _ in range(20):
            drawn.step(np.float32([0]))
        latencies.append(env._values["sensor.latency"])
    assert len(set(latencies)) > 10
    assert max(latencies) <= 0.3


def test_what_it_shows_is_the_callers_own():
    env = SignalsEnv(Counter())
    seen, _ = env.reset(seed=0, options={"parameters": {"sensor.latency": 0.2}})
    for expected in (0, 0, 1, 2):
        seen *= 0
        seen = env.step(np.float32([1]))[0]
        assert seen[0] == expected


def test_an_action_that_is_not_finite_is_handed_on_at_once():
    class Notes(Counter):
        def step(self, action):
            self.got = action[0]
            return super().step(np.nan_to_num(action))

    env = SignalsEnv(Notes())
    env.reset(seed=0, options={"parameters": {"actuator.repeat": 4.0, "actuator.latency": 0.3}})
    env.step(np.float32([1]))
    env.step(np.float32([np.nan]))
    assert np.isnan(env.unwrapped.got)


def test_what_is_called_parameters_and_is_no_table_is_left_alone():
    class Other(Counter):
        parameters = {"mass": 1.0}  # noqa: RUF012

    assert offered_parameters(Other()) == {}
    assert "mass" not in SignalsEnv(Other()).parameters


@pytest.mark.parametrize("rate", ["fast", -5, None, 0])
def test_a_rate_that_is_none_is_50_hz(rate):
    class Odd(Counter):
        dt = None
        metadata = {"render_fps": rate}  # noqa: RUF012

    assert SignalsEnv(Odd()).control_dt == 0.02


def test_bad_arguments_are_refused():
    for control_dt in (0.0, -1.0, "x", np.inf):
        with pytest.raises(ValueError, match="control_dt must be seconds"):
            SignalsEnv(Counter(), control_dt=control_dt)
    with pytest.raises(ValueError, match="still must be an action of shape"):
        SignalsEnv(Counter(), still=np.zeros(3, np.float32))
    env = SignalsEnv(Counter())
    for value in ("x", None, [1], True):
        with pytest.raises(ValueError, match=r"sensor.dropout = .* is outside"):
            env.reset(options={"parameters": {"sensor.dropout": value}})
