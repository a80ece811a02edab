import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from simtoreal.policies import chunks
from simtoreal.policies.checkpoint import CheckpointError
from simtoreal.policies.chunks import ChunkStore
from simtoreal.policies.replay import Replay


def add(replay, n):
    """Transitions whose every number is their own."""
    k = np.arange(replay.added, replay.added + n, dtype=np.float32)
    replay.add(k[:, None], k[:, None], k, k[:, None], k)


@pytest.fixture
def store(tmp_path):
    return ChunkStore(tmp_path / "replay")


def names(store):
    return sorted(os.listdir(store.folder)) if store.folder.exists() else []


def test_only_what_was_added_is_written_and_all_of_it_comes_back(store):
    replay = Replay(100, 1, 1)
    assert store.extend(replay) == {"added": 0, "oldest": 0, "chunks": []}
    add(replay, 30)
    first = store.extend(replay)
    written = (store.folder / "0-30.safetensors").stat()
    add(replay, 5)
    second = store.extend(replay)
    assert store.extend(replay) == second
    assert names(store) == ["0-30.safetensors", "30-35.safetensors"]
    assert (store.folder / "0-30.safetensors").stat() == written
    for said, size in ((first, 30), (second, 35)):
        again, twin = ChunkStore(store.folder), Replay(100, 1, 1)
        again.verify(said)
        again.restore(said, twin)
        assert torch.equal(twin.rows(0, size)["obs"], replay.rows(0, size)["obs"])
        assert twin.added == size
        add(twin, 7)
        assert again.extend(twin)["chunks"][-1][:2] == [size, size + 7]


def test_a_ring_that_is_overwritten_drops_the_files_it_holds_no_more(store):
    replay = Replay(50, 1, 1)
    said = []
    for n in (30, 30, 30, 10):
        add(replay, n)
        said.append(store.extend(replay))
    assert said[-1]["oldest"] == 50
    assert [chunk[:2] for chunk in said[-1]["chunks"]] == [[30, 60], [60, 90], [90, 100]]
    store.prune(said[1]["oldest"])  # an earlier checkpoint still needs rows from 10 on
    assert len(names(store)) == 4
    store.prune(said[-1]["oldest"])
    assert names(store) == ["30-60.safetensors", "60-90.safetensors", "90-100.safetensors"]
    twin = Replay(50, 1, 1)
    ChunkStore(store.folder).restore(said[-1], twin)
    assert twin.rows(50, 100)["reward"].tolist() == list(range(50, 100))
    with pytest.raises(CheckpointError, match=r"0-30\.safetensors: no such file; a checkpoint needs it"):
        ChunkStore(store.folder).verify(said[1])


def test_what_is_overwritten_before_it_was_stored_is_left_out(store):
    replay = Replay(20, 1, 1)
    add(replay, 10)
    store.extend(replay)
    for _ in range(3):
        add(replay, 20)
    said = store.extend(replay)
    assert [chunk[:2] for chunk in said["chunks"]] == [[50, 70]]
    twin = Replay(20, 1, 1)
    ChunkStore(store.folder).restore(said, twin)
    assert twin.rows(50, 70)["reward"].tolist() == list(range(50, 70))


def test_many_rows_become_several_files(store, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 200)  # a row has 20
    replay = Replay(100, 1, 1)
    add(replay, 25)
    assert [chunk[:2] for chunk in store.extend(replay)["chunks"]] == [[0, 10], [10, 20], [20, 25]]


def test_damage_is_refused_by_name(store):
    replay = Replay(50, 1, 1)
    add(replay, 20)
    store.extend(replay)
    add(replay, 20)
    said = store.extend(replay)
    path = store.folder / "20-40.safetensors"
    data = path.read_bytes()
    for damaged in (data[:-1], bytes([*data[:-1], data[-1] ^ 1]), b"", b"\x80\x04."):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"20-40\.safetensors"):
            store.verify(said)
        with pytest.raises(CheckpointError, match=r"20-40\.safetensors"):
            ChunkStore(store.folder).restore(said, Replay(50, 1, 1))


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"chunks": 7},
        {"chunks": [["a", 2, "x"]]},
        {"chunks": [[0, 20]]},
        {"chunks": [[0, 20, "x"], [30, 40, "x"]]},
        {"chunks": [[20, 0, "x"]]},
        {"chunks": [[-5, 0, "x"]]},
    ],
)
def test_what_names_no_chunks_is_refused(store, said):
    with pytest.raises(CheckpointError, match="chunks"):
        store.verify(said)


def test_what_does_not_add_up_is_refused(store):
    replay = Replay(50, 1, 1)
    add(replay, 20)
    said = store.extend(replay)
    with pytest.raises(CheckpointError, match="rows 0 to 20 came back, 0 to 21 were stored"):
        ChunkStore(store.folder).restore(said | {"added": 21}, Replay(50, 1, 1))
    with pytest.raises(ValueError, match="expected"):
        ChunkStore(store.folder).restore(said, Replay(50, 2, 1))


def test_strays_are_swept(store):
    replay = Replay(50, 1, 1)
    add(replay, 20)
    store.extend(replay)
    for stray in ("20-30.safetensors", "25-30.safetensors", ".tmp-20-30.safetensors-x"):
        (store.folder / stray).write_bytes(b"half")
    (store.folder / "notes.txt").write_text("not ours")
    store.sweep(20)
    assert names(store) == ["0-20.safetensors", "notes.txt"]
    ChunkStore(store.folder.parent / "nowhere").sweep(0)


def test_a_full_disk_leaves_no_half_of_a_chunk(store):
    replay = Replay(5000, 1, 1)
    add(replay, 10)
    said = store.extend(replay)
    script = (
        "import resource, sys, pathlib, json, torch\n"
        "from simtoreal.policies.chunks import ChunkStore\n"
        "from simtoreal.policies.replay import Replay\n"
        "store, replay = ChunkStore(pathlib.Path(sys.argv[1])), Replay(5000, 1, 1)\n"
        "store.restore(json.loads(sys.argv[2]), replay)\n"
        "x = torch.zeros(4000)\n"
        "replay.add(x[:, None], x[:, None], x, x[:, None], x)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    store.extend(replay)\n"
        "except OSError as error:\n    sys.exit(error.errno)\n"
    )
    result = subprocess.run([sys.executable, "-c", script, store.folder, json.dumps(said)], timeout=60, check=False)
    assert result.returncode == errno.EFBIG
    assert names(store) == ["0-10.safetensors"]
    store.verify(said)
