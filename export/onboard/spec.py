"""The contract of a bundle: what the policy reads and writes, in which units, at which rate; and its files' hashes."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .checks import SpecError, items, mapping, number, numbers_of, text, with_keys
from .layout import CommandMap, Field, Image, checked_layout, summands

FORMAT_VERSION = 5  # the newest, of choices, with every key; 4 is of recurrent policies, 3 of images, 2 of a history
PARAMETER_KEYS = ("unit", "nominal", "low", "high")


@dataclass(frozen=True)
class Spec:
    """The whole contract. Building one checks it; SpecError names the first thing that is wrong.

    `gains` and `limits` hold one value a joint, in the order of `joints`, SI (kp [N m/rad], kd [N m s/rad],
    position_low, position_high [rad or m], velocity [rad/s or m/s], effort [N m or N]). `tolerance` is the largest
    |onnx - torch| of a command, as a share of high - low. `history` is how many of the last observations the policy
    sees, the newest among them. With an `image` the observation is one field, whose numbers are that image's, and there
    is no history. `recurrent` is the width of the hidden state, in [-1, 1] and 0 at an episode's start, that a
    recurrent policy carries from step to step; 0 is for all others, and those alone have a history or an image.
    `choices` are of a policy that gives one of so many commands: row k [m] is the command of choice k, or where these
    count from the observation (`command_map.relative_to`) what it adds to that before the sum is clipped.
    `format_version` follows: 5 with choices, 4 of a recurrent policy, 3 with an image, 2 with a history, else 1.
    `training_ranges` are name -> (low, high) in the unit of `parameters`. `files` maps each file of the bundle, `/`
    between folders, to its sha256.
    """

    task: str
    algorithm: str
    control_dt: float  # [s]
    observation: tuple[Field, ...]
    command: tuple[Field, ...]
    command_map: CommandMap
    reward_signals: tuple[Field, ...] = ()
    joints: tuple[str, ...] = ()
    gains: dict[str, tuple[float, ...]] = field(default_factory=dict)
    limits: dict[str, tuple[float, ...]] = field(default_factory=dict)
    quaternion_order: str = "xyzw"
    training_ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    tolerance: float = 1e-4
    provenance: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    format_version: int = field(init=False)
    history: int = 1
    image: Image | None = None
    recurrent: int = 0
    choices: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        for key, least in (("history", 1), ("recurrent", 0)):
            if type(value := getattr(self, key)) is not int or value < least:
                raise SpecError(f"{key} must be a whole number from {least}, got {value!r}")
        if self.recurrent and (self.history > 1 or self.image is not None):
            raise SpecError("a recurrent policy has neither history nor image")
        form = 4 if self.recurrent else 3 if self.image is not None else 2 if self.history > 1 else 1
        form = 5 if self.choices else form
        object.__setattr__(self, "format_version", form)
        for key in ("task", "algorithm"):
            text(getattr(self, key), key, empty=False)
        for key in ("control_dt", "tolerance"):
            value = number(getattr(self, key), key)
            if value <= 0:
                raise SpecError(f"{key} must be above 0, got {value}")
            object.__setattr__(self, key, value)
        if self.quaternion_order not in ("xyzw", "wxyz"):
            raise SpecError(f'quaternion_order must be "xyzw" or "wxyz", got {self.quaternion_order!r}')
        for key in ("observation", "command", "reward_signals"):
            object.__setattr__(self, key, checked_layout(getattr(self, key), key, empty=key == "reward_signals"))
        self._check_image()
        self._check_command_map()
        self._check_choices()
        self._check_joints()
        self._check_parameters()
        try:
            plain = json.loads(json.dumps(mapping(self.provenance, "provenance"), allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise SpecError(f"provenance must be plain JSON with finite numbers: {error}") from None
        object.__setattr__(self, "provenance", plain)
        files = mapping(self.files, "files")
        for name, digest in files.items():
            _check_name(name)
            if not isinstance(digest, str) or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise SpecError(f'files: "{name}" has no sha256 but {digest!r}')
        object.__setattr__(self, "files", files)

    def _check_image(self) -> None:
        if self.image is None:
            return
        if not isinstance(self.image, Image):
            raise SpecError(f"image must be an Image, got {self.image!r}")
        sizes = [entry.size for entry in self.observation]
        if sizes != [math.prod(self.image.shape)] or self.history > 1:
            shape = list(self.image.shape)
            raise SpecError(f"an image {shape} must be all of the observation, got fields of {sizes}")
        if self.command_map.relative_to:
            raise SpecError("command_map.relative_to: no command is relative to an image")

    def _check_command_map(self) -> None:
        if not isinstance(self.command_map, CommandMap):
            raise SpecError(f"command_map must be a CommandMap, got {self.command_map!r}")
        if len(self.command_map.offset) != self.command_size:
            raise SpecError(f"command has {self.command_size} values but command_map {len(self.command_map.offset)}")
        self.summands()  # raises

    def _check_choices(self) -> None:
        rows = tuple(numbers_of(row, f"choices[{index}]") for index, row in enumerate(items(self.choices, "choices")))
        if len(rows) == 1:
            raise SpecError("choices must be two commands or more, or none at all, got 1")
        for index, row in enumerate(rows):
            if len(row) != self.command_size:
                raise SpecError(f"choices[{index}] has {len(row)} values, the command {self.command_size}")
            for column, value in enumerate(row):
                low, high = self.command_map.low[column], self.command_map.high[column]
                if not self.command_map.relative_to and not low <= value <= high:
                    raise SpecError(f"choices[{index}][{column}] must be within [{low}, {high}], got {value}")
        object.__setattr__(self, "choices", rows)

    def _check_joints(self) -> None:
        joints = tuple(text(joint, "a joint's name", empty=False) for joint in items(self.joints, "joints"))
        if len(set(joints)) != len(joints):
            raise SpecError(f"joints: a name occurs twice in {', '.join(joints)}")
        object.__setattr__(self, "joints", joints)
        for key in ("gains", "limits"):
            table = {name: numbers_of(row, f"{key}.{name}") for name, row in mapping(getattr(self, key), key).items()}
            for name, row in table.items():
                if len(row) != len(joints):
                    raise SpecError(f"{key}.{name} has {len(row)} values for {len(joints)} joints")
            object.__setattr__(self, key, table)

    def _check_parameters(self) -> None:
        parameters = {}
        for name, entry in mapping(self.parameters, "parameters").items():
            row = with_keys(entry, f"parameters.{name}", PARAMETER_KEYS)
            row = {key: row[key] if key == "unit" else number(row[key], f"parameters.{name}.{key}") for key in row}
            text(row["unit"], f"parameters.{name}.unit")
            if not row["low"] <= row["nominal"] <= row["high"]:
                raise SpecError(f"parameters.{name}: nominal {row['nominal']} is outside [{row['low']}, {row['high']}]")
            parameters[name] = row
        ranges = {}
        for name, entry in mapping(self.training_ranges, "training_ranges").items():
            bounds = numbers_of(entry, f"training_ranges.{name}")
            if len(bounds) != 2 or bounds[0] > bounds[1]:
                raise SpecError(f"training_ranges.{name} must be [low, high], got {list(bounds)}")
            if name not in parameters:
                raise SpecError(f'training_ranges: "{name}" is not among the {len(parameters)} parameters')
            ranges[name] = bounds
        object.__setattr__(self, "parameters", parameters)
        object.__setattr__(self, "training_ranges", ranges)

    @property
    def observation_size(self) -> int:
        """Width n of an observation."""
        return sum(entry.size for entry in self.observation)

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of an observation as the policy takes it: that of the image, or [n]."""
        return (self.observation_size,) if self.image is None else self.image.shape

    @property
    def observation_dtype(self) -> str:
        """Type of its numbers: "uint8" or "float32"."""
        return "float32" if self.image is None else self.image.dtype

    @property
    def memory(self) -> tuple[str, int]:
        """What the policy's graph takes and gives back besides, [B, width]: its name, and its width, 0 where there is
        none. "history": the observations before, oldest first; "hidden_state" of a recurrent policy."""
        if self.recurrent:
            return "hidden_state", self.recurrent
        return "history", (self.history - 1) * self.observation_size

    @property
    def command_size(self) -> int:
        """Width m of a command."""
        return sum(entry.size for entry in self.command)

    def summands(self) -> list[list[slice]]:
        """What is added to a command by the observation (`layout.summands`)."""
        return summands(self.command_map.relative_to, self.observation, self.command_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as it stands in spec.json."""
        data = asdict(self)
        if self.choices:
            return data
        del data["choices"]
        if self.history == 1:
            del data["history"]
        if self.image is None:
            del data["image"]
        if not self.recurrent:
            del data["recurrent"]
        return data

    def contract_sha256(self) -> str:
        """sha256 of the canonical JSON of everything but `files`; policy.onnx carries it in its metadata."""
        data = self.to_dict()
        del data["files"]
        canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _check_version(version: Any) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise SpecError(f"format_version must be a whole number from 1, got {version!r}")
    if version > FORMAT_VERSION:
        raise SpecError(f"the contract has format version {version}; this runtime reads up to {FORMAT_VERSION}")


def _check_name(name: str) -> None:
    if "\\" in name or "\0" in name or ":" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise SpecError(f"files: {name!r} must be a path below the bundle, with no empty, . or .. part")


def spec_from_dict(value: Any) -> Spec:
    """A Spec from the plain data of spec.json; SpecError on unknown or missing keys and on whatever `Spec` refuses."""
    version = value.get("format_version", 1) if isinstance(value, dict) else 1
    _check_version(version)  # first: a newer format's keys mean nothing to this reader
    since = {"history": 2, "image": 3, "recurrent": 4, "choices": 5}
    known = [entry.name for entry in fields(Spec) if since.get(entry.name, version) == version or version == 5]
    data = with_keys(value, "the contract", known)
    del data["format_version"]
    for key in ("observation", "command", "reward_signals"):
        entries = items(data[key], key)
        keys = [entry.name for entry in fields(Field)]
        data[key] = tuple(Field(**with_keys(entry, f"{key}[{i}]", keys)) for i, entry in enumerate(entries))
    map_keys = [entry.name for entry in fields(CommandMap)]
    data["command_map"] = CommandMap(**with_keys(data["command_map"], "command_map", map_keys))
    if "image" in data and not (version == 5 and data["image"] is None):
        data["image"] = Image(**with_keys(data["image"], "image", [entry.name for entry in fields(Image)]))
    spec = Spec(**data)
    if spec.format_version != version:
        raise SpecError(f"the contract has format version {version}, what it says is of format {spec.format_version}")
    return spec
