"""What a policy of a task reads and writes, and what both ends of a link must agree on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from simtoreal.build import image_of, one_hots_of, parameters_of, policy_space
from simtoreal.config import ConfigError
from simtoreal.export.onboard.layout import CommandMap, Image
from simtoreal.export.onboard.layout import Field as SpecField
from simtoreal.export.onboard.spec import Spec
from simtoreal.policies.images import Shape, is_channels_first
from simtoreal.robots.layout import CommandLayout, Field, Layout
from simtoreal.robots.parameters import Parameter

if TYPE_CHECKING:
    from simtoreal.robots.task import Task


@dataclass(frozen=True)
class Contract:
    """What a policy of a task reads and writes, whoever made the environment."""

    task: str
    control_dt: float  # [s]
    observation: Layout
    command: CommandLayout
    reward_signals: Layout
    joints: tuple[str, ...]
    gains: Mapping[str, Sequence[float]]
    limits: Mapping[str, Sequence[float]]
    parameters: Mapping[str, Parameter]
    image: Shape | None = None  # of which the observation is one

    @classmethod
    def of(cls, task: str, env: gym.Env[Any, Any]) -> Contract:
        """The contract of an environment made by `make_env`.

        An environment of others has one field of observation and one of command without units: what it does not say
        of itself cannot be known, nor what the channels of its images are. Of states, seen one-hot, there is a field
        for each.
        """
        if env.has_wrapper_attr("command_layout"):
            get = env.get_wrapper_attr
            return cls(
                task,
                get("control_dt"),
                get("observation_layout"),
                get("command_layout"),
                get("reward_layout"),
                get("commanded_joints"),
                get("gains"),
                get("limits"),
                parameters_of(env),
                image_of(env),
            )
        space = env.unwrapped.action_space
        if isinstance(space, spaces.Discrete):
            low, high = np.array([float(space.start)]), np.array([float(space.start + space.n - 1)])
            field = Field("choice", 1, "number", description=f"one of {space.n}: a whole number, else rounded")
        else:
            assert isinstance(space, spaces.Box)
            low, high = space.low.astype(float).ravel(), space.high.astype(float).ravel()
            field = Field("command", len(low), "unknown")
        image, size = image_of(env), int(np.prod(policy_space(env).shape or (1,)))
        seen = [Field("observation", size, "unknown")]
        if image:
            seen = [Field("image", size, "1/255", description="what each channel is, the task says")]
        elif one_hots := one_hots_of(env):
            names = [f"state.{i}" for i in range(len(one_hots))] if len(one_hots) > 1 else ["state"]
            said = "1 in the place of the state, else 0"
            seen = [Field(name, n, "one-hot", description=said) for name, n in zip(names, one_hots, strict=True)]
        return cls(
            task,
            env.get_wrapper_attr("control_dt"),
            Layout(*seen),
            CommandLayout(
                field,
                scale=(high - low) / 2,
                offset=(high + low) / 2,
                low=low.tolist(),
                high=high.tolist(),
            ),
            Layout(),
            (),
            {},
            {},
            parameters_of(env),
            image,
        )

    def action(self, command: NDArray[np.floating], observation: NDArray[np.floating]) -> NDArray[np.floating]:
        """The action in [-1, 1]^m that means the SI command [m] in answer to `observation` [n]."""
        return self.command.action(np.asarray(command, float), observation, self.observation)

    def check(self, spec: Spec, name: str) -> None:
        """Raises ConfigError when a bundle's observation or command is not this contract's. Choices may count from the
        last command instead, by as much as they were learned with."""
        for what, difference in (
            ("observation", _other_field(spec.observation, _fields(self.observation))),
            ("command", _other_field(spec.command, _fields(self.command))),
            ("command", self._other_map(spec.command_map, bool(spec.choices))),
            ("image", "" if spec.image == self._image() else f"{spec.image}, now {self._image()}"),
        ):
            if difference:
                raise ConfigError(f"{name} was made for another {self.task}: {what} {difference}")

    def _other_map(self, theirs: CommandMap, choices: bool) -> str:
        """What differs first between a bundle's command map, of fields as these, and this one; empty: nothing."""
        ours = self.command_map()
        if choices and theirs.relative_to != ours.relative_to:
            ours = self._changing(theirs) or ours
        if theirs.relative_to != ours.relative_to:
            before, now = (" + ".join(m.relative_to) or "nothing" for m in (theirs, ours))
            return f"counts from {before}, now from {now}"
        units = [field.unit for field in self.command.fields for _ in range(field.size)]
        found = []
        for i, element in enumerate(self.command.element_names()):
            for what, places in (("scale", ("scale",)), ("range", ("low", "high")), ("middle", ("offset",))):
                before, now = (" to ".join(f"{getattr(m, place)[i]!r}" for place in places) for m in (theirs, ours))
                if any(getattr(theirs, place)[i] != getattr(ours, place)[i] for place in places):
                    found.append(f"{element}: {what} {before}, now {now} {units[i]}")
                    break
        return found[0] + (f" (and {len(found) - 1} more)" if found[1:] else "") if found else ""

    def _image(self) -> Image | None:
        return self.image and Image(self.image, "CHW" if is_channels_first(self.image) else "HWC")

    def _changing(self, theirs: CommandMap) -> CommandMap | None:
        """This command's map as one that counts from the last command by the scale of `theirs`; None where that counts
        from something else."""
        try:
            ours = self.command.changing([1.0] * self.command.size, self.observation)
        except ValueError:
            return None
        return replace(_map(ours), scale=theirs.scale) if ours.relative_to == theirs.relative_to else None

    def command_map(self) -> CommandMap:
        """The command's map as a bundle carries it."""
        return _map(self.command)

    def _choices(self, actions: NDArray[np.floating]) -> tuple[tuple[float, ...], ...]:
        """Actions [K, m] as commands, or where these count from the observation what each adds to it; rounded to nine
        digits, which tell float32 numbers apart."""
        c = self.command
        commands = np.array([[float(f"{value:.9g}") for value in row] for row in c.offset + c.scale * actions])
        if not c.relative_to:
            commands = commands.clip(c.low, c.high)
        return tuple(map(tuple, commands.tolist()))

    def spec(
        self,
        *,
        algorithm: str,
        training_ranges: Mapping[str, tuple[float, float]],
        provenance: Mapping[str, Any],
        history: int = 1,
        recurrent: int = 0,
        choices: NDArray[np.floating] | None = None,
    ) -> Spec:
        """The contract as a bundle carries it; `history` is how many of the last observations the policy sees,
        `recurrent` the width of its hidden state, 0 if it has none, `choices` the actions [K, m] of which it gives one,
        None if it gives any."""
        return Spec(
            task=self.task,
            algorithm=algorithm,
            control_dt=self.control_dt,
            observation=_fields(self.observation),
            command=_fields(self.command),
            command_map=self.command_map(),
            reward_signals=_fields(self.reward_signals),
            joints=self.joints,
            gains={name: tuple(values) for name, values in self.gains.items()},
            limits={name: tuple(values) for name, values in self.limits.items()},
            training_ranges=dict(training_ranges),
            parameters={
                name: {"unit": p.unit, "nominal": p.nominal, "low": p.low, "high": p.high}
                for name, p in self.parameters.items()
            },
            tolerance=1e-5,
            history=history,
            recurrent=recurrent,
            image=self._image(),
            choices=() if choices is None else self._choices(choices),
            provenance=dict(provenance),
        )


