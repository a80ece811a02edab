"""YAML files from outside, read without surprises and with every line number kept.

The subset of YAML 1.2 (core schema) that a configuration needs: `1e-3` is a number, `no` a string. Whatever could
surprise, run code or exhaust memory is refused in one line that names the file and the line: tags of any kind,
duplicate keys, keys that are no text, merge keys, several documents, NaN and infinity, bombs of aliases, deep nesting.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from simtoreal.randomization.messages import nearest, shown

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_NODES = 50_000  # with every alias counted at its expanded size

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.?(nan|inf|infinity)", re.IGNORECASE)
_CONSTANTS = {"": None, "~": None} | {
    spelling: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for spelling in (word, word.capitalize(), word.upper())
}
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./*+-]*")


class ConfigFileError(ValueError):
    """A file from outside that cannot be used; the message is one line: `file:line: what is wrong`."""


@dataclass
class _Node:
    """A value, the line it stands on, and its children by key or index."""

    line: int
    value: Any = None
    size: int = 1
    children: dict[str | int, tuple[int, _Node]] = field(default_factory=dict)


@dataclass(frozen=True)
class YamlFile:
    """The content of one file as plain dicts, lists and scalars, and the line of each entry."""

    path: Path
    data: Any
    _root: _Node = field(repr=False, compare=False)

    def line(self, *keys: str | int) -> int:
        """The line (from 1) of the entry at `keys`; of its nearest existing parent when there is none."""
        line, node = self._root.line, self._root
        for key in keys:
            if key not in node.children:
                break
            line, node = node.children[key]
        return line

    def error(self, message: str, *keys: str | int) -> ConfigFileError:
        """The error to raise about the entry at `keys`: `file:line: message`."""
        return ConfigFileError(f"{self.path}:{self.line(*keys)}: {message}")

    def mapping(
        self, *keys: str | int, allowed: Iterable[str] | None = None, required: Iterable[str] = ()
    ) -> dict[str, Any]:
        """The mapping at `keys`, refused when it is none, has a key outside `allowed` or lacks one of `required`."""
        value = self.data
        for key in keys:
            value = value[key]
        place = ".".join(str(key) for key in keys) or "the file"
        if not isinstance(value, dict):
            raise self.error(f"{place} must be a mapping (key: value), got {shown(value)}", *keys)
        choices = None if allowed is None else list(allowed)
        for key in value:
            if choices is not None and key not in choices:
                raise self.error(f"unknown key {shown(key)} in {place}; {nearest(key, choices)}", *keys, key)
        for key in required:
            if key not in value:
                raise self.error(f"{place} lacks the key {shown(key)}", *keys)
        return value


def read_yaml(path: str | os.PathLike[str]) -> YamlFile:
    """Read one YAML file with its line numbers.

    Raises FileNotFoundError when there is no such file, ConfigFileError for everything else.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise FileNotFoundError(f"no such file: {path}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigFileError(f"cannot read {str(path)!r}: {reason}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigFileError(f"{path}: larger than {MAX_BYTES:,} bytes, no configuration is that long")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigFileError(f"{path}:{line}: not UTF-8 text (byte 0x{raw[error.start]:02x})") from None
    return parse_yaml(text, path)


def load_yaml(path: str | os.PathLike[str]) -> Any:
    """The content of one YAML file as plain dicts, lists and scalars. Raises as `read_yaml` does."""
    return read_yaml(path).data


def parse_yaml(text: str, path: str | os.PathLike[str]) -> YamlFile:
    """`text` as the content of `path`, which is only named in messages."""
    root = _Composer(text, Path(path)).document()
    return YamlFile(Path(path), root.value, root)


class _Composer:
    """Builds nodes from the parser's events, checking each on arrival, so that a bomb is refused before it grows."""

    def __init__(self, text: str, path: Path) -> None:
        self.path = path
        self.text = text
        self.events: Iterator[Any] = iter(YAML(typ="safe", pure=True).parse(text))
        self.anchors: dict[str, _Node | None] = {}  # None while the node is still open
        self.nodes = 0

    def fail(self, line: int, message: str) -> NoReturn:
        raise ConfigFileError(f"{self.path}:{line}: {message}")

    def next(self) -> Any:
        try:
            return next(self.events)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            reason = " ".join(str(error.problem or error.context).split())
            raise ConfigFileError(f"{self.path}:{mark.line + 1 if mark else 1}: not valid YAML: {reason}") from None
        except ReaderError as error:
            line = self.text.count("\n", 0, self.text.find(chr(error.character))) + 1
            self.fail(line, f"not valid YAML: the character U+{error.character:04X} is not allowed")
        except (YAMLError, AssertionError) as error:  # an unknown %YAML version is an assertion of the parser
            raise ConfigFileError(f"{self.path}: not valid YAML: {' '.join(str(error).split())}") from None

    def document(self) -> _Node:
        self.next()
        start = self.next()
        if not isinstance(start, DocumentStartEvent):
            self.fail(1, "the file is empty")
        if start.version is not None and tuple(start.version) != (1, 2):
            asked = ".".join(str(number) for number in start.version)
            before = self.text[: self.text.index("%YAML")]
            self.fail(before.count("\n") + 1, f"YAML {asked} asked for; only 1.2 is read")
        root = self.node(self.next(), depth=0)
        self.next()
        end = self.next()
        if isinstance(end, DocumentStartEvent):
            self.fail(end.start_mark.line + 1, "a second document in one file")
        return root

    def node(self, event: Any, depth: int) -> _Node:
        line = event.start_mark.line + 1
        if isinstance(event, AliasEvent):
            return self.alias(event, line)
        assert isinstance(event, ScalarEvent | MappingStartEvent | SequenceStartEvent)
        if event.tag is not None:
            tag = str(event.tag).replace("tag:yaml.org,2002:", "!!")
            self.fail(line, f"tag {shown(tag)} refused: only plain values are read")
        if depth > MAX_DEPTH:
            self.fail(line, f"nested deeper than {MAX_DEPTH} levels")
        self.count(1, line)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if isinstance(event, ScalarEvent):
            node = _Node(line, self.scalar(event, line))
        elif isinstance(event, MappingStartEvent):
            node = self.mapping(line, depth)
        else:
            node = self.sequence(line, depth)
        node.size += sum(child.size for _, child in node.children.values())
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def alias(self, event: AliasEvent, line: int) -> _Node:
        name = f"*{event.anchor}"
        if event.anchor not in self.anchors:
            self.fail(line, f"alias {shown(name)} has no anchor before it")
        node = self.anchors[event.anchor]
        if node is None:
            self.fail(line, f"alias {shown(name)} stands inside the value it names")
        self.count(node.size, line)
        return node

    def count(self, size: int, line: int) -> None:
        self.nodes += size
        if self.nodes > MAX_NODES:
            self.fail(line, f"more than {MAX_NODES:,} values, aliases counted in full")

    def mapping(self, line: int, depth: int) -> _Node:
        node = _Node(line, {})
        while True:
            event = self.next()
            if not isinstance(event, NodeEvent):
                return node
            key_line = event.start_mark.line + 1
            if not isinstance(event, ScalarEvent):
                self.fail(key_line, "a key must be plain text")
            key = self.node(event, depth + 1).value
            if not isinstance(key, str):
                self.fail(key_line, f"a key must be text, got {shown(key)}; quote it if it is meant as text")
            if key == "<<" and event.style is None:
                self.fail(key_line, "merge key << refused: it is not part of YAML 1.2")
            if key in node.children:
                self.fail(key_line, f"duplicate key {shown(key)}, first on line {node.children[key][0]}")
            child = self.node(self.next(), depth + 1)
            node.children[key] = (key_line, child)
            node.value[key] = child.value

    def sequence(self, line: int, depth: int) -> _Node:
        node = _Node(line, [])
        while True:
            event = self.next()
            if isinstance(event, SequenceEndEvent):
                return node
            child = self.node(event, depth + 1)
            node.children[len(node.value)] = (child.line, child)
            node.value.append(child.value)

    def scalar(self, event: ScalarEvent, line: int) -> Any:
        text = event.value
        if event.style is not None:
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _INT.fullmatch(text):
            if len(text) > 20:
                self.fail(line, f"whole number {shown(text)} is too large")
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        if _FLOAT.fullmatch(text):
            value = float(text)
            if math.isfinite(value):
                return value
        elif not _NOT_FINITE.fullmatch(text):
            return text
        self.fail(line, f"{shown(text)} is not a finite number")


def dump_yaml(data: Any, header: str = "") -> str:
    """`data` (dicts with text keys, lists, scalars) as YAML that `load_yaml` reads back as the same values.

    `header` becomes comment lines. Raises ValueError for what the format cannot hold (NaN, other types).
    """
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    return "\n".join([*lines, *_block(data, 0)]) + "\n"


def write_yaml(path: str | os.PathLike[str], data: Any, header: str = "") -> None:
    """Write `dump_yaml(data, header)` in one step: the file is either the old one or the complete new one."""
    path = Path(path)
    text = dump_yaml(data, header)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _block(value: Any, indent: int) -> list[str]:
    pad = " " * indent
    if not isinstance(value, Mapping) or not value:
        return [pad + _flow(value)]
    lines = []
    for key, child in value.items():
        flow = _flow(child)
        top_level = indent == 0 and isinstance(child, Mapping) and any(isinstance(c, Mapping) for c in child.values())
        if isinstance(child, Mapping) and child and (top_level or indent + len(key) + len(flow) > 110):
            lines += [f"{pad}{_text(key)}:", *_block(child, indent + 2)]
        else:
            lines.append(f"{pad}{_text(key)}: {flow}")
    return lines


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(key)}: {_flow(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(child) for child in value) + "]"
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    raise ValueError(f"{shown(value)} cannot be written as YAML")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a key must be text, got {shown(value)}")
    if _PLAIN.fullmatch(value) and value not in _CONSTANTS and not _NOT_FINITE.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() and ord(c) < 0xD800 else _escape(c) for c in escaped) + '"'


def _escape(character: str) -> str:
    code = ord(character)
    if 0xD800 <= code < 0xE000:
        raise ValueError(f"text with the lone surrogate U+{code:04X} cannot be written as YAML")
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
