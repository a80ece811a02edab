"""The time base and step order that every task shares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import gt
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from simtoreal.robots.actuators import CommandDelay
from simtoreal.robots.control_clock import ControlClock
from simtoreal.robots.disturbances import Pushes
from simtoreal.robots.engines import DEFAULT_ENGINE, make_world
from simtoreal.robots.goals import check_goal
from simtoreal.robots.layout import Field, ImageLayout, Layout
from simtoreal.robots.parameters import ParameterTable
from simtoreal.robots.readers import BASE, StateRing, kept_substeps
from simtoreal.robots.scenery import Scenery
from simtoreal.robots.substeps import advance
from simtoreal.robots.task_definition import TaskDefinition
from simtoreal.robots.world import PhysicsFault, World, check_state

Observation = NDArray[Any] | dict[str, NDArray[np.float32]]
Values = Mapping[str, float]


class Task(TaskDefinition, gym.Env[Observation, Any]):
    """One robot with one goal, as a gymnasium environment.

    A control step is: command from the action and the observation it answers; physics substeps, in each of which the
    drive turns the (delayed) command into torque; fault check; reward signals; reward terms, success, termination;
    sensor readings; observation. The clock is the task's own, so truncation comes with `horizon` steps.

    `control_step` counts them, `readings` are the sensors' last by name.

    `info` holds `reward_terms` (name -> number), `is_success` (the success condition has held up to now), `unmet` (at
    the end of an episode: what kept it from being a success, where the task can tell),
    `violation` (a joint faster than its limit, or contact with the table) and, after a reset, `parameters` (what
    really applies, read back). If physics breaks, `physics_fault` is True, the episode is truncated, the
    observation is the last sound one, and the next reset builds the world anew. A command that is not finite ends
    the episode as a failure with `invalid_action` True.

    Args:
        privileged: observations become {"policy": [n], "privileged": [p]}; privileged holds the observation of ideal
            sensors (of a task that shows images its `state_layout`), the task's `privileged_signals` and every
            parameter, scaled by its range (`scale_parameters`), for critics and teachers; with "state" the parameters
            are left out. Only "policy" is ever exported.
        render_mode: None, "rgb_array" or "human".
        engine: one of `engines.ENGINES`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"]}  # noqa: RUF012 (gymnasium's declaration)

    def __init__(
        self,
        *,
        privileged: bool | Literal["state"] = False,
        render_mode: str | None = None,
        engine: str = DEFAULT_ENGINE,
    ) -> None:
        if privileged not in (False, True, "state"):
            raise ValueError(f"privileged must be False, True or 'state', got {privileged!r}")
        if privileged and isinstance(self.observation_layout, ImageLayout) and self.state_layout is None:
            raise ValueError(
                f"privileged must be False: {type(self).__name__} shows images, and no state_layout says what else"
            )
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"no render_mode {render_mode!r}; choices: rgb_array, human")
        steps = self.control_dt / self.physics_dt
        if abs(steps - round(steps)) > 1e-6:
            raise ValueError(f"control_dt must be a whole number of physics steps, got {steps:.3f}")
        self.render_mode = render_mode
        self._privileged = bool(privileged)
        self.metadata = self.metadata | {"render_fps": round(1.0 / self.control_dt)}
        self._substeps = round(steps)
        self.world: World = make_world(
            engine,
            self.robot,
            self.physics_dt,
            rendering=render_mode is not None or any(sensor.sees for sensor in self.sensors),
            gui=render_mode == "human",
        )
        self.drive = self.make_drive()
        self._readers = {sensor.name: sensor.reader(self.world) for sensor in self.sensors}
        self._pushes = Pushes(self.control_dt) if self.robot.floating else None
        self._scenery = Scenery(self.world) if any(sensor.sees for sensor in self.sensors) else None
        self._loop = ControlClock(self.physics_dt, self._substeps)
        self._scorer = self.scorer()
        self.parameters = ParameterTable(
            [
                *self.world.parameters,
                *self.drive.parameters,
                *self._loop.parameters,
                *(parameter for sensor in self.sensors for parameter in sensor.parameters()),
                *(self._pushes.parameters if self._pushes else ()),
                *(self._scenery.parameters if self._scenery else ()),
            ]
        )
        self._scales: dict[str, tuple[float, float]] = {}
        self.scale_parameters({})
        self._ring = StateRing(self.physics_dt, self._substeps, self._loop.longest)
        self._delay = CommandDelay(self.physics_dt, self._substeps)
        self._values: dict[str, float] = {}
        self._write(self.parameters.nominal)
        self.action_space: spaces.Space[Any] = self.command_layout.space()
        self._speed_limits = self.limits["velocity"]
        self.privileged_layout = self._privileged_layout(parameters=privileged != "state")
        self.observation_space: spaces.Space[Any] = (
            spaces.Dict({"policy": self.observation_layout.space(), "privileged": self.privileged_layout.space()})
            if privileged
            else self.observation_layout.space()
        )
        self._broken = False

    def set_goal(self, goal: Mapping[str, Sequence[float]]) -> None:
        """Replace some of the goals now, in mid-episode; the policy sees it one control step later.

        Raises:
            ValueError: an unknown name, a wrong count or a value out of bounds; nothing is changed then.
        """
        self.aim(check_goal(goal, self.goals))

    def push(self, velocity: Sequence[float]) -> None:
        """Change a floating base's velocity at once by `velocity` [3] m/s, in the ground's axes.

        Raises:
            ValueError: the robot is fixed to the world, or that is no velocity.
        """
        if not self.robot.floating:
            raise ValueError("a robot with a fixed base cannot be pushed")
        if len(velocity) != 3 or not all(map(math.isfinite, velocity)):
            raise ValueError(f"a push is three finite numbers in m/s, got {list(velocity)}")
        self.world.push(velocity)
        self._state = self.world.state()

    def _privileged_layout(self, *, parameters: bool) -> Layout:
        names = tuple(self.parameters)
        drawn = Field("parameters", len(names), "-", "", names, "(value - nominal) / width of its range")
        return Layout(
            *(
                replace(field, name=f"true_{field.name}")
                for field in (self.state_layout or self.observation_layout).fields
            ),
            *(field for field in self.reward_layout.fields if field.name in self.privileged_signals),
            *([drawn] if parameters else []),
        )

    def _write(self, values: dict[str, float]) -> None:
        self.world.apply(values)
        self.drive.apply(values)
        self._loop.apply(values)
        for reader in self._readers.values():
            reader.apply(values)
        if self._pushes:
            self._pushes.apply(values)
        if self._scenery:
            self._scenery.apply(values)
        self._values = values
        late, late_base = (
            kept_substeps([r.age for r in readers], self.physics_dt, self._substeps)
            for readers in (self._readers.values(), [r for r in self._readers.values() if r.which == BASE])
        )
        self._kept = list(zip(late, late_base, strict=True)) if self._loop.even else []
        if self._privileged:
            self._scaled = [(values[name] - nominal) / width for name, (nominal, width) in self._scales.items()]
        self.apply_bias()

    def scale_parameters(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        """Let the privileged observation show a parameter less its nominal value by the width of its range from now on;
        of one without a range, of its bounds."""
        bounds = {p.name: (p.nominal, p.low, p.high) for p in self.parameters.values()}
        within = {name: (bounds[name][0], *ends) for name, ends in ranges.items()}
        self._scales = {
            name: (nominal, (high - low) or 1.0) for name, (nominal, low, high) in (bounds | within).items()
        }

    @property
    def torque(self) -> Sequence[float]:
        """What the drive gave in the last physics step, of every joint of the world [N m or N]."""
        return self.world.torque

    @property
    def limits(self) -> dict[str, list[float]]:
        """Limits of the commanded joints, in SI, in their order."""
        ranges = [self.robot.range(name) for name in self.commanded_joints]
        return {
            "position_low": [low for low, _ in ranges],
            "position_high": [high for _, high in ranges],
            "velocity": [self.robot.velocity(name) for name in self.commanded_joints],
            "effort": [self.robot.effort(name) for name in self.commanded_joints],
        }

    @property
    def last_command(self) -> list[float]:
        """The SI command [m] in force."""
        return list(self._command)

    def set_parameters(self, values: Values) -> dict[str, float]:
        """Change some parameters now, in mid-episode; returns what really applies.

        Raises:
            ValueError: an unknown name or a value out of bounds; nothing is changed then.
        """
        self._write(self.parameters.complete(values, self._values))
        return self.read_parameters()

    def read_parameters(self) -> dict[str, float]:
        """Every parameter as it really applies."""
        real = self.world.read_back() | self.drive.read_back() | self._loop.read_back()
        for reader in self._readers.values():
            real |= reader.read_back()
        for part in (self._pushes, self._scenery):
            real |= part.read_back() if part else {}
        return real

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        `options={"parameters": {name: value}}` departs from nominal by these names alone; `{"goal": {name: values}}`
        sets what else would be drawn, names and bounds as in `goals`.

        Raises:
            ValueError: another option, an unknown parameter or goal, a value out of bounds.
        """
        super().reset(seed=seed)
        given = dict(options or {})
        values = self.parameters.complete(given.pop("parameters", {}))
        goal = check_goal(given.pop("goal", {}), self.goals)
        if given:
            raise ValueError(f"no reset option {', '.join(map(repr, given))}; options: 'parameters', 'goal'")
        try:
            check_state(self.world.state(), self.velocity_bound)
        except PhysicsFault:
            self._broken = True
        if self._broken:
            self.world.reload()
            self._broken = False
        self._write(values)
        noise_seed = int(self.np_random.integers(2**63))
        for reader in self._readers.values():
            reader.start(noise_seed)
        if self._pushes:
            self._pushes.start(noise_seed)
        self.control_step = 0
        self._scorer.start()
        self._given_action: list[float] = [0.0] * self.command_layout.size
        self.world.torque = [0.0] * len(self.world.joints)
        self._delay.start(noise_seed)
        self._loop.start(noise_seed)
        start = self.start(self.np_random)
        if goal:
            self.aim(goal)
        self.world.reset(start.position, start.velocity, start.base)
        self._state = self.world.state()
        self._ring.fill(self._state)
        self._delay.fill(start.command)
        self.drive.start(start.command)
        self._command = [float(c) for c in start.command]
        self._signals = self.signals(self._state) if self._privileged and self.privileged_signals else {}
        self._observation = self._make_observation()
        return self._as_space(), {"parameters": self.read_parameters()}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        numbers = self.command_layout.numbers(action)
        given: list[float] = numbers.tolist()
        self.control_step += 1
        truncated = self.control_step >= self.horizon
        if not all(map(math.isfinite, given)):
            info = {
                "is_success": False,
                "invalid_action": True,
                "violation": True,
                "reward_terms": {},
                "reward_signals": self.signals(self._state),
            }
            return self._as_space(), self.refusal_reward(self.control_step - 1), True, False, info
        self._given_action = given
        self._command = self.command_layout.command(numbers, self._observation, self.observation_layout).tolist()
        if self._pushes and (blow := self._pushes.due(self.control_step - 1)):
            self.push(blow)
        try:
            self._simulate(self._command)
        except PhysicsFault:
            self._broken = True
            info = {
                "is_success": False,
                "physics_fault": True,
                "violation": True,
                "reward_terms": {},
                "reward_signals": self.signals(self._state),
            }
            return self._as_space(), 0.0, False, True, info
        signals = self._signals = self.signals(self._state)
        terms = self.reward_terms(signals, self._given_action)
        terminated = self.fails(signals)
        if terminated:
            terms["failure"] = self.failure_reward
        if self.control_step <= self.horizon:  # what is played on beyond it is not judged
            self._met = self._scorer.see(signals)
        success = self._met and not terminated
        self._observation = self._make_observation()
        if self.render_mode == "human":
            self.show()
        info = {
            "is_success": success,
            "violation": self.violates(),
            "reward_terms": terms,
            "reward_signals": signals,
        }
        if terminated or truncated:
            info["unmet"] = "; ".join([*self._scorer.unmet, *(["failed"] if terminated else [])])
        return self._as_space(), sum(terms.values()), terminated, truncated, info

    def _simulate(self, command: list[float]) -> None:
        late = self._values["actuator.latency"], self._values["actuator.jitter"]
        steps = self._loop.steps(self.control_step - 1)
        targets = self.drive.targets(self._delay.schedule(command, *late, steps=steps))
        seen, state, self.world.torque = advance(
            self.world,
            self.drive,
            self._state,
            targets,
            self._kept if steps == len(self._kept) else [(True, True)] * steps,
            bound=self.velocity_bound,
            compensates_gravity=self.compensates_gravity,
        )
        check_state(state, self.velocity_bound)
        self._ring.extend(seen)
        self._state = state

    def too_fast(self) -> bool:
        """Is any joint faster than its limit? Where every joint of the world is a commanded one."""
        return any(map(gt, map(abs, self._state[1]), self._speed_limits))

    def _make_observation(self) -> NDArray[Any]:
        self.readings = {name: reader.read(self._ring, self.control_step) for name, reader in self._readers.items()}
        self.remember(self.readings)
        return self.observation_layout.pack(self.observe(self.readings, self._command))

    def _as_space(self) -> Observation:
        policy = self._observation.copy()
        if not self._privileged:
            return policy
        true = self.true_state()
        more = [number for name in self.privileged_signals for number in self._signals[name]]
        if "parameters" in self.privileged_layout.slices:
            more += self._scaled
        return {"policy": policy, "privileged": np.concatenate([true, np.array(more, np.float32)])}

    def true_state(self) -> NDArray[Any]:
        """What critics may see of the robot as it is: what would be observed by ideal sensors."""
        readings = {name: reader.ideal(self._state) for name, reader in self._readers.items()}
        return self.observation_layout.pack(self.observe(readings, self._command))

    def show(self) -> None:
        """Put the marker where a viewer should look; called before a frame is taken."""
        if self.marker is not None:
            self.world.mark(*self.marker)

    def render(self) -> NDArray[np.uint8] | None:
        """The task's camera image [height, width, 3] in render_mode "rgb_array"."""
        if self.render_mode != "rgb_array":
            return None
        self.show()
        return self.world.render(self.camera)

    def close(self) -> None:
        self.world.close()
