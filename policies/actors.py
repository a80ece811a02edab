"""Actors: those that are trained off-policy, and the plain one that leaves training."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simtoreal.policies.backprop import HiddenLayers, Trace, linear_gradients, tanh_backward
from simtoreal.policies.convolutions import image_layers
from simtoreal.policies.distributions import (
    LOG_2PI,
    chosen_action,
    gaussian_log_prob,
    state_dependent_variance,
    tanh_correction,
)
from simtoreal.policies.images import Shape, check_image
from simtoreal.policies.levels import grid
from simtoreal.policies.networks import ACTIVATIONS, AdaptedLayers, mlp
from simtoreal.policies.normalizer import FrozenNormalizer
from simtoreal.policies.q_networks import Atoms, ExpectedReturn, QNetwork
from simtoreal.policies.recurrent import MAX_RECURRENT, RecurrentLayers
from simtoreal.policies.tables import StateTable

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
OUTPUTS = ("tanh", "clip", "choice")


class Actor(nn.Module):
    """A body of hidden layers and a head of `outputs`; the first `action_size` of them are the action before its tanh.

    Takes normalized observations [B, n]; with a recurrent layer of so many units before the others, `Steps`.
    """

    def __init__(
        self, observation_size: int, action_size: int, hidden: Sequence[int], outputs: int, recurrent: int = 0
    ) -> None:
        super().__init__()
        self.action_size = action_size
        self.body: HiddenLayers | RecurrentLayers
        if recurrent:
            self.body = RecurrentLayers(observation_size, recurrent, hidden, "relu")
        else:
            self.body = mlp([observation_size, *hidden], "relu", HiddenLayers)
        self.head = nn.Linear(([observation_size, *hidden])[-1], outputs)

    def mean(self, obs: Tensor) -> Tensor:
        """The deterministic action [B, m] before its tanh."""
        outputs = self.head(self.body(obs)) if torch.is_grad_enabled() else self.trace(obs)[0]
        found: Tensor = outputs[:, : self.action_size]
        return found

    @torch.no_grad()
    def trace(self, obs: Any) -> tuple[Tensor, Trace]:
        """The head's outputs, and what their gradients need; of a recurrent actor those of the valid steps."""
        trace = self.body.trace(obs)
        return torch.addmm(self.head.bias, trace.output, self.head.weight.t()), trace

    @torch.no_grad()
    def weight_gradients(self, trace: Trace, g: Tensor) -> list[Tensor]:
        """From the gradient of the head's outputs: those of the weights, in the order of `parameters()`."""
        of_head = linear_gradients(trace.output, g)
        return [*self.body.weight_gradients(trace, torch.mm(g, self.head.weight)), *of_head]


class TanhActor(Actor):
    """a = tanh(mu)."""

    def __init__(self, observation_size: int, action_size: int, hidden: Sequence[int]) -> None:
        super().__init__(observation_size, action_size, hidden, action_size)


@dataclass(frozen=True)
class Drawn:
    """What an actor did with observations: the mean before its tanh [B, m], an action [B, m] in [-1, 1] and its
    log pi(a|s) [B]."""

    mean: Tensor
    action: Tensor
    log_prob: Tensor


class StochasticTanhActor(Actor):
    """a = tanh(u), u normal about a mean: action and log-probability, by noise that is given."""

    @abstractmethod
    def noise(self, n: int, rng: torch.Generator) -> Tensor:
        """Standard normal noise for `draw` on n observations."""

    @abstractmethod
    def sample(self, obs: Tensor, noise: Tensor) -> Tensor:
        """The action [B, m] of `draw` alone."""

    @abstractmethod
    def draw(self, obs: Any, noise: Tensor) -> Any:
        """An action for each observation, as `Drawn`, of which `gradients` can be asked."""

    @abstractmethod
    def gradients(
        self, drawn: Any, to_action: Tensor, to_log_prob: Tensor, to_mean: Tensor | None = None
    ) -> list[Tensor]:
        """Of a loss to the weights, in the order of `parameters()`, from its gradients to the first n actions [n, m],
        to their log pi [n], and to the means of all that was drawn [B, m]."""


