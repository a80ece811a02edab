"""What every shipped task promises, by registry."""

import hashlib
import os
import re
import subprocess
import sys
from functools import partial

import numpy as np
import pybullet as bullet
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from simtoreal.parameter_list import pattern
from simtoreal.robots.layout import ImageLayout
from simtoreal.robots.mujoco_world import MuJoCoWorld
from simtoreal.robots.tasks.cartpole import CartPoleSwingUp
from simtoreal.robots.tasks.reach import PandaReach
from simtoreal.robots.tasks.walk import A1Walk

DIGEST = """
import hashlib, sys
import gymnasium, numpy, simtoreal
env = gymnasium.make(sys.argv[1], disable_env_checker=True, engine=sys.argv[2]).unwrapped
env.action_space.seed(4)
values = {name: p.nominal + 0.3 * (p.high - p.nominal) for name, p in env.parameters.items()}
digest = hashlib.sha256(env.reset(seed=11, options={"parameters": values})[0].tobytes())
for _ in range(40):
    obs, reward, *_ = env.step(env.action_space.sample())
    digest.update(obs.tobytes() + numpy.float64(reward).tobytes())
print(digest.hexdigest())
"""


SOAK = "SIMTOREAL_SOAK" in os.environ
BEYOND = ("ground.roughness", "ground.step_height", "ground.variant")  # the landing that it starts from


def shows_images(env):
    return isinstance(env.observation_layout, ImageLayout)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("privileged", [False, True, "state"])
def test_both_env_checkers_pass(make, privileged):
    env = make(privileged=privileged)
    check_env(env, skip_render_check=True)
    check_env_sb3(env, skip_render_check=True)


@pytest.mark.every_robot
def test_the_class_docstring_is_the_unit_table(make, act):
    env = make()
    text = type(env).__doc__
    rows = re.findall(r"^ *\| ([0-9-]+) \| (\w+).*? \| (.+?) \| .+? \|$", text, re.MULTILINE)
    expected = []
    for field in env.observation_layout.fields:
        where = env.observation_layout.slices[field.name]
        span = f"{where.start}-{where.stop - 1}" if field.size > 1 else str(where.start)
        expected.append((span, field.name, field.unit))
    assert rows == expected
    assert f"Observation ({env.observation_layout.size})" in text
    assert f"Action ({env.command_layout.size})" in text
    env.reset(seed=0)
    info = env.step(act(env, 0.0))[4]
    for name in (*info["reward_terms"], *(f.name for f in (*env.command_layout.fields, *env.reward_layout.fields))):
        assert name in text


@pytest.mark.every_robot
def test_the_three_layouts_fit_what_the_task_gives(make):
    env = make()
    obs, _ = env.reset(seed=0)
    assert obs in env.observation_space
    assert obs.size == env.observation_layout.size
    signals = env.step(env.action_space.sample())[4]["reward_signals"]
    assert {name: len(value) for name, value in signals.items()} == {f.name: f.size for f in env.reward_layout.fields}
    assert all(len(limit) == len(env.commanded_joints) for limit in env.limits.values())
    for layout in (env.observation_layout, env.command_layout, env.reward_layout):
        assert all(field.unit for field in layout.fields)


def test_reward_and_success_are_functions_of_the_reward_signals(make, act):
    env = make()
    env.reset(seed=0)
    scorer = type(env).scorer()
    scorer.start()
    rng = np.random.default_rng(0)
    for _ in range(20):
        action = act(env, rng.uniform(-1, 1, env.command_layout.size))
        _, reward, terminated, _, info = env.step(action)
        assert info["is_success"] == (scorer.see(info["reward_signals"]) and not terminated)
        assert type(reward) is float
        numbers = env.command_layout.numbers(action).tolist()
        fallen = {"failure": env.failure_reward} if terminated else {}
        assert info["reward_terms"] == type(env).reward_terms(info["reward_signals"], numbers) | fallen
        assert reward == pytest.approx(sum(info["reward_terms"].values()))
        assert terminated == type(env).fails(info["reward_signals"])
        if terminated:
            env.reset()
            scorer.start()


