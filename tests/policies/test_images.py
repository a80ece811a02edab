"""Policies that see images: their layers against Stable-Baselines3's, what is kept as bytes, what is refused."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scipy.signal import correlate
from stable_baselines3.common.torch_layers import NatureCNN
from torch.testing import assert_close

from simtoreal.policies.convolutions import Convolutions, ImageLayers
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.images import check_image, is_channels_first
from simtoreal.policies.on_policy import on_policy
from simtoreal.policies.ppo import PPO, PPOConfig
from simtoreal.policies.sac import SAC

CONFIG = PPOConfig(
    hidden=(32,), activation="relu", shared=True, normalize_observations=False, rollout=40, batch_size=16, epochs=2
)


def pixels(*shape):
    return torch.randint(256, shape, dtype=torch.uint8)


@pytest.mark.parametrize("shape", [(4, 84, 84), (84, 84, 3), (12, 36, 50), (37, 64, 1)])
def test_the_features_are_those_of_sb3_s_nature_cnn(shape):
    first = is_channels_first(shape)
    theirs = shape if first else (shape[2], *shape[:2])
    nature = NatureCNN(gym.spaces.Box(0, 255, theirs, np.uint8))
    body = ImageLayers(shape, [512], "relu")
    body.convolutions.load_state_dict(nature.cnn.state_dict())
    body.hidden.load_state_dict(nature.linear.state_dict())
    x = pixels(5, *shape)
    expected = nature((x if first else x.permute(0, 3, 1, 2)).float() / 255)
    assert_close(body(x), expected, atol=1e-5, rtol=0)
    assert_close(body.trace(x).output, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(10, 10, 4), (10, 10, 10), (3, 12, 35), (35, 80, 1)])
def test_the_features_of_small_images_are_those_of_scipy_s_correlation(shape):
    """One layer of 16 filters of 3 x 3 pixels, stride 1, and a ReLU: Young and Tian 2019."""
    layers = Convolutions(shape)
    weight, bias = (parameter.detach().double().numpy() for parameter in layers.parameters())
    x = pixels(2, *shape)
    images = (x if is_channels_first(shape) else x.permute(0, 3, 1, 2)).double().numpy() / 255
    assert weight.shape == (16, images.shape[1], 3, 3)
    filtered = np.stack([[correlate(image, of, "valid")[0] for of in weight] for image in images])
    expected = np.maximum(filtered + bias[:, None, None], 0).reshape(2, -1)
    assert layers.features == expected.shape[1]
    assert_close(layers(x), torch.from_numpy(expected).float(), atol=1e-5, rtol=0)
    assert_close(ImageLayers(shape, [8], "relu").trace(x).maps[-1].shape, torch.Size([2, *filtered.shape[1:]]))


def test_the_channels_are_found_whichever_side_they_are_on():
    assert [is_channels_first(shape) for shape in ((4, 84, 84), (12, 36, 36), (84, 84, 4), (36, 36, 12))] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((3, 9, 80), "at least 10 x 10 pixels, got 9 x 80"),
        ((80, 9, 3), "at least 10 x 10 pixels, got 80 x 9"),
        ((13, 84, 84), r"from 1 to 12 channels, got \[13, 84, 84\]"),
        ((84, 84, 0), "from 1 to 12 channels"),
        ((4, 84, 84, 3), r"three axes, \[C, H, W\] or \[H, W, C\], got \[4, 84, 84, 3\]"),
    ],
)
def test_images_that_the_convolutions_cannot_take_are_refused(shape, words):
    with pytest.raises(ValueError, match=words):
        check_image(shape)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"normalize_observations": True}, "divided by 255, not normalized; set normalize_observations to false"),
        ({"history": 2}, "images have no history here"),
    ],
)
def test_settings_that_images_do_not_have_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        PPO(3888, 1, config=PPOConfig(**{"normalize_observations": False} | change), image=(3, 36, 36))


def test_an_image_is_all_of_the_observation_and_for_learners_that_take_it():
    with pytest.raises(ValueError, match="must be all of the observation, got 3887 numbers"):
        PPO(3887, 1, config=CONFIG, image=(3, 36, 36))
    with pytest.raises(ValueError, match=r"SAC takes no images, got some of shape \[3, 36, 36\]"):
        SAC(3888, 1, image=(3, 36, 36))


@pytest.mark.parametrize("shape", [(2, 36, 40), (36, 40, 2), (12, 20, 12)])
@pytest.mark.parametrize("shared", [True, False])
def test_an_actor_acts_as_its_agent_and_is_rebuilt_from_its_description(shape, shared):
    config = PPOConfig(hidden=(32, 16), shared=shared, normalize_observations=False)
    agent = PPO(2880, 2, config=config, image=shape, seed=3)
    with torch.no_grad():
        agent.policy.head.linear.weight.mul_(100)
    actor, x = agent.actor(), pixels(7, *shape)
    np.testing.assert_allclose(agent.act(x.numpy(), explore=False), actor(x), atol=1e-6)
    described = actor.describe()
    assert (described["kind"], described["image"], "observation_size" in described) == ("cnn", list(shape), False)
    again = DeterministicActor.from_description(described)
    again.load_state_dict(actor.state_dict())
    assert torch.equal(actor(x), again(x))
    assert again.observation_size == 2880
    other = PPO(2880, 2, config=config, image=shape, seed=4)
    other.load_state_dict(agent.state_dict())
    assert torch.equal(other.actor()(x), actor(x))


@pytest.mark.parametrize(
    "change", [{"image": [2, 9, 40]}, {"image": 2880}, {"image": [2, 36, True]}, {"kind": "mlp"}, {"more": 1}]
)
def test_a_foreign_description_of_images_is_refused(change):
    described = DeterministicActor(2880, 1, [8], image=(2, 36, 40)).describe()
    with pytest.raises(ValueError, match=r"actor|images"):
        DeterministicActor.from_description(described | change)


class Shown(gym.Env):
    """Random pixels; the episodes have three steps."""

    observation_space = gym.spaces.Box(0, 255, (1, 36, 36), np.uint8)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        return self.observation_space.sample(), 1.0, False, self.steps == 3, {}


def test_a_rollout_stays_bytes_and_no_more_than_a_minibatch_becomes_floats(monkeypatch):
    envs = SyncVectorEnv([Shown] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    agent = PPO(1296, 1, config=CONFIG, image=(1, 36, 36))
    sizes, rollouts = [], []
    scaled, update = Convolutions.scaled, agent.update
    monkeypatch.setattr(Convolutions, "scaled", lambda self, x: sizes.append(len(x)) or scaled(self, x))
    agent.update = lambda rollout: rollouts.append(rollout) or update(rollout)
    list(on_policy(agent, envs, steps=80, seed=0, rollout=40, gamma=0.99, gae_lambda=0.95))
    assert (rollouts[0].obs.dtype, rollouts[0].obs.shape) == (torch.uint8, (80, 1, 36, 36))
    assert max(sizes) == CONFIG.batch_size


class Bright(gym.Env):
    """An image as bright as the privileged observation says; what is done does not matter."""

    observation_space = gym.spaces.Dict(
        policy=gym.spaces.Box(0, 255, (1, 36, 36), np.uint8),
        privileged=gym.spaces.Box(-np.inf, np.inf, (1,), np.float32),
    )
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def show(self):
        light = self.np_random.uniform()
        return {"policy": np.full((1, 36, 36), round(255 * light), np.uint8), "privileged": np.float32([40 * light])}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.show(), {}

    def step(self, action):
        return self.show(), 0.0, False, False, {}


def told(agent):
    """What the layers of the policy tell of five images, in the privileged observation's unit."""
    light = torch.linspace(0, 1, 5)
    x = (255 * light).round().to(torch.uint8)[:, None, None, None].expand(5, 1, 36, 36).contiguous()
    with torch.no_grad():
        normal = agent.estimate(agent.policy.body(x))[:, 0]
    return normal / agent.privileged_normalizer.scale + agent.privileged_normalizer.shift


