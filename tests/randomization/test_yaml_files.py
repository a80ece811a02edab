from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simtoreal.randomization.yaml_files import (
    ConfigFileError,
    dump_yaml,
    load_yaml,
    parse_yaml,
    read_yaml,
    write_yaml,
)


def refused(text, tmp_path):
    """The message with which a file of `text` is refused, without its path."""
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigFileError) as caught:
        load_yaml(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def test_scalars_are_those_of_the_core_schema(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "{a: 1e-3, b: no, c: yes, d: off, e: true, f: 0x10, g: 0o17, h: 012, i: 1_000, j: 2026-01-02, k: 1:30,"
        " l: null, m: ~, n: '1e-3', o: -.5, p: 1., q: +3, r: 'nan', s: on, t: y, u: False}"
    )
    expected = {"a": 0.001, "b": "no", "c": "yes", "d": "off", "e": True, "f": 16, "g": 15, "h": 12, "i": "1_000"}
    expected |= {"j": "2026-01-02", "k": "1:30", "l": None, "m": None, "n": "1e-3", "o": -0.5, "p": 1.0, "q": 3}
    expected |= {"r": "nan", "s": "on", "t": "y", "u": False}
    data = load_yaml(path)
    assert data == expected
    assert {key: type(value) for key, value in data.items()} == {key: type(value) for key, value in expected.items()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system [echo]", ':1: tag "!!python/object/apply:os.system" refused'),
        ("a: 1\nb: !!python/name:os.system x", ':2: tag "!!python/name:os.system" refused'),
        ("a: !thing {b: 1}", ':1: tag "!thing" refused'),
        ("a: !!float 1", ':1: tag "!!float" refused'),
        ("a: 1\nb: 2\na: 3", ':3: duplicate key "a", first on line 1'),
        ("x:\n  a: 1\n  'a': 2", ':3: duplicate key "a", first on line 2'),
        ("a: 1\nb: .nan", ':2: ".nan" is not a finite number'),
        ("a: nan", ':1: "nan" is not a finite number'),
        ("a: [1,\n -.inf]", ':2: "-.inf" is not a finite number'),
        ("a: Infinity", "is not a finite number"),
        ("a: 1e999", ':1: "1e999" is not a finite number'),
        ("a: 9999999999999999999999", ":1: whole number"),
        ("1: a", ":1: a key must be text, got 1"),
        ("? [a]\n: b", ":1: a key must be plain text"),
        ("a: &x {b: 1}\nc:\n  <<: *x", ":3: merge key << refused"),
        ("a: *x", ':1: alias "*x" has no anchor'),
        ("a: &x [*x]", ':1: alias "*x" stands inside the value it names'),
        ("a: 1\n---\nb: 2", ":2: a second document"),
        ("%YAML 1.1\n---\na: no", ":1: YAML 1.1 asked for"),
        ("%YAML 3.0\n---\na: no", ": not valid YAML"),
        ("a: [1, 2", ":1: not valid YAML"),
        ("a: 1\n\tb: 2", ":2: not valid YAML"),
        ("a: 1\nb: \x07", ":2: not valid YAML: the character U+0007 is not allowed"),
        (b"a: 1\nb: \xff", ":2: not UTF-8 text (byte 0xff)"),
        ("", ":1: the file is empty"),
        ("# nothing\n", ":1: the file is empty"),
    ],
)
def test_surprises_are_refused_with_their_line(text, message, tmp_path):
    assert message in refused(text, tmp_path)


def test_nothing_is_run(tmp_path):
    witness = tmp_path / "witness"
    refused(f"a: !!python/object/apply:pathlib.Path.touch ['{witness}']", tmp_path)
    assert not witness.exists()


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "more than 50,000 values, aliases counted in full"),
        ("[" * 500_000, "nested deeper than 32 levels"),
        ("{a: " * 100_000, "nested deeper than 32 levels"),
        ("- " * 400_000, "nested deeper than 32 levels"),
        ("- 1\n" * 200_000, "more than 50,000 values"),
        ("a: 1\n" * 300_000, "larger than 1,000,000 bytes"),
    ],
)
def test_bombs_are_refused_early(text, message, tmp_path):
    start = time.process_time()
    assert message in refused(text, tmp_path)
    assert time.process_time() - start < 10.0