def test_an_episode_is_truncated_at_its_horizon(make, act, engine):
    """Whatever it does until then: a robot that falls, flies or drives off is let go on here."""

    class Lenient(type(make())):
        fails = staticmethod(lambda signals: False)

    env = Lenient(engine=engine)
    env.reset(seed=0)
    ends = [env.step(act(env, 0.0))[2:4] for _ in range(env.horizon)]
    env.close()
    assert ends == [(False, False)] * (env.horizon - 1) + [(False, True)]


def hold(env, obs):
    """The action that commands joints or tool to stay where they are measured, and rotors to carry the weight; no force
    or speed where these are commanded."""
    slices = env.observation_layout.slices
    where = slices.get("joint_position", slices.get("tool_place"))
    target = np.zeros(env.command_layout.size) if where is None else obs[where]
    if "thrust" in env.command_layout.slices:
        target = env.command_layout.offset
    return env.command_layout.action(target, obs, env.observation_layout)


@pytest.mark.every_robot
@pytest.mark.parametrize("policy", ["zero", "random", "hold still"])
def test_doing_nothing_of_use_never_succeeds(make, act, policy):
    env = make()
    rng = np.random.default_rng(0)
    for episode in range(10 if SOAK else 2):
        obs, _ = env.reset(seed=episode)
        ended = False
        while not ended:
            numbers = {
                "zero": lambda: 0.0,
                "random": lambda: rng.uniform(-1, 1, env.command_layout.size),
                "hold still": lambda obs=obs: hold(env, obs),
            }[policy]()
            obs, _, terminated, truncated, info = env.step(act(env, numbers))
            ended = terminated or truncated
        assert info["is_success"] is False


