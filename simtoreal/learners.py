"""Algorithms on a run's environments, ready to run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from torch import Tensor

from simtoreal import build
from simtoreal.algorithms import (
    FOR_CHOICES,
    FOR_IMAGES,
    ONLY_CHOICES,
    OURS,
    agent_class,
    agent_settings,
    check_compiling,
    recurrent_units,
)
from simtoreal.augmentation import augmentation, mirroring
from simtoreal.baseline_learner import BaselineLearner
from simtoreal.config import ConfigError, RunConfig
from simtoreal.open_episodes import check_reopened
from simtoreal.policies.actor_critic import OffPolicyConfig
from simtoreal.policies.agent import prefixed, under
from simtoreal.policies.chunks import Memory, NoMemory
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.loop_state import LoopState, Progress
from simtoreal.policies.n_step import NStep
from simtoreal.policies.observations import split_observation, with_policy_part
from simtoreal.policies.prioritized import AnyReplay, PrioritizedReplay
from simtoreal.policies.q_learning import QLearning
from simtoreal.policies.reinforce import Reinforce
from simtoreal.policies.stochastic import StochasticAgent
from simtoreal.training_envs import REPORT_EVERY, TrainingEnvs


class Learner(Protocol):
    """An algorithm on its environments, ready to run."""

    def run(self) -> Iterator[Progress]: ...

    def actor(self) -> DeterministicActor: ...

    def tensors(self) -> dict[str, Tensor]:
        """All it takes to go on bit for bit but its memory: weights, optimizers, random streams, open episodes."""
        ...

    def numbers(self) -> dict[str, Any]:
        """The part of it that is no tensor, as JSON."""
        ...

    def memory(self) -> Memory:
        """Its replay. Raises ValueError when that cannot be stored exactly."""
        ...

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go back to where another learner of this configuration stood; `run` then goes on from there.

        Raises ValueError when the state is of another learner, or an open episode does not come back.
        """
        ...


def make_learner(config: RunConfig, envs: TrainingEnvs, device: str) -> Learner:
    """The algorithm a configuration names. Raises ConfigError for settings it does not take or memory does not hold."""
    kind: type[Any] = BaselineLearner
    if config.algorithm in OURS:
        agent, _ = OURS[config.algorithm]
        kind = OnPolicyLearner if issubclass(agent, StochasticAgent) else OffPolicyLearner
        kind = TableLearner if agent is QLearning else kind
    choices = build.choices_of(envs.prototype)
    if config.choices and config.algorithm not in FOR_CHOICES:
        raise ConfigError(
            f"choices: {config.algorithm} acts continuously; set choices to null, or learn by one of "
            f"{', '.join(FOR_CHOICES)}"
        )
    for name in ("augment", "mirror", "teacher"):
        if config.choices and getattr(config, name):
            raise ConfigError(f"{name}: with choices {config.algorithm} learns without; set one of the two alone")
    if choices and config.algorithm not in FOR_CHOICES:
        raise ConfigError(
            f"{config.algorithm} needs continuous actions, {config.task} takes one of {choices} choices; "
            f"algorithms for these: {', '.join(FOR_CHOICES)}"
        )
    if build.image_of(envs.prototype) and config.algorithm not in FOR_IMAGES:
        raise ConfigError(
            f"{config.algorithm} needs observations that are vectors, {config.task} shows images; "
            f"algorithms for these: {', '.join(FOR_IMAGES)}"
        )
    if not choices and config.algorithm in ONLY_CHOICES:
        raise ConfigError(
            f"{config.algorithm} takes one of several choices, the actions of {config.task} are continuous; set "
            "choices to how many even steps each number of an action has"
        )
    try:
        return kind(config, envs, device)
    except ConfigError:
        raise
    except (TypeError, ValueError, AssertionError, AttributeError, RuntimeError, MemoryError) as error:
        raise ConfigError(f"agent: {str(error).splitlines()[0] or type(error).__name__}") from error


class _OwnLearner:
    """What our learners on a run's environments share: an agent, where its loop stands, and their state."""

    _agent: Any
    _envs: TrainingEnvs
    _state: LoopState

    def numbers(self) -> dict[str, Any]:
        return {}

    def memory(self) -> Memory:
        return NoMemory()

    def actor(self) -> DeterministicActor:
        return self._envs.acting(self._agent.actor())

    def tensors(self) -> dict[str, Tensor]:
        return {
            **prefixed("agent", self._agent.state_dict()),
            **prefixed("loop", self._state.state_dict()),
            **prefixed("envs", self._envs.state_dict()),
        }

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        self._agent.load_state_dict(under("agent", tensors))
        self._state = LoopState.from_state_dict(under("loop", tensors))
        recorded = self._state.observation
        if recorded is not None:
            seen = self._envs.load_state_dict(under("envs", tensors))
            stack, frame = split_observation(recorded)[0], split_observation(seen)[0]
            older, newest = np.split(stack, [-frame.shape[1]], axis=1)
            check_reopened(seen, with_policy_part(recorded, newest))
            self._state.observation = with_policy_part(seen, np.concatenate([older, frame], axis=1))


