"""The plain actor that leaves training, whoever trained it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from simtoreal.policies.convolutions import image_layers
from simtoreal.policies.distributions import chosen_action
from simtoreal.policies.images import Shape, check_image
from simtoreal.policies.levels import grid
from simtoreal.policies.networks import ACTIVATIONS, AdaptedLayers, mlp
from simtoreal.policies.normalizer import FrozenNormalizer
from simtoreal.policies.q_networks import Atoms, ExpectedReturn, QNetwork
from simtoreal.policies.recurrent import MAX_RECURRENT, RecurrentLayers
from simtoreal.policies.tables import StateTable

OUTPUTS = ("tanh", "clip", "choice")


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
        layers = hidden[:-1] if atoms else hidden  # the last is that head's own
        sizes = [history * observation_size, *layers]
        self.body: nn.Module
        if image is not None:
            self.body = nn.Sequential(image_layers(image, layers, activation, nn.Sequential))
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
            self.head = ExpectedReturn(network.head, atoms)

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