@pytest.mark.every_robot
def test_the_same_seed_is_the_same_trajectory_in_another_process_and_after_other_episodes(make, task_id, engine):
    """After those of robots drawn from all that the parameters allow: a thousand in `make soak`."""
    env = make()
    rng = np.random.default_rng(0)
    for _ in range(1_000 if SOAK else 20):
        drawn = {name: rng.uniform(p.low, p.high) for name, p in env.parameters.items() if rng.random() < 0.5}
        env.reset(options={"parameters": drawn})
        for _ in range(3):
            env.step(env.action_space.sample())
    env.action_space.seed(4)
    values = {name: p.nominal + 0.3 * (p.high - p.nominal) for name, p in env.parameters.items()}
    digest = hashlib.sha256(env.reset(seed=11, options={"parameters": values})[0].tobytes())
    for _ in range(40):
        obs, reward, *_ = env.step(env.action_space.sample())
        digest.update(obs.tobytes() + np.float64(reward).tobytes())
    run = subprocess.run([sys.executable, "-c", DIGEST, task_id, engine], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == digest.hexdigest()


def test_the_same_seed_is_the_same_trajectory_in_an_old_and_a_new_environment(make, rollout):
    old, new = make(), make()
    for seed in range(3):
        rollout(old, seed, 15)
    assert (rollout(old, 7, 30) == rollout(new, 7, 30)).all()


def test_two_resets_differ(make):
    env = make()
    a, b, c = env.reset(seed=1)[0], env.reset()[0], env.reset(seed=2)[0]
    assert (a != b).any()
    assert (a != c).any()
    assert (env.reset(seed=1)[0] == a).all()


def test_no_observation_element_is_constant(make, rollout):
    if shows_images(make()):
        pytest.skip("most of an image is background")
    env = make()
    seen = np.concatenate([rollout(env, seed, 30) for seed in range(3)])
    assert (np.ptp(seen, axis=0) > 1e-6).all(), np.flatnonzero(np.ptp(seen, axis=0) <= 1e-6)


def towards_the_object(env):
    """Straight, whatever the sensors say."""
    signals = env.signals(env.world.state())
    way = np.subtract(signals["object_place"], signals["tool_place"])
    return np.clip(way / env.command_layout.scale, -1.0, 1.0).astype(np.float32)


def test_every_parameter_at_each_bound_changes_something_and_leaks_nothing(make, rollout):
    """A link's friction shows only in contact, and bumps only where it has gone to (`test_terrain.py`), so there the
    read-back has to do; what an object is shows where it is pushed; a push's two numbers show together; and less than a
    pixel shows in the robot's state. For how long samples are lost shows where some are."""
    env = make()
    short = 8
    if env.robot.object is not None:
        short, rollout = 20, partial(rollout, policy=towards_the_object)
    together = {"push.speed": {"push.interval": 0.5}, "push.interval": {"push.speed": 0.5}}
    with_others = {  # which alone change nothing
        "ground.damping": {"ground.compliance": 3e-4},
        "light.yaw": {"sensor.camera.yaw": -0.2},  # of a cart's side
        **{
            name: {name[:-2]: 1.0}
            for name in env.parameters
            if name.endswith((".payload.x", ".payload.y", ".payload.z"))
        },
        **{name: {name.replace("variant", "contrast"): 1.0} for name in env.parameters if "texture.variant" in name},
    }
    with_others = {
        name: {other: min(value, env.parameters[other].high) for other, value in others.items()}
        for name, others in with_others.items()
        if name in env.parameters
    }
    usual = rollout(env, 3, short)
    state = env.world.state()
    one_of_each = {pattern(name): name for name in env.parameters}  # of joints and links that are alike
    for name, parameter in env.parameters.items():
        if not SOAK and name != one_of_each[pattern(name)]:
            continue
        steps, nominal, without = short, usual, usual
        if name.endswith(".outage"):
            with_others[name] = {name.replace("outage", "dropout"): 0.3}
        together |= {name: with_others[name]} if name in with_others else {}
        if name in together:
            steps, nominal = 30, rollout(env, 3, 30)
            without = rollout(env, 3, 30, together[name]) if name in with_others else nominal
        for bound in {parameter.low, parameter.high} - {parameter.nominal, 20.0 if name == "push.interval" else None}:
            values = {name: bound} | together.get(name, {})
            changed = rollout(env, 3, steps, values)
            moved = steps == short and shows_images(env) and env.world.state() != state
            assert env.read_parameters() == env.parameters.nominal | values
            if not (name.startswith("link.") and name.endswith(".friction")) and name not in BEYOND:
                assert moved or (changed != without).any(), f"{name} = {bound} changes nothing"
        assert (rollout(env, 3, steps) == nominal).all(), f"{name} leaks"


@pytest.mark.every_robot
def test_all_parameters_at_their_bounds_leak_nothing_and_break_nothing(make, rollout):
    env = make()
    nominal = rollout(env, 3, 40)
    for bound in ("low", "high"):
        extreme = rollout(env, 3, 40, {name: getattr(p, bound) for name, p in env.parameters.items()})
        assert np.isfinite(extreme).all()
        assert (rollout(env, 3, 40) == nominal).all()


def halve_mass(world, link):
    """In the engine, behind the world's back; the mass before."""
    if isinstance(world, MuJoCoWorld):
        body = world._model.body(link).id
        held = world._model.body_mass[body].item()
        world._model.body_mass[body] = 0.5 * held
        return held
    index = world._link_index[link]
    held = bullet.getDynamicsInfo(world._body, index, physicsClientId=world._client)[0]
    bullet.changeDynamics(world._body, index, mass=0.5 * held, physicsClientId=world._client)
    return held


def test_what_reset_reports_is_what_the_engine_has(make):
    env = make()
    assert env.reset(seed=0)[1]["parameters"] == env.parameters.nominal
    mass = next(name for name in env.parameters if name.endswith(".mass"))
    value = 1.1 * env.parameters[mass].nominal
    info = env.reset(seed=0, options={"parameters": {mass: value}})[1]
    assert info["parameters"] == env.parameters.nominal | {mass: value}
    held = halve_mass(env.world, mass.split(".")[1])
    found = env.read_parameters()[mass]  # asked from the engine, not remembered
    assert found == pytest.approx(value - 0.5 * held, rel=1e-12)


def test_any_order_of_setting_gives_the_same_state(make, act):
    """At once, or one after the other in any order, after any other values, by way of a bound."""
    env = make()
    action = act(env, 0.3)
    table = env.parameters

    @settings(max_examples=15, deadline=None, database=None, derandomize=True)
    @given(data=st.data())
    def any_order(data):
        names = data.draw(st.lists(st.sampled_from(list(table)), min_size=2, max_size=12, unique=True))
        values = {name: data.draw(st.floats(table[name].low, table[name].high), label=name) for name in names}
        before = {name: data.draw(st.sampled_from([table[name].low, table[name].high])) for name in names}
        order = data.draw(st.permutations(names))
        info = env.reset(seed=9, options={"parameters": values})[1]
        assert info["parameters"] == table.nominal | values
        expected = [env.step(action)[0] for _ in range(3)]
        env.reset(seed=9, options={"parameters": before})
        env.step(action)
        env.reset(seed=9, options={"parameters": {name: values[name] for name in order}})
        for name in order:
            env.set_parameters({name: table[name].high})
            env.set_parameters({name: values[name]})
        assert env.read_parameters() == info["parameters"]
        for obs in expected:
            assert (env.step(action)[0] == obs).all()

    any_order()


def test_parameters_change_in_mid_episode_and_stay_until_the_next(make, act):
    env = make()
    mass = next(name for name in env.parameters if name.endswith(".mass"))
    action = act(env, 0.7)
    env.reset(seed=0)
    env.step(action)
    assert env.set_parameters({"actuator.strength": 0.5}) == env.parameters.nominal | {"actuator.strength": 0.5}
    both = env.parameters.nominal | {"actuator.strength": 0.5, mass: env.parameters[mass].high}
    assert env.set_parameters({mass: env.parameters[mass].high}) == both
    with pytest.raises(ValueError, match=r"actuator\.strength = 99"):
        env.set_parameters({mass: env.parameters[mass].low, "actuator.strength": 99.0})
    assert env.read_parameters() == both
    changed = env.step(action)[0]
    assert env.reset(seed=0)[1]["parameters"] == env.parameters.nominal
    env.step(action)
    assert (env.step(action)[0] != changed).any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"parameters": {"actuator.strenght": 1.0}}, "did you mean actuator.strength"),
        ({"parameters": {"actuator.strength": 9.0}}, r"actuator.strength = 9.0 is outside \[0.3, 1.5\]"),
        ({"parameters": {"actuator.strength": float("nan")}}, "actuator.strength = nan is outside"),
        ({"parameters": [1]}, r"parameters must be a mapping name -> number, got \[1\]"),
        ({"target": [0, 0, 0]}, "no reset option 'target'; options: 'parameters', 'goal'"),
        ({"goal": [0, 0, 0]}, "goal must name what to set"),
    ],
)
def test_a_bad_reset_is_refused_and_changes_nothing(make, options, says):
    env = make()
    env.reset(seed=0, options={"parameters": {"actuator.strength": 0.9}})
    with pytest.raises(ValueError, match=says):
        env.reset(seed=0, options=options)
    assert env.read_parameters()["actuator.strength"] == 0.9


