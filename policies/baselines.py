"""Stable-Baselines3 as a baseline: its learners on our environments, their actors as our own networks."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env.base_vec_env import VecEnv
from stable_baselines3.common.vec_env.subproc_vec_env import SubprocVecEnv
from torch import Tensor, nn

from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.chunks import Memory, NoMemory
from simtoreal.policies.convolutions import SMALL_FILTERS
from simtoreal.policies.deterministic import DeterministicActor, copy_mlp
from simtoreal.policies.distributions import chosen_action
from simtoreal.policies.images import Shape, is_channels_first, is_small
from simtoreal.policies.loop_state import Progress
from simtoreal.policies.networks import ACTIVATIONS
from simtoreal.policies.observations import split_observation
from simtoreal.policies.sb3_state import BaselineMemory, restore_state, state_numbers, state_tensors
from simtoreal.policies.settings import DEVIATION, RATE, is_deviation, is_rate
from simtoreal.policies.transitions import final_observation, final_value

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"sac": SAC, "td3": TD3, "ppo": PPO, "dqn": DQN}
FOR_CHOICES = ("ppo", "dqn")  # those that act by one of several choices
ONLY_CHOICES = ("dqn",)
ACTION_NOISE = 0.1  # standard deviation of TD3's exploration, where it is not set: SB3 itself has none


class VecEnvAdapter(VecEnv):
    """A gymnasium vector environment with same-step reset, as SB3 wants it. Only the policy's part of an
    observation is seen, of images uint8 with the channels first. With `choices` SB3 sees so many, and the environments
    -1 for the first to 1 for the last.

    A transition that is invalid or not finite cannot be left out of SB3's buffer, so it raises NonFiniteError.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], seed: int, choices: int = 0, image: Shape | None = None) -> None:
        if envs.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
            raise ValueError("vector environments must reset in the same step (AutoresetMode.SAME_STEP)")
        space = envs.single_observation_space
        seen = space["policy"] if isinstance(space, gym.spaces.Dict) else space
        self.image, self._channels_last = image, image is not None and not is_channels_first(image)
        if image is not None:
            shape = (image[2], *image[:2]) if self._channels_last else image
            if min(shape) != shape[0]:
                raise ValueError(f"SB3 takes the fewest for the channels, of images {list(image)} they are not")
            seen = gym.spaces.Box(0, 255, shape, np.uint8)
        super().__init__(envs.num_envs, seen, gym.spaces.Discrete(choices) if choices else envs.single_action_space)
        self.envs, self._seed, self._choices, self._action = envs, seed, choices, np.zeros(0)
        self.returns, self.lengths = np.zeros(envs.num_envs), np.zeros(envs.num_envs, dtype=np.int64)
        self.finished: list[dict[str, Any]] = []

    def reset(self) -> np.ndarray:
        obs, _ = self.envs.reset(seed=self._seed)
        self.returns[:], self.lengths[:] = 0.0, 0
        return self._checked(obs)

    def step_async(self, actions: np.ndarray) -> None:
        numbers = torch.from_numpy(actions)[:, None].float() if self._choices else None
        self._action = actions if numbers is None else chosen_action(numbers, self._choices).numpy()

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        next_obs, reward, terminated, truncated, infos = self.envs.step(self._action)
        ended = terminated | truncated
        valid = np.asarray(infos.get("valid", np.ones(self.num_envs, dtype=bool)))
        if not (valid.all() and np.isfinite(reward).all()):
            bad = int(np.argmin(valid & np.isfinite(reward)))
            lost = final_value(infos, bad, "worker_restart")
            raise NonFiniteError(f"environment {bad} gave an invalid transition" + (f": {lost}" if lost else ""))
        final = self._checked(final_observation(next_obs, ended, infos))
        self.returns += reward
        self.lengths += 1
        each: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(ended):
            success = final_value(infos, int(i), "is_success")
            episode = {"r": float(self.returns[i]), "l": int(self.lengths[i])}
            truncation = bool(truncated[i] and not terminated[i])
            each[i] = {"terminal_observation": final[i], "TimeLimit.truncated": truncation, "episode": episode}
            self.finished.append(episode | {"is_success": None if success is None else bool(success)})
        self.returns[ended], self.lengths[ended] = 0.0, 0
        return self._checked(next_obs), reward.astype(np.float32), ended, each

    def close(self) -> None:
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None if attr_name == "render_mode" else getattr(self.envs, attr_name)] * self._count(indices)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError("attributes of these environments are set by their parameters")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError("these environments are called through their vector environment")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Any = None) -> list[bool]:
        return [False] * self._count(indices)

    def _count(self, indices: Any) -> int:
        return self.num_envs if indices is None else len(indices) if isinstance(indices, Sequence) else 1

    def _checked(self, obs: Any) -> np.ndarray:
        policy = split_observation(obs)[0]
        if not np.isfinite(policy).all():
            raise NonFiniteError("an observation is not finite")
        return np.array(policy.transpose(0, 3, 1, 2) if self._channels_last else policy)