@dataclass(frozen=True)
class DrawnByHand(Drawn):
    """And std(s) times the noise, whether the log standard deviation was within its bounds, and the pass forward."""

    spread: Tensor
    inside: Tensor
    trace: Trace


class SquashedGaussianActor(StochasticTanhActor):
    """Of a standard deviation that the network gives too."""

    def __init__(self, observation_size: int, action_size: int, hidden: Sequence[int], recurrent: int = 0) -> None:
        super().__init__(observation_size, action_size, hidden, 2 * action_size, recurrent)

    def noise(self, n: int, rng: torch.Generator) -> Tensor:
        return torch.randn(n, self.action_size, generator=rng, device=rng.device)

    def sample(self, obs: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = self.trace(obs)[0].split(self.action_size, dim=-1)
        return (mean + log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp() * noise).tanh()

    @torch.no_grad()
    def draw(self, obs: Any, noise: Tensor) -> DrawnByHand:
        outputs, trace = self.trace(obs)
        mean, unbounded = outputs.split(self.action_size, dim=-1)
        log_std = unbounded.clamp(LOG_STD_MIN, LOG_STD_MAX)
        action, log_prob, spread = squash(mean, log_std, noise)
        return DrawnByHand(mean, action, log_prob, spread, log_std == unbounded, trace)

    @torch.no_grad()
    def gradients(
        self, drawn: DrawnByHand, to_action: Tensor, to_log_prob: Tensor, to_mean: Tensor | None = None
    ) -> list[Tensor]:
        """With u = mean + std noise:  d log pi / du = 2 tanh(u),  du / d log std = std noise."""
        n, m = to_action.shape
        action, to_log_prob = drawn.action[:n], to_log_prob[:, None]
        to_u = torch.addcmul(tanh_backward(to_action, action), action, to_log_prob, value=2.0)
        to_log_std = (to_u * drawn.spread[:n]).sub_(to_log_prob).mul_(drawn.inside[:n])
        if to_mean is None:
            return self.weight_gradients(drawn.trace.rows(n), torch.cat([to_u, to_log_std], dim=1))
        g = torch.zeros(len(to_mean), 2 * m, dtype=to_mean.dtype, device=to_mean.device)
        g[:, :m] = to_mean
        g[:n, :m] += to_u
        g[:n, m:] = to_log_std
        return self.weight_gradients(drawn.trace, g)


@dataclass(frozen=True)
class DrawnByState(Drawn):
    """And the matrix [h, m] that explores, how far it leads from the mean, its variance, and the pass forward."""

    weights: Tensor
    distance: Tensor
    variance: Tensor
    trace: Trace


class StateDependentTanhActor(StochasticTanhActor):
    """State-dependent exploration (gSDE, Raffin et al. 2021, arXiv 2005.05719), as Stable-Baselines3 does it for SAC.

        u = mean(s) + latent(s) W,  W_ij ~ N(0, std_ij);  pi(u|s) = N(mean(s), sqrt(latent(s)^2 std^2 + 1e-6))

    Deviation: Stable-Baselines3 clips the mean to [-2, 2] as well (its `clip_mean`).
    """

    def __init__(self, observation_size: int, action_size: int, hidden: Sequence[int], log_std: float) -> None:
        super().__init__(observation_size, action_size, hidden, action_size)
        self.log_std = nn.Parameter(torch.full((hidden[-1], action_size), log_std))

    def noise(self, n: int, rng: torch.Generator) -> Tensor:
        """One matrix [h, m] for all of them."""
        return torch.randn(self.log_std.shape, generator=rng, device=rng.device)

    def sample(self, obs: Tensor, noise: Tensor) -> Tensor:
        """As the base's; `noise` is one matrix [h, m] or one an observation [B, h, m]."""
        outputs, trace = self.trace(obs)
        return (outputs + (trace.output.unsqueeze(-2) @ (noise * self.log_std.exp())).squeeze(-2)).tanh()

    @torch.no_grad()
    def draw(self, obs: Any, noise: Tensor) -> DrawnByState:
        """As the base's, of one matrix of `noise` [h, m]."""
        mean, trace = self.trace(obs)
        latent, weights = trace.output, noise * self.log_std.exp()
        distance = latent @ weights
        variance = state_dependent_variance(latent, self.log_std)
        u = mean + distance
        log_prob = gaussian_log_prob(u, mean, 0.5 * variance.log()) - tanh_correction(u).sum(-1)
        return DrawnByState(mean, u.tanh(), log_prob, weights, distance, variance, trace)

    @torch.no_grad()
    def gradients(
        self, drawn: DrawnByState, to_action: Tensor, to_log_prob: Tensor, to_mean: Tensor | None = None
    ) -> list[Tensor]:
        """With d = u - mean = latent W and v the variance:  d log pi / du = 2 tanh(u) from the tanh,
        d log pi / dd = -d / v,  d log pi / dv = (d^2 / v - 1) / 2 v; and from d and v to the latent, W and std."""
        n, to_log_prob = len(to_action), to_log_prob[:, None]
        action, latent = drawn.action[:n], drawn.trace.output[:n]
        distance, variance, std = drawn.distance[:n], drawn.variance[:n], self.log_std.exp()
        to_u = torch.addcmul(tanh_backward(to_action, action), action, to_log_prob, value=2.0)
        to_distance = to_u - to_log_prob * distance / variance
        to_variance = to_log_prob * (distance.square() / variance - 1) / (2 * variance)
        of_log_std = (latent.t() @ to_distance) * drawn.weights
        of_log_std += 2 * (latent.square().t() @ to_variance) * std.square()
        to_latent = to_distance @ drawn.weights.t() + 2 * latent * (to_variance @ std.square().t())
        if to_mean is None:
            g, trace = to_u, drawn.trace.rows(n)
        else:
            g, trace = to_mean.clone(), drawn.trace
            g[:n] += to_u
            to_latent = F.pad(to_latent, (0, 0, 0, len(g) - n))
        to_latent = to_latent + g @ self.head.weight
        return [of_log_std, *self.body.weight_gradients(trace, to_latent), *linear_gradients(trace.output, g)]


def squash(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """tanh of a Gaussian sample, its log-density, and what the sample differs by from its mean."""
    spread = log_std.exp() * noise
    u = mean + spread
    log_prob = (-0.5 * noise.square() - log_std - tanh_correction(u)).sum(-1) - 0.5 * LOG_2PI * noise.shape[-1]
    return u.tanh(), log_prob, spread


class DeterministicActor(nn.Module):
    """Raw SI observation [B, n] -> action [B, m] in [-1, 1]: what is exported, whoever trained it.

    With `output` "choice" the action [B, 1] is the likeliest of `choices`, as -1 for the first to 1 for the last; with
    `levels` it is the row [B, m] of their `grid` that this choice stands for.

    With a `history` of k it takes the stack [B, k n] of the last k observations, oldest first; its normalizer is that
    of one of them. With an `image` it takes such images, uint8 [B, *image], of `observation_size` numbers each.
    With `recurrent` = h units it also takes its hidden state [B, h], and gives the next one. With a `mean_clip` above 0
    what comes before a "tanh" is clipped to +-that, as Stable-Baselines3's gSDE does it. With an `encoder` of such
    hidden layers it is a student (`AdaptedLayers`). With `atoms` a choice is likely by the mean of a distribution of
    returns, of `dueling` streams or of one (`q_networks`); with `bins` by its place in a table's row (`StateTable`).
    `describe()` is what a checkpoint records, so `from_description` rebuilds it from the checkpoint alone.
    """

    commands: Tensor

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int],
        activation: str = "relu",
        output: str = "tanh",
        history: int = 1,
        choices: int = 0,
        image: Shape | None = None,
        recurrent: int = 0,
        mean_clip: float = 0.0,
        encoder: Sequence[int] = (),
        atoms: Atoms | None = None,
        dueling: bool = False,
        levels: Sequence[int] = (),
        bins: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if atoms and (output != "choice" or recurrent or encoder):
            raise ValueError("distributions are of choices, and of policies without memory but a history")
        if encoder and (recurrent or image is not None):
            raise ValueError("an encoder is of vectors, and remembers by a history")
        if not 0.0 <= mean_clip < math.inf or (mean_clip and output != "tanh"):
            raise ValueError(f"mean_clip must be finite, at least 0, and 0 without tanh, got {mean_clip}")
        if output not in OUTPUTS:
            raise ValueError(f"no output {output!r}; outputs: {', '.join(OUTPUTS)}")
        if (output == "choice") != (choices > 1) or (choices and action_size != (len(levels) or 1)):
            raise ValueError(f"{choices} choices do not go with the output {output!r} of size {action_size}")
        if levels and math.prod(levels) != choices:
            raise ValueError(f"levels {list(levels)} are {math.prod(levels)} combinations, got {choices} choices")
        if bins and not (output == "choice" and history == 1 and image is None and not (recurrent or encoder)):
            raise ValueError("a table is of choices, and sees one vector at a time")
        if recurrent and not (recurrent <= MAX_RECURRENT and history == 1 and image is None):
            raise ValueError(f"a recurrent actor sees one vector at a time and has at most {MAX_RECURRENT} units")
        self.observation_size, self.action_size = observation_size, action_size
        self.hidden, self.activation, self.output, self.history = tuple(hidden), activation, output, history
        self.choices, self.image, self.recurrent, self.mean_clip = choices, image, recurrent, mean_clip
        self.encoder, self.atoms, self.dueling, self.levels = tuple(encoder), atoms, dueling, tuple(levels)
        self.bins = tuple(bins)
        if levels:
            self.register_buffer("commands", torch.from_numpy(grid(levels)).float(), persistent=False)
        self.normalizer = FrozenNormalizer(0 if image or bins else observation_size)
        sizes = [history * observation_size, *hidden]
        self.body: nn.Module
        if image is not None:
            self.body = nn.Sequential(image_layers(image, hidden, activation, nn.Sequential))
        elif recurrent:
            self.body = RecurrentLayers(observation_size, recurrent, hidden, activation, nn.Sequential)
        elif encoder:
            self.body = AdaptedLayers(observation_size, history, hidden, encoder, activation)
        elif bins:
            self.body = StateTable(observation_size, bins, choices)
        else:
            self.body = mlp(sizes, activation, nn.Sequential)
        self.head: Any = nn.Identity() if bins else nn.Linear(sizes[-1], choices or action_size)
        if atoms:
            network = QNetwork(sizes[0], hidden, choices, atoms.count, dueling, image=image)
            self.body, self.head = network.body, ExpectedReturn(network.head, atoms)

    def forward(self, obs: Tensor, hidden_state: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """The action, of a recurrent actor with the next hidden state; None at an episode's start."""
        x = self.normalizer(obs)
        if not self.recurrent:
            return self._action(self.body(x))
        latent, following = self.body(x, hidden_state)
        return self._action(latent), following

    def _action(self, latent: Tensor) -> Tensor:
        found: Tensor = self.head(latent)
        if self.levels:
            return self.commands[found.argmax(dim=-1)]
        if self.output == "choice":
            return chosen_action(found.argmax(dim=-1, keepdim=True), self.choices)
        if self.mean_clip:
            found = found.clamp(-self.mean_clip, self.mean_clip)
        return found.tanh() if self.output == "tanh" else found.clamp(-1.0, 1.0)

    def describe(self) -> dict[str, Any]:
        about: dict[str, Any] = {"kind": "mlp", "observation_size": self.observation_size}
        if self.image is not None:
            about = {"kind": "cnn", "image": list(self.image)}
        elif self.recurrent:
            about |= {"kind": "gru", "recurrent": self.recurrent}
        elif self.encoder:
            about |= {"kind": "adapted", "encoder": list(self.encoder)}
        elif self.bins:
            about |= {"kind": "table", "bins": list(self.bins)}
        if self.mean_clip:
            about["mean_clip"] = self.mean_clip
        if self.atoms:
            about["atoms"] = [self.atoms.count, self.atoms.low, self.atoms.high]
            about["dueling"] = self.dueling
        if self.levels:
            about["levels"] = list(self.levels)
        return {
            **about,
            "action_size": self.action_size,
            "hidden": list(self.hidden),
            "activation": self.activation,
            "output": self.output,
            "history": self.history,
            "choices": self.choices,
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> DeterministicActor:
        """Without "history", "choices" or "mean_clip", as it was once written, these are 1, 0 and 0; without "atoms",
        "dueling" and "levels" there are none. Raises ValueError when another key is missing, unknown or of the wrong
        kind."""
        once: dict[str, Any] = {"history": 1, "choices": 0, "mean_clip": 0.0}
        once |= {"atoms": None, "dueling": False, "levels": []}
        description = once | description
        kinds = {
            "mlp": ["observation_size"],
            "cnn": ["image"],
            "gru": ["observation_size", "recurrent"],
            "adapted": ["observation_size", "encoder"],
            "table": ["observation_size", "bins"],
        }
        if description.get("kind") not in list(kinds):
            raise ValueError(f"no actor of kind {description.get('kind')!r}; kinds: {', '.join(kinds)}")
        seen, *more = kinds[description["kind"]]  # what it says of what it sees, and what else
        keys = {"kind", seen, *more, "action_size", "hidden", "activation", "output", *once}
        if set(description) != keys:
            raise ValueError(f"actor description has keys {sorted(description)}, expected {sorted(keys)}")
        hidden, shape = description["hidden"], description[seen] if seen == "image" else [description[seen]]
        listed = [sizes if isinstance(sizes, list) else [None] for sizes in (hidden, shape)]
        m, history, choices = (description[name] for name in ("action_size", "history", "choices"))
        others = [size for name in (*more, "levels") for size in _listed(description[name])]
        sizes = [*listed[1], *others, m, history, *listed[0], choices or 1]
        if not all(type(size) is int and 0 < size <= 65536 for size in sizes):
            raise ValueError(f"actor sizes must be whole numbers from 1 to 65536, got {sizes}")
        if not isinstance(description["activation"], str):
            raise ValueError(f"actor activation must be a name, got {description['activation']}")
        if type(description["mean_clip"]) not in (int, float):
            raise ValueError(f"actor mean_clip must be a number, got {description['mean_clip']}")
        image = check_image(shape) if seen == "image" else None
        encoder, bins = (_listed(description.get(name, [])) for name in ("encoder", "bins"))
        if type(description["dueling"]) is not bool:
            raise ValueError(f"actor dueling must be true or false, got {description['dueling']}")
        return cls(
            math.prod(shape),
            m,
            hidden,
            description["activation"],
            description["output"],
            history,
            choices,
            image,
            description.get("recurrent", 0),
            description["mean_clip"],
            encoder,
            atoms=None if description["atoms"] is None else Atoms.of(description["atoms"]),
            dueling=description["dueling"],
            levels=_listed(description["levels"]),
            bins=bins,
        )


def _listed(sizes: Any) -> list[Any]:
    return sizes if isinstance(sizes, list) else [sizes]


def copy_mlp(body: nn.Sequential, head: nn.Module, output: str) -> DeterministicActor:
    """Linear layers and one kind of activation, then `head`, which may be clipped, as a DeterministicActor on the
    CPU."""
    mean_clip = 0.0
    if isinstance(head, nn.Sequential) and len(head) == 2 and isinstance(head[1], nn.Hardtanh):
        mean_clip, head = float(head[1].max_val), head[0]
    linears = [layer for layer in body if isinstance(layer, nn.Linear)]
    kinds = {type(layer) for layer in body if not isinstance(layer, nn.Linear)}
    names = [name for name, kind in ACTIVATIONS.items() if kinds == {kind}]
    if not names or not linears or not isinstance(head, nn.Linear) or len(body) != 2 * len(linears):
        raise ValueError(
            f"only linear layers with one of {', '.join(sorted(ACTIVATIONS))} can be copied, got {body} and {head}"
        )
    hidden = [layer.out_features for layer in linears]
    choices = head.out_features if output == "choice" else 0
    size = 1 if choices else head.out_features
    actor = DeterministicActor(
        linears[0].in_features, size, hidden, names[0], output, choices=choices, mean_clip=mean_clip
    )
    actor.body.load_state_dict({name: value.cpu() for name, value in body.state_dict().items()})
    actor.head.load_state_dict({name: value.cpu() for name, value in head.state_dict().items()})
    return actor.eval().requires_grad_(False)