def test_privileged_is_the_true_state_and_every_parameter(make, act):
    env, plain = make(privileged=True), make()
    values = {"actuator.strength": 0.6, "actuator.latency": 0.05}
    sensor = env.sensors[0]
    blind = {f"sensor.{sensor.name}.noise": sensor.max_noise, f"sensor.{sensor.name}.latency": 0.1}
    assert set(env.observation_space.spaces) == {"policy", "privileged"}
    obs, _ = env.reset(seed=0, options={"parameters": values | blind})
    twin, _ = plain.reset(seed=0, options={"parameters": values | blind})
    for _ in range(3):
        action = act(env, 0.5)
        obs, twin = env.step(action)[0], plain.step(action)[0]
    assert (obs["policy"] == twin).all()
    assert obs["privileged"] in env.observation_space["privileged"]
    names = env.privileged_layout.slices
    true = obs["privileged"][: (env.state_layout or env.observation_layout).size]
    if shows_images(env):
        (x, angle), (speed, spin), *_ = env.world.state()
        assert true == pytest.approx([x, speed, angle, spin], abs=1e-6)
    else:
        perfect = make()
        ideal, _ = perfect.reset(seed=0, options={"parameters": values})
        for _ in range(3):
            ideal = perfect.step(action)[0]
        assert true == pytest.approx(ideal, abs=1e-6)  # the same robot with ideal sensors
        assert not (obs["policy"] == true).all()
    scaled = dict(zip(env.parameters, obs["privileged"][names["parameters"]].tolist(), strict=True))
    assert scaled.pop("actuator.strength") == pytest.approx(-0.4 / 1.2)
    assert scaled.pop("actuator.latency") == pytest.approx(0.5)
    assert [scaled.pop(name) for name in blind] == pytest.approx([1.0, 1.0])
    assert set(scaled.values()) == {0.0}
    env.scale_parameters({"actuator.strength": (0.5, 1.1)})
    there = env.reset(seed=0, options={"parameters": values})[0]["privileged"][names["parameters"]]
    assert dict(zip(env.parameters, there, strict=True))["actuator.strength"] == pytest.approx(-0.4 / 0.6)
    assert dict(zip(env.parameters, there, strict=True))["actuator.latency"] == pytest.approx(0.5)
    state = make(privileged="state")
    alone, _ = state.reset(seed=0, options={"parameters": values | blind})
    for _ in range(3):
        alone = state.step(action)[0]
    assert "parameters" not in state.privileged_layout.slices
    assert (alone["privileged"] == obs["privileged"][: names["parameters"].start]).all()