class SmallFeatures(BaseFeaturesExtractor):
    """The network of `convolutions` for small images, that SB3 has not: [B, C, H, W] in [0, 1] -> [B, h]."""

    def __init__(self, observation_space: gym.spaces.Box, features_dim: int = 128) -> None:
        super().__init__(observation_space, features_dim)
        channels, *sides = observation_space.shape
        ((filters, side, stride),) = SMALL_FILTERS
        size = filters * int(np.prod([(length - side) // stride + 1 for length in sides]))
        self.cnn = nn.Sequential(nn.Conv2d(channels, filters, side, stride), nn.ReLU(), nn.Flatten())
        self.linear = nn.Sequential(nn.Linear(size, features_dim), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(self.cnn(x))
        return found


def subprocess_envs(factories: Sequence[Callable[[], gym.Env[Any, Any]]]) -> SubprocVecEnv:
    """SB3's own vector environment, with a forked process for each environment, to measure against."""
    return SubprocVecEnv(list(factories), start_method="fork")


@dataclass
class Baseline:
    """An SB3 learner: iterate it for Progress, ask it for its actor at any time."""

    model: BaseAlgorithm
    envs: VecEnvAdapter
    steps: int
    report_every: int

    def __iter__(self) -> Iterator[Progress]:
        """Learn in stretches of `report_every` environment steps. Raises NonFiniteError for broken weights."""
        began, first = time.perf_counter(), self.model.num_timesteps == 0
        while self.model.num_timesteps < self.steps:
            stretch = min(self.report_every, self.steps - self.model.num_timesteps)
            try:
                self.model.learn(stretch, log_interval=None, reset_num_timesteps=first)  # type: ignore[arg-type]
            except ValueError as error:  # torch's distributions refuse NaN parameters so
                raise NonFiniteError(f"{type(self.model).__name__}: {str(error).splitlines()[0]}") from error
            first = False
            if not all(bool(torch.isfinite(p).all()) for p in self.model.policy.parameters()):
                raise NonFiniteError(f"{type(self.model).__name__}'s weights are not finite")
            logged = self.model.logger.name_to_value
            metrics = {name.removeprefix("train/"): float(v) for name, v in logged.items() if name.startswith("train/")}
            episodes, self.envs.finished = self.envs.finished, []
            yield Progress(self.model.num_timesteps, time.perf_counter() - began, episodes, metrics, 0)

    def actor(self) -> DeterministicActor:
        """A copy of the deterministic policy as our own network."""
        return actor_from_sb3(self.model, self.envs.image)

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors to go on bit for bit but the replay buffer's, cloned; torch's and numpy's global streams too."""
        returns, lengths = (torch.from_numpy(part.copy()) for part in (self.envs.returns, self.envs.lengths))
        return state_tensors(self.model) | {"returns": returns, "lengths": lengths}

    def numbers(self) -> dict[str, Any]:
        """The rest of what it takes to go on, as JSON."""
        return state_numbers(self.model)

    def load_state_dict(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """The inverse of `state_dict` and `numbers`. Raises ValueError or KeyError when they do not fit."""
        restore_state(self.model, tensors, numbers)
        self.envs.returns[:], self.envs.lengths[:] = tensors["returns"].numpy(), tensors["lengths"].numpy()

    def memory(self) -> Memory:
        """Its replay buffer, to be stored. Raises ValueError when that cannot be done exactly."""
        return NoMemory() if isinstance(self.model, PPO) else BaselineMemory(self.model)


def setting_names(name: str) -> list[str]:
    """What may be set of SB3's learner `name`: its keyword arguments but those that `learn_sb3` gives itself."""
    ours = ("policy", "env", "seed", "device", "_init_setup_model")
    return [keyword for keyword in inspect.signature(ALGORITHMS[name]).parameters if keyword not in ours]


def check_settings(config: Mapping[str, Any]) -> None:
    """Raises ValueError for a setting out of range: SB3 itself would train with most of them."""
    checks = {
        "gamma": (lambda x: 0 <= x <= 1, "from 0 to 1"),
        "tau": (lambda x: 0 < x <= 1, "above 0 and at most 1"),
        "learning_rate": (is_rate, RATE),
        "batch_size": (lambda x: x >= 1, "at least 1"),
        "learning_starts": (lambda x: x >= 0, "at least 0"),
        "action_noise": (is_deviation, DEVIATION),
        "buffer_size": (lambda x: x >= config.get("batch_size", 256), "at least batch_size"),
    }
    for name, (holds, expected) in checks.items():
        value = config.get(name)
        if name in config and (isinstance(value, bool) or not isinstance(value, int | float) or not holds(value)):
            raise ValueError(f"{name} must be {expected}, got {value!r}")


def learn_sb3(
    name: str,
    envs: VectorEnv[Any, Any, Any],
    config: Mapping[str, Any],
    *,
    steps: int,
    seed: int,
    choices: int = 0,
    image: Shape | None = None,
    device: str = "cpu",
    report_every: int = 1_000,
) -> Baseline:
    """SB3's learner `name` with `config` as its own keyword arguments, but that `action_noise` is a standard deviation
    and `activation_fn` in its `policy_kwargs` a name; nothing is learned until it is iterated. `choices` are those of
    an action, 0: it is continuous. An `image` is seen by SB3's `CnnPolicy`, of small ones with `SmallFeatures`.

    Raises ValueError for an unknown name, a keyword SB3 does not know, or steps below 1.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"no SB3 algorithm {name!r}; algorithms: {', '.join(sorted(ALGORITHMS))}")
    if steps < 1 or report_every < 1:
        raise ValueError(f"steps and report_every must be at least 1, got {steps} and {report_every}")
    if name not in FOR_CHOICES and choices:
        raise ValueError(f"SB3 {name} needs continuous actions, these are one of {choices} choices")
    if name in ONLY_CHOICES and not choices:
        raise ValueError(f"SB3 {name} acts by one of several choices, these actions are continuous")
    check_settings(config)
    if name not in FOR_CHOICES and image:
        raise ValueError(f"SB3 {name} takes no images here")
    adapter = VecEnvAdapter(envs, seed, choices, image)
    settings = copy.deepcopy(dict(config))  # SB3 writes into its policy_kwargs
    networks = settings.setdefault("policy_kwargs", {})
    if image is not None and is_small(image):
        networks |= {"features_extractor_class": SmallFeatures, "net_arch": networks.get("net_arch", [])}
    if "activation_fn" in networks:
        networks["activation_fn"] = _activation(networks["activation_fn"])
    if name == "td3" or "action_noise" in settings:
        size = int(np.prod(envs.single_action_space.shape or ()))
        noise = float(settings.get("action_noise", ACTION_NOISE))
        settings["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, noise))
    try:
        policy = "MlpPolicy" if image is None else "CnnPolicy"
        model = ALGORITHMS[name](policy, adapter, seed=seed, device=device, **settings)
    except TypeError as error:
        raise ValueError(f"SB3 {name}: {error}") from error
    model.set_logger(Logger(None, []))
    # what SB3 schedules follows the whole training, not the stretch it is learned in
    schedule = model._update_current_progress_remaining
    model._update_current_progress_remaining = lambda done, _: schedule(done, steps)  # type: ignore[assignment, method-assign]
    return Baseline(model, adapter, steps, report_every)


def _activation(name: Any) -> type[nn.Module]:
    """The module of a name, which a file of settings can hold. Raises ValueError."""
    if name not in list(ACTIVATIONS):
        raise ValueError(f"activation_fn must be {', '.join(sorted(ACTIVATIONS))}, got {name!r}")
    return ACTIVATIONS[name]


def actor_from_sb3(model: BaseAlgorithm, image: Shape | None = None) -> DeterministicActor:
    """SB3's deterministic policy with its weights copied; equal to `model.predict(obs, deterministic=True)`. With an
    `image` it takes these as the environment shows them, and SB3's what `VecEnvAdapter` makes of them.

    Raises ValueError for an algorithm or a network that has no counterpart here.
    """
    space, policy = model.action_space, cast(Any, model.policy)
    if isinstance(model, DQN):
        network = cast(Any, model.q_net)
        net = network.q_net
        return _copied(network.features_extractor, image, net[:-1], net[-1], "choice")
    if isinstance(model, PPO) and isinstance(space, gym.spaces.Discrete):
        net = policy.mlp_extractor.policy_net
        return _copied(policy.pi_features_extractor, image, net, policy.action_net, "choice")
    if not isinstance(model, SAC | TD3 | PPO):
        raise ValueError(
            f"no actor can be taken from {type(model).__name__}; algorithms: {', '.join(sorted(ALGORITHMS))}"
        )
    assert isinstance(space, gym.spaces.Box)
    if not (np.all(space.low == -1) and np.all(space.high == 1)):
        raise ValueError(f"an actor acts in [-1, 1], this one's space is {space}")
    if isinstance(model, PPO):
        output = "tanh" if policy.squash_output else "clip"
        net = policy.mlp_extractor.policy_net
        return _copied(policy.pi_features_extractor, image, net, policy.action_net, output)
    actor = policy.actor
    if isinstance(model, SAC):
        return copy_mlp(actor.latent_pi, actor.mu, "tanh")
    return copy_mlp(actor.mu[:-2], actor.mu[-2], "tanh")


def _copied(
    features: Any, image: Shape | None, body: nn.Sequential, head: nn.Module, output: str
) -> DeterministicActor:
    """As `copy_mlp`, of images behind SB3's `features` of them."""
    if image is None:
        return copy_mlp(body, head, output)
    layers = copy_mlp(nn.Sequential(*features.linear, *body), head, output)
    actor = DeterministicActor(
        int(np.prod(image)), layers.action_size, layers.hidden, layers.activation, output, choices=layers.choices,
        image=image,
    )  # fmt: skip
    of_features = {f"convolutions.{name}": value.cpu() for name, value in features.cnn.state_dict().items()}
    of_hidden = {f"hidden.{name}": value for name, value in layers.body.state_dict().items()}
    actor.body.load_state_dict(of_features | of_hidden)
    actor.head.load_state_dict(layers.head.state_dict())
    return actor.eval().requires_grad_(False)
