"""Counter-based random numbers: every number has a name, and needs no other number to be drawn first.

Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC11). The key is the
64-bit hash of a name, the counter (seed, environment, episode), so adding a name, an environment or an episode changes
no other number, and any one of them can be had again alone, in any process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_WEYL = np.array([0x9E3779B9, 0xBB67AE85], dtype=np.uint64)
_LOW = np.array([0xFFFFFFFF], dtype=np.uint64)  # arrays, since numpy is slower with its scalars
_SHIFT = np.array([32], dtype=np.uint64)
RoundKeys = tuple[NDArray[np.uint64], ...]
ROUNDS = 10
BLOCK = 16  # episodes whose numbers are made together: they follow one another, and all cost little more than one does


def philox4x32(counter: NDArray[np.uint32], key: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Ten rounds of Philox4x32: `counter` [k, 4] and `key` [k, 2] (or [4] and [2]) to random words [k, 4] (or [4])."""
    counters = np.atleast_2d(np.asarray(counter, dtype=np.uint64))
    keys = np.atleast_2d(np.asarray(key, dtype=np.uint64))
    count = max(len(counters), len(keys))
    words = _rounds(np.ascontiguousarray(np.broadcast_to(counters, (count, 4)).T), _round_keys(keys))
    block = words.T.astype(np.uint32)
    return block[0] if np.ndim(counter) == 1 and np.ndim(key) == 1 else block


def name_key(name: str) -> int:
    """The 64-bit key of a name: BLAKE2b of its UTF-8 text, read little-endian."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def uniforms(seed: int, env: int, episode: int, names: Sequence[str]) -> NDArray[np.float64]:
    """One number in [0, 1) for each name [k], of 53 random bits; the same for the same (seed, env, episode, name).

    Raises ValueError unless `seed` is in [0, 2^64) and `env` and `episode` in [0, 2^32).
    """
    _check(seed, env, episode)
    return _numbers(seed, env, episode // BLOCK, tuple(names))[episode % BLOCK]


def episode_seed(seed: int, env: int, episode: int) -> int:
    """The seed in [0, 2^31) of one episode, for `env.reset(seed=…)`: any environment's generator takes it."""
    _check(seed, env, episode)
    return _seeds(seed, env, episode // BLOCK)[episode % BLOCK]


@lru_cache(maxsize=64)
def _numbers(seed: int, env: int, block: int, names: tuple[str, ...]) -> NDArray[np.float64]:
    """Of the episodes of a block, [BLOCK, k]."""
    words = _words(seed, env, block, names)
    bits = (words[0] >> np.uint64(5) << np.uint64(26)) | (words[1] >> np.uint64(6))
    numbers: NDArray[np.float64] = (bits.astype(np.float64) * 2.0**-53).reshape(BLOCK, len(names))
    numbers.flags.writeable = False  # they are kept
    return numbers


@lru_cache(maxsize=64)
def _seeds(seed: int, env: int, block: int) -> list[int]:
    """Of the episodes of a block."""
    seeds: list[int] = (_words(seed, env, block, ("episode_seed",))[0] >> np.uint64(1)).tolist()
    return seeds


def _words(seed: int, env: int, block: int, names: tuple[str, ...]) -> NDArray[np.uint64]:
    """The random words [4, BLOCK k] of a block's episodes, each with all its names."""
    low, high = int(seed) & 0xFFFFFFFF, int(seed) >> 32
    counters = np.array([(low, high, int(env), block * BLOCK + i) for i in range(BLOCK)], dtype=np.uint64)
    return _rounds(np.repeat(counters.T, len(names), axis=1), _keys_of(names))


def _check(seed: int, env: int, episode: int) -> None:
    for what, value, bits in (("seed", seed, 64), ("env", env, 32), ("episode", episode, 32)):
        if not 0 <= value < 1 << bits:
            raise ValueError(f"{what} must lie in [0, 2^{bits}), got {value}")


@lru_cache(maxsize=256)
def _keys_of(names: tuple[str, ...]) -> RoundKeys:
    """The keys of every round, for all names in each episode of a block."""
    keys = np.array([name_key(name) for name in names] * BLOCK, dtype=np.uint64)
    return _round_keys(np.stack([keys & _LOW, keys >> _SHIFT], axis=-1))


def _round_keys(keys: NDArray[np.uint64]) -> RoundKeys:
    """Keys [k, 2] to the keys [2, k] of every round: a Weyl sequence."""
    return tuple(np.ascontiguousarray(((keys + np.uint64(i) * _WEYL) & _LOW).T) for i in range(ROUNDS))


def _rounds(counter: NDArray[np.uint64], round_keys: RoundKeys) -> NDArray[np.uint64]:
    """`counter` [4, k or 1] and the keys of every round (each [2, k]) to words [4, k].

    Both multiplications of a round are one product: words 0 and 2 (`even`) are multiplied, their high and low halves
    change places, and words 1 and 3 (`odd`) and the key are mixed in.
    """
    even, odd = counter[0::2], counter[1::2]
    for key in round_keys:
        product = (even * _MULTIPLIERS)[::-1]
        even = (product >> _SHIFT) ^ odd ^ key
        odd = product & _LOW
    words = np.empty((4, even.shape[1]), dtype=np.uint64)
    words[0::2], words[1::2] = even, odd
    return words