def test_privileged_is_one_of_three(make):
    with pytest.raises(ValueError, match="False, True or 'state', got 'all'"):
        make(privileged="all")


def test_a_frame_shows_the_robot_move_and_filming_changes_nothing(make, rollout):
    silent, filmed = make(), make(render_mode="rgb_array")
    filmed.reset(seed=3)
    before = filmed.render()
    assert before.shape == (filmed.camera.height, filmed.camera.width, 3)
    assert before.dtype == np.uint8
    assert len(np.unique(before.reshape(-1, 3), axis=0)) >= 5
    assert (rollout(filmed, 3, 40) == rollout(silent, 3, 40)).all()
    moved = (np.abs(filmed.render().astype(int) - before).max(2) > 40).mean()
    assert 0.002 < moved < 0.8  # the most of a car, under which the ground is chequered
    assert silent.render() is None


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_render_modes_are_checked(make, engine, monkeypatch):
    with pytest.raises(ValueError, match=r"no render_mode 'video'; choices: rgb_array, human"):
        make(render_mode="video")
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(ValueError, match="needs a display" if engine == "pybullet" else "with MuJoCo use 'rgb_array'"):
        make(render_mode="human")


def test_closed_twice_it_leaves_another_alone_that_has_its_place_in_the_engine_now(make):
    env = make()
    first, _ = env.reset(seed=0)
    env.close()
    other = make()
    env.close()
    np.testing.assert_array_equal(other.reset(seed=0)[0], first)
    other.close()


def test_control_steps_are_whole_physics_steps():
    class Uneven(CartPoleSwingUp):
        physics_dt = 0.003

    with pytest.raises(ValueError, match=r"whole number of physics steps, got"):
        Uneven()


def test_a_reset_aims_where_it_is_told():
    arm, dog = PandaReach(), A1Walk()
    arm.reset(seed=1, options={"goal": {"tool_position": (0.4, 0.1, 0.3)}})
    assert list(arm.signals(arm.world.state())["goal"]) == [0.4, 0.1, 0.3]
    drawn, _ = dog.reset(seed=1)
    told, _ = dog.reset(seed=1, options={"goal": {"velocity_command": [0.5]}})
    where = dog.observation_layout.slices["velocity_command"]
    assert told[where] == np.float32(0.5) != drawn[where]
    assert np.array_equal(np.delete(told, where), np.delete(drawn, where))
    for _ in range(260):
        obs, *_ = dog.step(np.zeros(12))
    assert obs[where] == np.float32(0.5)  # the next command too


@pytest.mark.parametrize(
    ("task", "goal", "words"),
    [
        (CartPoleSwingUp, {"angle": [0.0]}, "no goal 'angle' .* goals: none"),
        (A1Walk, {"velocity": [0.5]}, "goals: velocity_command, yaw_rate_command"),
        (A1Walk, {"velocity_command": [1.5]}, r"from \[0.2\] to \[0.8\], got \[1.5\]"),
        (A1Walk, {"velocity_command": [float("nan")]}, "got"),
        (PandaReach, {"tool_position": [0.4]}, "takes 3 numbers, got 1"),
    ],
)
def test_a_goal_that_cannot_be_is_refused(task, goal, words):
    env = task()
    with pytest.raises(ValueError, match=words):
        env.reset(seed=0, options={"goal": goal})
