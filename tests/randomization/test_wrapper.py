from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from simtoreal.randomization.philox import episode_seed
from simtoreal.randomization.randomizer import Preset, Randomizer
from simtoreal.randomization.wrapper import RandomizedEnv


@pytest.fixture
def randomizer(preset_text, table):
    return Randomizer(Preset.loads(preset_text), table)


def episodes(env, count, **first):
    """(first observation, parameters, draw key) of `count` episodes of five steps."""
    out = []
    for i in range(count):
        obs, info = env.reset(**(first if i == 0 else {}))
        out.append((obs.tolist(), info["parameters"], info["draw"]))
        for _ in range(5):
            env.step(np.zeros(1, np.float32))
    return out


def test_each_reset_is_the_next_episode(block, randomizer):
    env = RandomizedEnv(block(), randomizer, seed=7, env_index=2)
    assert env.episode == -1
    seen = episodes(env, 3)
    assert [key for _, _, key in seen] == [
        {"seed": 7, "env": 2, "episode": k, "width": 1.0, "version": randomizer.version} for k in range(3)
    ]
    for k, (_, parameters, _) in enumerate(seen):
        assert parameters.items() >= randomizer.draw(7, 2, k).items()
    assert env.episode == 2
    assert env.unwrapped.last_reset["seed"] == episode_seed(7, 2, 2)


def test_what_applies_is_what_the_environment_reports(block, randomizer):
    class Rounding(block):
        def reset(self, **kwargs):
            obs, info = super().reset(**kwargs)
            return obs, {"parameters": {name: round(value, 1) for name, value in info["parameters"].items()}}

    _, info = RandomizedEnv(Rounding(), randomizer).reset(seed=0)
    assert info["parameters"]["ground.friction"] == round(randomizer.draw(0, 0, 0)["ground.friction"], 1)


def test_a_seed_starts_again_at_episode_0(block, randomizer):
    env = RandomizedEnv(block(), randomizer, seed=1)
    first = episodes(env, 4, seed=5)
    assert episodes(env, 4, seed=5) == first
    assert episodes(RandomizedEnv(block(), randomizer, seed=5), 4) == first
    assert episodes(env, 4, seed=6) != first


def test_an_episode_can_be_had_again_alone(block, randomizer):
    whole = episodes(RandomizedEnv(block(), randomizer, seed=5, env_index=1), 6)
    env = RandomizedEnv(block(), randomizer, seed=99, env_index=1)
    env.get_wrapper_attr("set_next_episode")(5, 4)
    assert episodes(env, 2) == whole[4:]
    env.get_wrapper_attr("set_next_episode")(None, 3)
    assert episodes(env, 3) == whole[3:]


def test_draws_widen_over_a_ramp(block, randomizer, table):
    env = RandomizedEnv(block(), randomizer, seed=5, ramp=(1, 5))
    seen = episodes(env, 7)
    assert [key["width"] for _, _, key in seen] == [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    for episode, (_, parameters, key) in enumerate(seen):
        whole = randomizer.draw(5, 0, episode)
        for name, value in whole.items():
            nominal = table[name].nominal
            assert parameters[name] == pytest.approx(
                nominal + min(max(episode - 1, 0) / 4, 1.0) * (value - nominal), abs=1e-12
            )
        del key["version"]
        assert parameters.items() >= randomizer.draw(**key).items(), "to be had again from what the info says"
    env.get_wrapper_attr("set_next_episode")(5, 2)
    assert episodes(env, 5) == episodes(RandomizedEnv(block(), randomizer, seed=5, ramp=(1, 5)), 7)[2:]
    for ramp in ((-1, 2), (3, 2)):
        with pytest.raises(ValueError, match="ramp must be two episodes, from nominal until whole, got"):
            RandomizedEnv(block(), randomizer, ramp=ramp)


def test_environments_differ_and_their_number_does_not_matter(block, randomizer):
    def run(count):
        return [episodes(RandomizedEnv(block(), randomizer, seed=3, env_index=i), 2) for i in range(count)]

    assert run(4)[:2] == run(2)
    assert run(2)[0] != run(2)[1]


def test_the_callers_parameters_win_and_other_options_pass(block, randomizer):
    env = RandomizedEnv(block(), randomizer, seed=0)
    options = {"parameters": {"ground.friction": 1.9}, "other": 3}
    _, info = env.reset(options=options)
    assert info["parameters"] == randomizer.draw(0, 0, 0) | {"ground.friction": 1.9}
    assert env.unwrapped.last_reset["options"]["other"] == 3
    assert options == {"parameters": {"ground.friction": 1.9}, "other": 3}


def test_parameters_that_are_no_mapping_are_refused(block, randomizer):
    env = RandomizedEnv(block(), randomizer)
    with pytest.raises(ValueError, match=r"parameters must be a mapping name -> number, got \[1\]"):
        env.reset(options={"parameters": [1]})
    assert env.episode == -1


def test_wider_ranges_apply_from_the_next_reset(block, randomizer, table):
    env = RandomizedEnv(gymnasium.wrappers.TimeLimit(block(), 10), randomizer)
    _, before = env.reset()
    wider = Preset.loads("task: Toy\nversion: 1\nentries: {ground.friction: {uniform: [1.9, 2.0]}}")
    env.set_wrapper_attr("randomizer", Randomizer(wider, table))
    _, after = env.reset()
    assert after["parameters"]["ground.friction"] >= 1.9
    assert before["draw"]["version"] != after["draw"]["version"]


def test_an_environment_that_does_not_report_is_refused(block, randomizer):
    with pytest.raises(RuntimeError, match=r"was reset with 7 parameters but .* does not report link.base.mass, "):
        RandomizedEnv(block(reports=False), randomizer).reset()
    with pytest.raises(RuntimeError, match=r"does not report ground.slope"):
        RandomizedEnv(block(), randomizer).reset(options={"parameters": {"ground.slope": 0.1}})


def test_without_randomization_any_environment_will_do(table):
    env = RandomizedEnv(gymnasium.make("CartPole-v1"), Randomizer(Preset.none("CartPole-v1"), table), seed=3)
    _, info = env.reset()
    assert info["draw"]["episode"] == 0


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_is_a_gymnasium_environment(block, randomizer):
    env = RandomizedEnv(block(), randomizer)
    assert env.get_wrapper_attr("parameters") is env.unwrapped.parameters
    check_env(env, skip_render_check=True)


def test_its_spec_builds_it_again(block, randomizer):
    gymnasium.register("ToyBlock-v0", entry_point=block, max_episode_steps=20)
    try:
        env = RandomizedEnv(gymnasium.make("ToyBlock-v0"), randomizer, seed=4, env_index=1)
        again = gymnasium.make(env.spec)
        assert episodes(again, 3) == episodes(env, 3)
    finally:
        del gymnasium.registry["ToyBlock-v0"]


@pytest.mark.parametrize("index", [-1, 1 << 31])
def test_an_index_outside_the_counter_is_refused(index, block, randomizer):
    with pytest.raises(ValueError, match=r"env_index must lie in \[0, 2\^31\), got"):
        RandomizedEnv(block(), randomizer, env_index=index)


def test_an_environment_that_shows_its_parameters_is_told_their_ranges(block, randomizer):
    class Showing(block):
        def scale_parameters(self, ranges):
            self.told = ranges

    env = RandomizedEnv(Showing(), randomizer)
    assert env.unwrapped.told == randomizer.ranges
    assert env.unwrapped.told
