from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from simtoreal.export import CommandMap, Field, Spec, SpecError, check_files, read_spec
from simtoreal.export.onboard.layout import slices
from simtoreal.export.onboard.spec import FORMAT_VERSION, spec_from_dict


def write(folder: Path, text: str) -> Path:
    (folder / "spec.json").write_text(text)
    return folder


def test_a_contract_reads_back_as_it_was_written(spec, tmp_path):
    assert read_spec(write(tmp_path, json.dumps(spec.to_dict()))) == spec


def test_sizes_and_places_of_the_fields(spec):
    assert (spec.observation_size, spec.command_size) == (5, 2)
    assert slices(spec.observation) == {"q": slice(0, 2), "qd": slice(2, 4), "height": slice(4, 5)}


def test_the_contract_hash_ignores_files_and_key_order_only(spec):
    shuffled = dict(reversed(list(spec.to_dict().items())))
    same = [spec_from_dict(shuffled), replace(spec, files={"policy.onnx": "0" * 64})]
    assert {other.contract_sha256() for other in same} == {spec.contract_sha256()}
    assert replace(spec, control_dt=0.01).contract_sha256() != spec.contract_sha256()
    swapped = replace(spec, observation=(spec.observation[1], spec.observation[0], spec.observation[2]))
    assert swapped.contract_sha256() != spec.contract_sha256()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(colour="red"), 'unknown key "colour"'),
        (
            lambda d: d["observation"][0].update(units="rad"),
            r'observation\[0\] has an unknown key "units"; known: unit',
        ),
        (lambda d: d.pop("joints"), 'lacks "joints"'),
        (lambda d: d["command_map"].pop("high"), 'command_map lacks "high"'),
        (
            lambda d: d.update(format_version=FORMAT_VERSION + 1, novelty=1),
            "format version 6; this runtime reads up to 5",
        ),
        (lambda d: d.update(format_version=True), "format_version must be a whole number"),
        (lambda d: d.update(control_dt=0), "control_dt must be above 0"),
        (lambda d: d.update(control_dt="0.02"), "control_dt must be a finite number, got '0.02'"),
        (lambda d: d.update(control_dt=10**400), "control_dt must be a finite number"),
        (lambda d: d.update(tolerance=-1e-4), "tolerance must be above 0"),
        (lambda d: d.update(quaternion_order="xyz"), "quaternion_order"),
        (lambda d: d.update(observation=[]), "observation has no fields"),
        (lambda d: d.update(task=""), "task must be a non-empty string"),
        (lambda d: d["observation"][0].update(size=3), 'field "q" has size 3 but 2 labels'),
        (lambda d: d["observation"][2].update(size=0), 'field "height": size'),
        (lambda d: d["observation"][2].update(size=1.0), 'field "height": size'),
        (lambda d: d["observation"][2].update(name="q"), "a field's name occurs twice"),
        (lambda d: d["command"][0].update(size=3, labels=[]), "command has 3 values but command_map 2"),
        (lambda d: d["command_map"].update(scale=[1.0]), "command_map.scale has 1 values, offset has 2"),
        (lambda d: d["command_map"].update(low=[1.0, -1.5]), r"low\[0\] = 1.0 must be below high\[0\] = 1.0"),
        (
            lambda d: d["command_map"].update(relative_to=["height", "q"]),
            '"q" has size 2, the command 2, of which 1 are',
        ),
        (lambda d: d["command_map"].update(relative_to=["p"]), 'no observation field "p"; fields: q, qd, height'),
        (
            lambda d: d["command_map"].update(relative_to=["height"]),
            'after field "height" 1 of the 2 numbers of the command count',
        ),
        (lambda d: d["gains"].update(kp=[60.0]), "gains.kp has 1 values for 2 joints"),
        (lambda d: d.update(joints=["hip", "hip"]), "joints: a name occurs twice"),
        (lambda d: d["training_ranges"].update({"ground.friction": [1.25, 0.5]}), "training_ranges.ground.friction"),
        (lambda d: d["training_ranges"].update({"ground.grip": [0.0, 1.0]}), '"ground.grip" is not among the 1'),
        (lambda d: d["parameters"]["ground.friction"].update(nominal=4.0), r"nominal 4.0 is outside \[0.0, 3.0\]"),
        (lambda d: d["parameters"]["ground.friction"].pop("unit"), 'parameters.ground.friction lacks "unit"'),
        (lambda d: d["files"].update({"../policy.onnx": "0" * 64}), "must be a path below the bundle"),
        (lambda d: d["files"].update({"/etc/passwd": "0" * 64}), "must be a path below the bundle"),
        (lambda d: d["files"].update({"a\\..\\b": "0" * 64}), "must be a path below the bundle"),
        (lambda d: d["files"].update({"policy.onnx": "0" * 63}), "has no sha256"),
        (lambda d: d.update(gains=[1, 2]), "gains must be a mapping"),
        (lambda d: d.update(command_map=None), "command_map must be a mapping"),
    ],
)
def test_a_contract_that_makes_no_sense_is_refused_with_its_place(spec, tmp_path, change, message):
    data = json.loads(json.dumps(spec.to_dict()))
    change(data)
    with pytest.raises(SpecError, match=message) as caught:
        read_spec(write(tmp_path, json.dumps(data)))
    assert str(tmp_path / "spec.json") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"control_dt": NaN}', "NaN is not a finite number"),
        ('{"control_dt": -Infinity}', "-Infinity is not a finite number"),
        ('{"task": "a", "task": "b"}', 'key "task" occurs twice'),
        ("[" * 100_000, "not readable JSON"),
        ("", "not readable JSON"),
        ('{"task": ', "not readable JSON"),
        ("[]", "must be a mapping"),
        ('{"provenance": ' + "1" * 5000 + "}", "not readable JSON"),
        (" " * 4_000_001, "at most 4000000 are read"),
    ],
)
def test_a_file_that_is_no_contract_is_refused(tmp_path, text, message):
    with pytest.raises(SpecError, match=message):
        read_spec(write(tmp_path, text))