def _parameters(envs: TrainingEnvs) -> int:
    """How many numbers at a privileged observation's end are parameters of the episode, as our tasks show them."""
    env = envs.prototype
    if not env.has_wrapper_attr("privileged_layout"):
        return 0
    part = env.get_wrapper_attr("privileged_layout").slices.get("parameters", slice(0, 0))
    return int(part.stop - part.start)


def _sizes(envs: TrainingEnvs) -> tuple[int, int, int]:
    """Of the observation, the action and the privileged observation (0: none)."""
    space = envs.single_observation_space
    privileged = int(np.prod(space["privileged"].shape or ())) if isinstance(space, spaces.Dict) else 0
    observation = int(np.prod(build.policy_space(envs.prototype).shape or ()))
    return observation, int(np.prod(envs.single_action_space.shape or ())), privileged


class OffPolicyLearner(_OwnLearner):
    """An off-policy agent of ours with its replay on a run's environments."""

    def __init__(self, config: RunConfig, envs: TrainingEnvs, device: str) -> None:
        from simtoreal.policies.frames import FrameReplay
        from simtoreal.policies.replay import Replay
        from simtoreal.policies.sequences import SequenceReplay

        settings: Any = agent_settings(config)
        if config.teacher:
            if not isinstance(settings, OffPolicyConfig):
                raise ConfigError(f"teacher: {config.algorithm} learns without; sac and td3 can be teachers")
            if not (parameters := _parameters(envs)):
                raise ConfigError(f"teacher: {config.task} shows no drawn parameters; set teacher to false")
            settings = replace(settings, teacher_inputs=parameters)
        self._settings = settings
        observation, action, privileged = _sizes(envs)
        self._choices, image = build.choices_of(envs.prototype), build.image_of(envs.prototype)
        self._agent = agent_class(config.algorithm, settings)(
            observation,
            action,
            privileged,
            settings,
            choices=self._choices,
            image=image,
            scaled=_parameters(envs),
            seed=config.seed,
            device=device,
        )
        recurrent = recurrent_units(settings)
        for name in ("augment", "mirror"):
            if recurrent and getattr(config, name):
                raise ConfigError(f"{name}: a recurrent learner of {config.algorithm} learns without")
        check_compiling(settings, device)
        capacity = min(settings.buffer_size, (config.steps + config.envs) * (1 + config.mirror + config.augment))
        several = settings.n_step > 1
        if several and config.augment:
            raise ConfigError(
                f"augment: it takes transitions of one step, agent.n_step is {settings.n_step}; set augment to 0 "
                "(mirror=true goes with it) or agent.n_step to 1"
            )
        if config.mirror and config.augment:
            raise ConfigError("mirror: what a task with sides derives by augment is mirrored already; set augment to 0")
        sides = 1 + config.mirror
        burst = config.envs * max(sides * settings.n_step, sides + config.augment)  # episodes may end together
        if settings.buffer_size < burst:
            raise ValueError(
                f"buffer_size must be at least {burst}, what {config.envs} environments may add in one step, got "
                f"{settings.buffer_size}"
            )
        self._n_step = NStep(settings.n_step, settings.gamma) if several else None
        stack = settings.history * observation
        self._replay: AnyReplay
        if recurrent:
            sizes = {"length": settings.sequence_length, "hidden_state_size": self._agent.hidden_state_size}
            self._replay = SequenceReplay(capacity, stack, action, privileged, device, envs=config.envs, **sizes)
        elif image:
            self._replay = FrameReplay(capacity, image, action, device=device, discounted=several)
        else:
            self._replay = Replay(capacity, stack, action, privileged, device=device, discounted=several)
        if getattr(settings, "prioritized", False):
            self._replay = PrioritizedReplay(self._replay, settings.priority_exponent)
        self._envs, self._seed, self._steps = envs, config.seed, config.steps
        self._state = LoopState.start(config.seed)
        self._rng = np.random.default_rng(config.seed)
        self._augment = augmentation(envs, config, self._rng) if config.augment else None
        self._mirror = mirroring(envs, config) if config.mirror else None

    def run(self) -> Iterator[Progress]:
        from simtoreal.policies.loops import off_policy
        from simtoreal.policies.updates import CapturedUpdates

        s, on_gpu = self._settings, self._agent.device.type == "cuda"
        updates = None
        if (on_gpu and not recurrent_units(s)) or s.compile:  # sequences' valid steps are not always as many
            updates = CapturedUpdates(self._agent, self._replay, s.batch_size, s.compile)
        return off_policy(
            self._agent,
            self._envs,
            self._replay,
            steps=self._steps,
            seed=self._seed,
            batch_size=s.batch_size,
            learning_starts=s.learning_starts,
            updates_per_step=s.updates_per_step,
            choices=self._choices,
            history=s.history,
            report_every=REPORT_EVERY,
            state=self._state,
            augment=self._augment,
            mirror=self._mirror,
            n_step=self._n_step,
            updates=updates,
            ahead=updates is not None and on_gpu,
        )

    def tensors(self) -> dict[str, Tensor]:
        waiting = {} if self._n_step is None else prefixed("n_step", self._n_step.state_dict())
        if isinstance(self._replay, PrioritizedReplay):
            waiting |= prefixed("replay", self._replay.state_dict())
        return super().tensors() | waiting

    def numbers(self) -> dict[str, Any]:
        return {"augment": self._rng.bit_generator.state}

    def memory(self) -> Memory:
        return self._replay

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        super().restore(tensors, numbers)
        if self._n_step is not None:
            self._n_step.load_state_dict(under("n_step", tensors))
        if isinstance(self._replay, PrioritizedReplay):
            self._replay.load_state_dict(under("replay", tensors))
        self._rng.bit_generator.state = numbers["augment"]


