"""Read someone's Stable-Baselines3 zip without unpickling anything: a pickle runs whatever it says.

The weights lie in `policy.pth` (`pth_file`). What the zip says of itself in `data` is JSON, of which the parts that are
pickles are left alone.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.networks import ACTIVATIONS, HIDDEN, is_hidden
from simtoreal.policies.pth_file import PthError, member, tensors_of

POLICIES = {"sac": "sac", "td3": "td3", "ppo": "common", "dqn": "dqn"}  # algorithm -> module of its policy class
MARKS = {"sac": "actor.latent_pi.", "td3": "actor.mu.", "ppo": "action_net.", "dqn": "q_net.q_net."}  # of its weights
CLIPPED, CLIP_MEAN = "actor.mu.0.weight", 2.0  # of gSDE: what tells that its mean is clipped, and at what by default
ACTIVATION = {"sac": "relu", "td3": "relu", "ppo": "tanh", "dqn": "relu"}  # where `policy_kwargs` name none


class Sb3ZipError(ValueError):
    """A file that is no such zip, or of a policy that has no counterpart here; the message says why."""


@dataclass(frozen=True)
class Sb3Policy:
    """A policy that was read: for `actions` "continuous" within [low, high], or one of `choices`."""

    algorithm: str
    actor: DeterministicActor
    low: np.ndarray
    high: np.ndarray
    choices: int
    steps: int
    version: str


def read_sb3(path: Path) -> Sb3Policy:
    """The deterministic policy of a zip that `model.save` wrote, as our own network: equal to
    `model.predict(obs, deterministic=True)`, but in [-1, 1] for [low, high], or for choices.

    Raises Sb3ZipError, or OSError where the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if missing := [name for name in ("data", "policy.pth") if name not in names]:
                raise Sb3ZipError(f"{path} is no whole zip of Stable-Baselines3: it holds no {missing[0]}")
            about = _about(member(archive, "data", str(path)), path)
            weights = tensors_of(member(archive, "policy.pth", str(path)), f"{path}: policy.pth")
            version = "unknown"
            if "_stable_baselines3_version" in names:
                version = (
                    member(archive, "_stable_baselines3_version", str(path))[:40].decode("ascii", "replace").strip()
                )
    except PthError as error:
        raise Sb3ZipError(str(error)) from None
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise Sb3ZipError(f"{path} is no zip that can be read: {error}") from None
    algorithm = _algorithm(about, weights, path)
    space = about.get("action_space")
    if not isinstance(space, Mapping):
        raise Sb3ZipError(f"{path}: data says no action_space")
    body, head = _layers(algorithm, weights, path)
    hidden = [weight.shape[0] for weight, _ in body]
    if not is_hidden(hidden):
        raise Sb3ZipError(f"{path}: hidden layers are {hidden}, expected {HIDDEN}")
    low, high, choices = _bounds(space, head[0].shape[0], path)
    kwargs = about.get("policy_kwargs")
    squashed = algorithm != "ppo" or (isinstance(kwargs, Mapping) and kwargs.get("squash_output") is True)
    output = "choice" if choices else "tanh" if squashed else "clip"
    activation = _activation(algorithm, about)
    clip = _mean_clip(about, path) if algorithm == "sac" and CLIPPED in weights else 0.0
    size = 1 if choices else head[0].shape[0]
    actor = DeterministicActor(body[0][0].shape[1], size, hidden, activation, output, choices=choices, mean_clip=clip)
    try:
        for layer, (weight, bias) in zip(
            (m for m in actor.body.children() if isinstance(m, nn.Linear)), body, strict=True
        ):
            layer.load_state_dict({"weight": weight.float(), "bias": bias.float()})
        actor.head.load_state_dict({"weight": head[0].float(), "bias": head[1].float()})
    except RuntimeError as error:
        raise Sb3ZipError(f"{path}: layers do not fit each other: {' '.join(str(error).split())[:200]}") from None
    if not all(bool(torch.isfinite(tensor).all()) for tensor in actor.state_dict().values()):
        raise Sb3ZipError(f"{path}: a weight is not finite")
    if output == "clip":  # PPO acts in the environment's own units
        half, middle = (torch.as_tensor(x, dtype=torch.float32) for x in ((high - low) / 2, (high + low) / 2))
        with torch.no_grad():
            weight, bias = actor.head.parameters()
            weight.div_(half[:, None])
            bias.sub_(middle).div_(half)
    steps = about.get("num_timesteps")
    steps = steps if type(steps) is int and steps >= 0 else 0
    return Sb3Policy(algorithm, actor.eval().requires_grad_(False), low, high, choices, steps, version)