def test_a_number_beyond_float_is_refused(spec, tmp_path):
    text = json.dumps(spec.to_dict()).replace('"control_dt": 0.02', '"control_dt": 1e999')
    with pytest.raises(SpecError, match="control_dt must be a finite number, got inf"):
        read_spec(write(tmp_path, text))


def test_a_contract_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "spec.json").write_bytes(b'{"task": "\xff\xfe\xfa"}')
    with pytest.raises(SpecError, match="not readable JSON"):
        read_spec(tmp_path)


def test_a_folder_without_a_contract_is_no_bundle(tmp_path):
    with pytest.raises(FileNotFoundError, match="is this a bundle"):
        read_spec(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="is this a bundle"):
        read_spec(tmp_path / "file")


def test_a_contract_behind_a_link_is_refused(bundle):
    (bundle / "spec.json").rename(bundle.parent / "elsewhere.json")
    (bundle / "spec.json").symlink_to(bundle.parent / "elsewhere.json")
    with pytest.raises(SpecError, match=r"spec.json is a symbolic link"):
        read_spec(bundle)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_provenance_is_plain_and_finite(spec, value):
    with pytest.raises(SpecError, match="provenance"):
        replace(spec, provenance={"key": [value]})


def test_the_smallest_contract_has_no_joints_and_no_parameters():
    one = CommandMap((0.0,), (1.0,), (-1.0,), (1.0,))
    smallest = Spec("t", "sac", 0.05, (Field("x", 1, "m"),), (Field("u", 1, "N"),), one)
    assert spec_from_dict(json.loads(json.dumps(smallest.to_dict()))) == smallest


def test_files_of_a_whole_bundle_pass(pristine):
    check_files(pristine, read_spec(pristine))


@pytest.mark.parametrize("name", ["policy.onnx", "golden.npz", "onboard/runtime.py"])
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()
    with pytest.raises(SpecError, match=f"{name} is missing"):
        check_files(bundle, read_spec(bundle))


@pytest.mark.parametrize("name", ["policy.onnx", "golden.npz", "onboard/runtime.py"])
def test_one_flipped_bit_is_found(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(SpecError, match=f"{name} has changed: sha256"):
        check_files(bundle, read_spec(bundle))


@pytest.mark.parametrize("name", ["policy.onnx.data", "onboard/numpy.py", "notes.txt"])
def test_a_file_that_is_not_listed_is_refused(bundle, name):
    (bundle / name).write_bytes(b"x")
    with pytest.raises(SpecError, match=f"{name} is not listed"):
        check_files(bundle, read_spec(bundle))


@pytest.mark.parametrize("name", ["policy.onnx", "onboard", "onboard/spec.py"])
def test_a_link_in_a_bundle_is_refused_even_to_the_same_bytes(bundle, name):
    (bundle / name).rename(bundle.parent / "moved")
    (bundle / name).symlink_to(bundle.parent / "moved")
    with pytest.raises(SpecError, match=f"{name} is a symbolic link"):
        check_files(bundle, read_spec(bundle))


def test_a_contract_that_lists_no_golden_vectors_is_refused(bundle):
    spec = read_spec(bundle)
    (bundle / "golden.npz").unlink()
    files = {name: digest for name, digest in spec.files.items() if name != "golden.npz"}
    with pytest.raises(SpecError, match=r"does not list golden.npz"):
        check_files(bundle, replace(spec, files=files))