class OnPolicyLearner(_OwnLearner):
    """An on-policy agent of ours on a run's environments; it stands where it can be stored after every update."""

    def __init__(self, config: RunConfig, envs: TrainingEnvs, device: str) -> None:
        settings: Any = agent_settings(config)
        check_compiling(settings, device)
        if config.teacher:
            raise ConfigError(f"teacher: {config.algorithm} learns without; sac and td3 can be teachers")
        if config.augment:
            raise ValueError(f"augment is for learners with a replay; set it to 0 for {config.algorithm}")
        self._settings = settings
        choices = build.choices_of(envs.prototype)
        self._agent = agent_class(config.algorithm, settings)(
            *_sizes(envs),
            settings,
            choices=choices,
            image=build.image_of(envs.prototype),
            scaled=_parameters(envs),
            seed=config.seed,
            device=device,
        )
        self._envs, self._seed, self._steps = envs, config.seed, config.steps
        self._state = LoopState.start(config.seed)
        self._mirror = mirroring(envs, config) if config.mirror else None
        if self._mirror and (config.algorithm != "ppo" or recurrent_units(settings)):
            raise ConfigError("mirror: reinforce and recurrent policies learn without; set mirror to false")
        if self._mirror and settings.target_kl:
            raise ConfigError("mirror: target_kl would count how far a policy is from its own image; set it to 0")

    def run(self) -> Iterator[Progress]:
        from simtoreal.policies.on_policy import monte_carlo, on_policy

        s = self._settings
        common = {"steps": self._steps, "seed": self._seed, "gamma": s.gamma, "history": s.history}
        if isinstance(self._agent, Reinforce):
            return monte_carlo(self._agent, self._envs, state=self._state, **common)
        rollout = {"rollout": s.rollout, "gae_lambda": s.gae_lambda, "mirror": self._mirror}
        return on_policy(self._agent, self._envs, state=self._state, **rollout, **common)


class TableLearner(_OwnLearner):
    """Q-learning on a run's environments: every environment step is learned from at once, and forgotten."""

    def __init__(self, config: RunConfig, envs: TrainingEnvs, device: str) -> None:
        from simtoreal.policies.replay import Latest

        settings: Any = agent_settings(config)
        for name in ("augment", "privileged"):
            if getattr(config, name):
                raise ConfigError(f"{name}: {config.algorithm} learns without")
        observation, action, _ = _sizes(envs)
        choices, one_hots = build.choices_of(envs.prototype), build.one_hots_of(envs.prototype)
        if choices and not (settings.bins or one_hots):
            raise ConfigError(
                f"agent.bins must say how finely each of the {observation} numbers is cut that {config.task} shows, "
                "agent.low and agent.high from where to where"
            )
        self._agent = QLearning(observation, action, settings, choices=choices, one_hots=one_hots, seed=config.seed)
        self._envs, self._seed, self._steps = envs, config.seed, config.steps
        self._state = LoopState.start(config.seed)
        self._mirror = mirroring(envs, config) if config.mirror else None
        self._latest = Latest(config.envs * (1 + config.mirror), observation, action)

    def run(self) -> Iterator[Progress]:
        from simtoreal.policies.loops import off_policy
        from simtoreal.policies.updates import Arrivals

        return off_policy(
            self._agent,
            self._envs,
            self._latest,
            steps=self._steps,
            seed=self._seed,
            learning_starts=0,
            report_every=REPORT_EVERY,
            state=self._state,
            mirror=self._mirror,
            updates=Arrivals(self._agent, self._latest, len(self._latest)),
        )
