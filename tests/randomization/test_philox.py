from __future__ import annotations

import itertools
import subprocess
import sys
import time
import timeit

import numpy as np
import pytest
from scipy import stats

from simtoreal.randomization.philox import episode_seed, name_key, philox4x32, uniforms


def words(text):
    return np.array([int(word, 16) for word in text.split()], dtype=np.uint32)


# Random123's kat_vectors, philox4x32 10: counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_known_answers_one_at_a_time(counter, key, result):
    np.testing.assert_array_equal(philox4x32(words(counter), words(key)), words(result))


def test_known_answers_all_at_once():
    counters, keys, results = (np.stack([words(text) for text in column]) for column in zip(*KNOWN, strict=True))
    np.testing.assert_array_equal(philox4x32(counters, keys), results)


def test_uniforms_are_the_blocks_of_their_names():
    seed = 0x0123456789ABCDEF
    u = uniforms(seed, 7, 11, ["link.base.mass", "ground.friction"])
    for name, number in zip(["link.base.mass", "ground.friction"], u, strict=True):
        key = np.array([name_key(name) & 0xFFFFFFFF, name_key(name) >> 32], dtype=np.uint32)
        block = philox4x32(words("89abcdef 01234567 00000007 0000000b"), key)
        assert int(number * 2**27) == block[0] // 32
        assert number * 2**53 % 2**26 == block[1] // 64


def test_other_names_change_nothing():
    alone = uniforms(1, 2, 3, ["b"])[0]
    assert uniforms(1, 2, 3, ["a", "b", "c"])[1] == alone
    assert uniforms(1, 2, 3, ["c", "b"])[1] == alone


def test_each_part_of_the_key_matters():
    keys = [(0, 0, 0), (1, 0, 0), (1 << 32, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert len({uniforms(*key, ["a"])[0] for key in keys}) == 5
    assert len({episode_seed(*key) for key in keys}) == 5


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_numbers_are_uniform_along_every_axis(axis):
    n = 4000
    if axis == 3:
        u = uniforms(0, 0, 0, [f"name {i}" for i in range(n)])
    else:
        u = np.array([uniforms(*np.eye(3, dtype=int)[axis] * i, ["a"])[0] for i in range(n)])
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 5 / np.sqrt(n)


def test_another_process_draws_the_same():
    code = (
        "from simtoreal.randomization.philox import *; print(uniforms(5, 6, 7, 'ab').tolist(), episode_seed(5, 6, 7))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert out == f"{uniforms(5, 6, 7, 'ab').tolist()} {episode_seed(5, 6, 7)}"


def test_episode_seeds_fit_every_generator():
    seeds = [episode_seed(2**64 - 1, 2**32 - 1, k) for k in range(100)]
    assert min(seeds) >= 0
    assert max(seeds) < 2**31
    assert len(set(seeds)) == 100


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ((-1, 0, 0), r"seed must lie in \[0, 2\^64\), got -1"),
        ((1 << 64, 0, 0), "seed must lie in"),
        ((0, -1, 0), r"env must lie in \[0, 2\^32\), got -1"),
        ((0, 0, 1 << 32), "episode must lie in"),
    ],
)
def test_keys_outside_the_counter_are_refused(key, message):
    with pytest.raises(ValueError, match=message):
        uniforms(*key, ["a"])


def test_forty_names_cost_little():
    names = tuple(f"link.{i}.mass" for i in range(40))
    episodes = itertools.count()
    draw = lambda: uniforms(1, 2, next(episodes), names)  # noqa: E731
    best = min(timeit.repeat(draw, number=48, repeat=50, timer=time.process_time)) / 48
    assert best < 150e-6