def _about(data: bytes, where: Path) -> Mapping[str, Any]:
    try:
        about = json.loads(data)
    except (ValueError, RecursionError):
        raise Sb3ZipError(f"{where}: data is no JSON") from None
    if not isinstance(about, Mapping):
        raise Sb3ZipError(f"{where}: data is no table")
    return about


def _algorithm(about: Mapping[str, Any], weights: Mapping[str, Tensor], where: Path) -> str:
    """By the weights' names, and the module of the policy's class, where that is said."""
    for algorithm, mark in MARKS.items():
        if any(name.startswith(mark) for name in weights):
            said = about.get("policy_class")
            module = said.get("__module__") if isinstance(said, Mapping) else None
            expected = f"stable_baselines3.{POLICIES[algorithm]}.policies"
            if module not in (None, expected):
                raise Sb3ZipError(f"{where}: a policy of {module} has no counterpart here, only SB3's MlpPolicy")
            return algorithm
    found = ", ".join(sorted(weights)[:3])
    raise Sb3ZipError(f"{where}: no policy of {', '.join(MARKS)} in it, but {found}")


def _layers(
    algorithm: str, weights: Mapping[str, Tensor], where: Path
) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """Weight and bias of each hidden layer, and of the last one."""
    if any("features_extractor" in name and tensor.numel() for name, tensor in weights.items()):
        raise Sb3ZipError(f"{where}: a features extractor (of images?) has no counterpart here, only MlpPolicy")
    before, head = {
        "sac": ("actor.latent_pi", "actor.mu.0" if CLIPPED in weights else "actor.mu"),
        "td3": ("actor.mu", ""),
        "ppo": ("mlp_extractor.policy_net", "action_net"),
        "dqn": ("q_net.q_net", ""),
    }[algorithm]
    numbers = sorted(
        int(name.split(".")[-2])
        for name in weights
        if name.startswith(f"{before}.") and name.endswith(".weight") and name.split(".")[-2].isdigit()
    )
    names = [f"{before}.{number}" for number in numbers] + ([head] if head else [])
    try:
        layers = [(weights[f"{name}.weight"], weights[f"{name}.bias"]) for name in names]
    except KeyError as error:
        raise Sb3ZipError(f"{where}: no weight {error}") from None
    if len(layers) < 2 or not all(weight.ndim == 2 and bias.ndim == 1 for weight, bias in layers):
        raise Sb3ZipError(f"{where}: its {algorithm} policy is no network of linear layers with a hidden one")
    return layers[:-1], layers[-1]


def _mean_clip(about: Mapping[str, Any], where: Path) -> float:
    """Where gSDE's mean is clipped before its tanh: a layer without weights; said in `policy_kwargs`, as a text where
    these are pickled."""
    kwargs = about.get("policy_kwargs")
    said = kwargs.get("clip_mean", CLIP_MEAN) if isinstance(kwargs, Mapping) else CLIP_MEAN
    try:
        clip = float(said)
    except (TypeError, ValueError):
        clip = 0.0
    if not 0.0 < clip < math.inf:
        raise Sb3ZipError(f"{where}: policy_kwargs says clip_mean {said!r}, expected a number above 0")
    return clip


def _activation(algorithm: str, about: Mapping[str, Any]) -> str:
    """That of `policy_kwargs`, whose readable part names the class."""
    kwargs = about.get("policy_kwargs")
    said = str(kwargs.get("activation_fn", "")) if isinstance(kwargs, Mapping) else ""
    if not said:
        return ACTIVATION[algorithm]
    for name, kind in ACTIVATIONS.items():
        if said == str(kind):
            return name
    raise Sb3ZipError(f"activation_fn {said} has no counterpart here; activations: {', '.join(sorted(ACTIVATIONS))}")


def _bounds(space: Mapping[str, Any], size: int, where: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Low and high of a Box, or how many choices of a Discrete, from what its readable part says."""
    kind = str(space.get(":type:", ""))
    if "discrete.Discrete" in kind:
        return np.zeros(1), np.array([size - 1.0]), size
    if "box.Box" not in kind:
        raise Sb3ZipError(f"{where}: actions are a {kind or 'thing that data does not name'}, not a Box or Discrete")
    bounds = []
    for name in ("low", "high"):
        text = str(space.get(name, "")).replace("[", " ").replace("]", " ")
        try:
            bounds.append(np.array([float(word) for word in text.split()]))
        except ValueError:
            raise Sb3ZipError(f"{where}: the action space's {name} is {text.strip()!r}") from None
    low, high = bounds
    if not (len(low) == len(high) == size and np.isfinite([low, high]).all() and (low < high).all()):
        raise Sb3ZipError(f"{where}: the action space is {low} to {high} for {size} actions")
    return low, high, 0