def contract_digest(task: Task | type[Task]) -> str:
    """sha256 of what both ends of a link must agree on: rate, observation, command and reward signals."""
    command = task.command_layout
    agreed = {
        "control_dt": task.control_dt,
        "observation": [asdict(field) for field in task.observation_layout.fields],
        "command": [asdict(field) for field in command.fields],
        "map": [values.tolist() for values in (command.offset, command.scale, command.low, command.high)],
        "relative_to": command.relative_to,
        "signals": [asdict(field) for field in task.reward_layout.fields],
    }
    return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()


def _other_field(theirs: Sequence[SpecField], ours: Sequence[SpecField]) -> str:
    """What differs first between two layouts; empty where nothing does."""
    for before, now in zip_longest(theirs, ours):
        if before is None or now is None or before.name != now.name:
            names = ["nothing more" if field is None else f"field {field.name}" for field in (before, now)]
            return f"has {names[0]}, now {names[1]}"
        for what in ("size", "unit", "frame", "labels", "description"):
            a, b = (getattr(field, what) or "none" for field in (before, now))
            if a != b:
                a, b = (", ".join(v) if isinstance(v, tuple) else v for v in (a, b))
                return f"field {before.name}: {what} {a}, now {b}"
    return ""


def _map(command: CommandLayout) -> CommandMap:
    offset, scale, low, high = (
        tuple(map(float, values)) for values in (command.offset, command.scale, command.low, command.high)
    )
    return CommandMap(offset, scale, low, high, relative_to=command.relative_to)


def _fields(layout: Layout) -> tuple[SpecField, ...]:
    return tuple(SpecField(f.name, f.size, f.unit, f.frame, f.labels, f.description) for f in layout.fields)
