import errno
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from simtoreal.policies import checkpoint
from simtoreal.policies.agent import prefixed
from simtoreal.policies.checkpoint import (
    CheckpointError,
    build_actor,
    check_compatible,
    checkpoints,
    load_checkpoint,
    load_latest,
    remove_checkpoint,
    save_checkpoint,
    sweep,
)
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.tensor_files import digest

TENSORS = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(7), "rng": torch.arange(5, dtype=torch.uint8)}


def reseal(folder, **changes) -> None:
    """Make checkpoint.json agree with the tensors file again, as one who forges both would."""
    path = folder / "checkpoint.json"
    document = json.loads(path.read_text())
    document = document | {"sha256": digest((folder / "agent.safetensors").read_bytes())} | changes
    body = {key: document[key] for key in ("sha256", "shapes", "meta")}
    path.write_text(json.dumps(document | {"seal": checkpoint._seal(body)}))


@pytest.fixture
def saved(tmp_path):
    return save_checkpoint(tmp_path / "10", TENSORS, {"task": "Toy"})


def test_what_was_saved_comes_back(saved):
    tensors, meta = load_checkpoint(saved)
    assert meta == {"task": "Toy"}
    assert tensors.keys() == TENSORS.keys()
    assert all(
        torch.equal(tensors[name], value) and tensors[name].dtype == value.dtype for name, value in TENSORS.items()
    )
    assert sorted(os.listdir(saved.parent)) == ["10"]


def test_every_truncation_and_every_flipped_bit_is_refused_by_name(saved):
    path = saved / "agent.safetensors"
    data = path.read_bytes()
    damaged = [data[:n] for n in range(len(data))]
    damaged += [bytes([*data[:i], data[i] ^ (1 << i % 8), *data[i + 1 :]]) for i in range(len(data))]
    for each in damaged:
        path.write_bytes(each)
        with pytest.raises(CheckpointError, match=r"agent\.safetensors"):
            load_checkpoint(saved)


def test_every_flipped_bit_of_the_description_is_refused_or_changes_nothing(saved):
    path = saved / "checkpoint.json"
    data = path.read_bytes()
    refused = 0
    for i in range(len(data)):
        path.write_bytes(bytes([*data[:i], data[i] ^ (1 << i % 8), *data[i + 1 :]]))
        try:
            tensors, meta = load_checkpoint(saved)
        except CheckpointError:
            refused += 1
        else:
            assert meta == {"task": "Toy"}
            assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())
    assert refused > 0.7 * len(data)  # the rest is white space


def test_a_checkpoint_of_the_format_before_is_read(saved):
    path = saved / "checkpoint.json"
    document = json.loads(path.read_text())
    seal = document.pop("seal")
    path.write_text(json.dumps(document | {"format": 1}))
    assert load_checkpoint(saved)[1] == {"task": "Toy"}
    path.write_text(json.dumps(document | {"format": 1, "seal": seal}))
    with pytest.raises(CheckpointError, match="expected"):
        load_checkpoint(saved)


def test_a_meta_that_could_not_be_read_again_is_not_written(tmp_path):
    with pytest.raises(CheckpointError, match="can be read again"):
        save_checkpoint(tmp_path / "10", TENSORS, {"story": "x" * (5 << 20)})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("length", [2**62, 2**63 + 5, 10**9, 0])
def test_a_header_bomb_costs_no_memory(saved, length):
    (saved / "agent.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}" + bytes(100))
    reseal(saved)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"agent\.safetensors"):
        load_checkpoint(saved)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize("junk", [b"", b"junk", b"\x10" + bytes(7) + b'{"w":{"dtype":"F32"', bytes(64)])
def test_forged_junk_is_a_typed_error(saved, junk):
    (saved / "agent.safetensors").write_bytes(junk)
    reseal(saved)
    with pytest.raises(CheckpointError, match=r"agent\.safetensors"):
        load_checkpoint(saved)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_is_never_read(saved, zipped, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = saved / "agent.safetensors"
    if zipped:
        torch.save({"w": Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb()))
    reseal(saved)
    with pytest.raises(CheckpointError, match=r"agent\.safetensors: a pickle or zip"):
        load_checkpoint(saved)
    assert not (tmp_path / "exploded").exists()


def test_a_header_whose_size_begins_as_a_pickle_does_is_no_pickle(tmp_path):
    """640 bytes, say: 0x80 0x02 is what a pickle of protocol 2 begins with."""
    sizes = []
    for length in range(520, 640, 4):
        tensors = {"w" * length: torch.ones(2)}
        folder = save_checkpoint(tmp_path / str(length), tensors, {})
        sizes.append(int.from_bytes((folder / "agent.safetensors").read_bytes()[:8], "little"))
        assert load_checkpoint(folder)[0].keys() == tensors.keys()
    assert 0x280 in sizes, sizes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "not JSON"),
        ('{"format": 1, "sha256": "a", "shapes": {}, "meta": {"x": NaN}}', "NaN"),
        ('{"format": 1}', "expected"),
        ("7", "not a checkpoint"),
        ('{"format": 3}', "format 3, this version reads 1 and 2"),
        (" " * (5 << 20), "at most"),
    ],
)
def test_a_bad_description_is_refused(saved, text, message):
    (saved / "checkpoint.json").write_text(text)
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(saved)
    assert "checkpoint.json" in str(error.value)


def test_shapes_must_be_those_recorded(saved):
    reseal(saved, shapes={"w": [3, 3], "n": [], "rng": [5]})
    with pytest.raises(CheckpointError, match=r"w has shape \[2, 3\], checkpoint.json says \[3, 3\]"):
        load_checkpoint(saved)