def test_a_hundred_megabytes_are_not_read(tmp_path):
    path = tmp_path / "big.yaml"
    with open(path, "wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(ConfigFileError, match="larger than 1,000,000 bytes"):
        load_yaml(path)


def test_honest_aliases_are_read():
    file = parse_yaml("a: &x {b: [1, 2]}\nc: *x\n", "f.yaml")
    assert file.data == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}}
    assert file.line("c") == 2
    assert file.line("c", "b") == 1


def test_lines_are_those_of_the_keys(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("# a comment\na:\n  b:\n    - 1\n    - {c: 2,\n       d: 3}\n")
    file = read_yaml(path)
    places: list[tuple[str | int, ...]] = [(), ("a",), ("a", "b"), ("a", "b", 1), ("a", "b", 1, "d")]
    assert [file.line(*keys) for keys in places] == [2, 2, 3, 5, 6]
    assert file.line("a", "nowhere", "x") == 2
    assert str(file.error("is bad", "a", "b")) == f"{path}:3: is bad"


def test_mappings_check_their_keys():
    file = parse_yaml("train:\n  gama: 0.9\nsteps: 3\n", "f.yaml")
    with pytest.raises(ConfigFileError, match=r'^f.yaml:2: unknown key "gama" in train; did you mean gamma\?$'):
        file.mapping("train", allowed=["gamma", "tau"])
    with pytest.raises(ConfigFileError, match=r'^f.yaml:2: unknown key "gama" in train; choices: seed, tau$'):
        file.mapping("train", allowed=["tau", "seed"])
    with pytest.raises(ConfigFileError, match=r'^f.yaml:1: the file lacks the key "task"$'):
        file.mapping(required=["task"])
    with pytest.raises(ConfigFileError, match=r"^f.yaml:3: steps must be a mapping \(key: value\), got 3$"):
        file.mapping("steps")


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*nowhere.yaml"):
        load_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigFileError, match="Is a directory"):
        load_yaml(tmp_path)
    with pytest.raises(ConfigFileError, match="null byte"):
        load_yaml("a\0b")
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        load_yaml(tmp_path / "dangling.yaml")


def test_names_with_spaces_and_accents_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "mon réglage .yaml"
    path.write_bytes("\ufeffa: é\n".encode())
    assert load_yaml(path) == {"a": "é"}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**18), 10**18), st.floats(allow_nan=False, allow_infinity=False), texts,
    st.sampled_from(["no", "1e-3", ".nan", "Null", "0x1f", "- a", "a: b", "#", "<<", "*a", "&a", "%", "---", "a #b"]),
)  # fmt: skip
trees = st.recursive(
    scalars, lambda t: st.lists(t, max_size=4) | st.dictionaries(texts | st.just("<<"), t, max_size=4), max_leaves=12
)


@settings(max_examples=200, deadline=None)
@given(trees)
def test_what_is_written_is_read_back(tree):
    back = parse_yaml(dump_yaml(tree, "a header\n\nof lines"), "f.yaml").data
    assert back == tree
    assert repr(back) == repr(tree)  # 1, 1.0 and true are different


@pytest.mark.parametrize("data", [{"a": math.nan}, {"a": math.inf}, {"a": object()}, {1: 2}, {"a": "\ud800"}])
def test_what_cannot_be_read_is_not_written(data, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("old: 1\n")
    with pytest.raises(ValueError, match=r"cannot be written as YAML|a key must be text"):
        write_yaml(path, data)
    assert path.read_text() == "old: 1\n"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_replaces_in_one_step(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("old: 1\n")
    write_yaml(path, {"a": {"b": [1.5, "x"]}}, "what this is")
    assert path.read_text() == "# what this is\na: {b: [1.5, x]}\n"
    assert list(tmp_path.iterdir()) == [path]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab1:-[]{},&*!%|>'\"#? \n\t.~<\\\x00\x85", max_size=30))
def test_any_text_is_read_or_refused_in_one_line(text):
    message = "f.yaml: fine"
    try:
        parse_yaml(text, "f.yaml")
    except ConfigFileError as error:
        message = str(error)
    assert message.startswith("f.yaml:")
    assert "\n" not in message