def test_the_layers_of_a_policy_learn_to_tell_what_is_privileged():
    envs = SyncVectorEnv([Bright] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    config = PPOConfig(
        hidden=(32,), activation="relu", rollout=40, batch_size=16, epochs=4, learning_rate=1e-3, estimate_weight=1.0
    )
    agent = PPO(1296, 1, 1, config=config, image=(1, 36, 36))
    list(on_policy(agent, envs, steps=1600, seed=0, rollout=40, gamma=0.9, gae_lambda=0.95))
    assert_close(told(agent), 40 * torch.linspace(0, 1, 5), atol=3.0, rtol=0)
    again = PPO(1296, 1, 1, config=config, image=(1, 36, 36), seed=1)
    again.load_state_dict(agent.state_dict())
    assert torch.equal(told(again), told(agent))


@pytest.mark.parametrize(("privileged", "shared"), [(0, False), (2, True)])
def test_an_estimate_needs_something_to_tell_that_the_value_sees(privileged, shared):
    with pytest.raises(ValueError, match="estimate_weight needs a privileged observation that the value sees"):
        PPO(5, 1, privileged, config=PPOConfig(shared=shared, estimate_weight=1.0))


def test_a_recurrent_policy_tells_nothing():
    with pytest.raises(ValueError, match="estimate_weight must be at least 0, of a recurrent policy 0"):
        PPOConfig(recurrent=8, estimate_weight=1.0)