def test_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_latest(tmp_path)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    with pytest.raises(CheckpointError, match="w is not finite"):
        save_checkpoint(tmp_path / "10", {"w": torch.tensor([1.0, float("nan")])}, {})
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_the_old_checkpoint_and_no_traces(saved):
    script = (
        "import resource, sys, torch\n"
        "from simtoreal.policies.checkpoint import save_checkpoint\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    save_checkpoint(sys.argv[1], {'w': torch.zeros(10_000)}, {}, replace=True)\n"
        "except OSError as error:\n    sys.exit(error.errno)\n"
    )
    for name in ("10", "20"):
        result = subprocess.run([sys.executable, "-c", script, saved.parent / name], timeout=60, check=False)
        assert result.returncode == errno.EFBIG
    assert os.listdir(saved.parent) == ["10"]
    assert torch.equal(load_checkpoint(saved)[0]["w"], TENSORS["w"])


@pytest.mark.parametrize("crash_at", range(2))
def test_a_crash_between_the_renames_loses_nothing(saved, monkeypatch, crash_at):
    """The process dies at the first or the second rename of a replacement: no clean-up runs."""
    calls = []
    rename = os.replace

    def dying(*paths):
        calls.append(paths)
        if len(calls) > crash_at:
            raise KeyboardInterrupt
        rename(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "replace", dying)
        patch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(saved, {"w": torch.zeros(1)}, {}, replace=True)
    sweep(saved.parent)
    assert os.listdir(saved.parent) == ["10"]
    assert torch.equal(load_checkpoint(saved)[0]["w"], TENSORS["w"])


def test_a_stray_temporary_folder_is_ignored_and_swept(saved):
    shutil.copytree(saved, saved.parent / ".tmp-20-x")
    (saved.parent / "best").mkdir()
    assert checkpoints(saved.parent) == [saved]
    save_checkpoint(saved.parent / "30", TENSORS, {})
    assert sorted(os.listdir(saved.parent)) == ["10", "30", "best"]


def test_an_existing_checkpoint_is_replaced_only_when_told(saved):
    with pytest.raises(CheckpointError, match="already exists"):
        save_checkpoint(saved, {"w": torch.zeros(1)}, {})
    save_checkpoint(saved, {"w": torch.zeros(1)}, {}, replace=True)
    assert load_checkpoint(saved)[0]["w"].tolist() == [0.0]
    other = saved.parent / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="already exists"):
        save_checkpoint(other, {}, {}, replace=True)
    assert (other / "thesis.txt").exists()


def test_an_earlier_generation_is_used_only_when_told(saved):
    save_checkpoint(saved.parent / "9", {"w": torch.zeros(1)}, {"step": 9})
    (saved / "agent.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="sha256"):
        load_latest(saved.parent)
    path, tensors, meta = load_latest(saved.parent, fall_back=True)
    assert (path.name, tensors["w"].tolist(), meta) == ("9", [0.0], {"step": 9})
    shutil.rmtree(saved.parent / "9")
    with pytest.raises(CheckpointError, match="no sound checkpoint"):
        load_latest(saved.parent, fall_back=True)


def test_what_a_checkpoint_names_may_refuse_it_too(saved):
    save_checkpoint(saved.parent / "9", TENSORS, {"step": 9})

    def accept(meta):
        if "step" not in meta:
            raise CheckpointError("names no step")

    with pytest.raises(CheckpointError, match="names no step"):
        load_latest(saved.parent, accept=accept)
    assert load_latest(saved.parent, fall_back=True, accept=accept)[0].name == "9"


def test_a_removed_checkpoint_is_gone_whole_even_if_its_removal_is_cut_short(saved, monkeypatch):
    monkeypatch.setattr(checkpoint.shutil, "rmtree", lambda path: None)
    remove_checkpoint(saved)
    assert checkpoints(saved.parent) == []
    monkeypatch.undo()
    sweep(saved.parent)
    assert os.listdir(saved.parent) == []


def test_another_robot_is_refused_with_both_sides():
    meta = {"task": "A1Walk", "observation_size": 48}
    check_compatible(meta, {"task": "A1Walk"})
    with pytest.raises(CheckpointError, match="task 'A1Walk', expected 'PandaReach'; observation_size 48, expected 27"):
        check_compatible(meta, {"task": "PandaReach", "observation_size": 27})


def test_the_actor_is_rebuilt_from_the_checkpoint_alone(tmp_path):
    actor = DeterministicActor(4, 2, (8,), "tanh", "clip")
    actor.normalizer.shift.fill_(0.5)
    folder = save_checkpoint(tmp_path / "1", prefixed("actor", actor.state_dict()), {"actor": actor.describe()})
    tensors, meta = load_checkpoint(folder)
    again, x = build_actor(meta, tensors), torch.randn(5, 4)
    assert_close(again(x), actor(x), atol=0, rtol=0)
    with pytest.raises(CheckpointError, match="size mismatch"):
        build_actor({"actor": actor.describe() | {"action_size": 3}}, tensors)
    with pytest.raises(CheckpointError, match="describes no actor"):
        build_actor({}, tensors)


def test_importing_the_room_is_light():
    heavy = "{'torch', 'stable_baselines3'} & set(sys.modules)"
    script = (
        f"import sys, simtoreal.policies as p; assert not {heavy}, {heavy}\n"
        "p.SACConfig; assert 'stable_baselines3' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
