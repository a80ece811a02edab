"""A gradient step as machine code: the same numbers as call by call, made once, by a real compiler."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from simtoreal.policies import compiled, libraries, products
from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.compiled import Compiled, Compiling
from simtoreal.policies.libraries import CompilerError
from simtoreal.policies.ppo import PPO, PPOConfig
from simtoreal.policies.replay import Replay
from simtoreal.policies.rollout import Rollout
from simtoreal.policies.sac import SAC, SACConfig
from simtoreal.policies.td3 import TD3, TD3Config
from simtoreal.policies.updates import CapturedUpdates

N, M, P, SIZE = 6, 2, 3, 32
SMALL = {"hidden": (32, 16), "batch_size": SIZE, "buffer_size": 10_000, "tau": 0.1, "smoothness": 0.1}
LEARNERS = {
    "sac": (SAC, SACConfig(**SMALL, layer_norm=True, dropout=0.05, actor_average=0.01)),
    "sde": (SAC, SACConfig(**SMALL, sde=True, log_std=-1.0, n_critics=3)),
    "td3": (TD3, TD3Config(**SMALL)),
    "bf16": (SAC, SACConfig(**SMALL, matmul_precision="medium", policy_delay=2)),
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "simtoreal" / "compiled"


@pytest.fixture
def quietly():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Compiling)
        yield


@pytest.fixture(scope="module")
def library_of_walk(tmp_path_factory):
    """What the compiler makes of `Walk()`, made once for all tests."""
    place = tmp_path_factory.mktemp("walk")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(place))
        assert made(Walk())
    return next(place.rglob("*.so"))


@pytest.fixture
def once(library_of_walk, monkeypatch):
    """The compiler has made `Walk()` before; its library is brought instead of made again. For tests of where
    libraries are kept."""

    def bring(place, work, calls):
        warnings.warn("brought", Compiling, stacklevel=2)
        shutil.copyfile(library_of_walk, place / "library.so")

    monkeypatch.setattr(compiled, "_make", bring)


def agent_and_updates(name, compile_):
    kind, config = LEARNERS[name]
    agent, replay = kind(N, M, P, config, seed=3), Replay(1_000, N, M, P)
    rng, n = np.random.default_rng(0), 200
    seen = {"obs": rng.standard_normal((n, N)), "privileged": rng.standard_normal((n, P))}
    agent.observe({"policy": seen["obs"], "privileged": seen["privileged"]})
    replay.add(
        **seen,
        action=rng.uniform(-1, 1, (n, M)),
        reward=rng.standard_normal(n),
        next_obs=rng.standard_normal((n, N)),
        terminated=rng.random(n) < 0.2,
        next_privileged=rng.standard_normal((n, P)),
    )
    return agent, replay, CapturedUpdates(agent, replay, SIZE, compiled=compile_)


@pytest.mark.usefixtures("quietly")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "sac" else pytest.mark.soak)
        for name in LEARNERS
        if name != "bf16" or products._bf16
    ],
)
def test_compiled_steps_are_those_made_one_by_one(name, monkeypatch):
    monkeypatch.setattr(products, "FEWEST", 2**10)  # so that products of this size are oneDNN's too
    monkeypatch.setattr(products, "NARROWEST", 8)
    one, _, plainly = agent_and_updates(name, False)
    other, replay, updates = agent_and_updates(name, True)
    for _ in range(6):
        plainly.step(torch.Generator())
        updates.step(torch.Generator())
    mine, theirs = one.state_dict(), other.state_dict()
    tolerance = 5e-3 if name == "bf16" else 1e-5
    for key in mine:
        assert_close(theirs[key], mine[key], atol=tolerance, rtol=tolerance, msg=key)
    found, expected = updates.means(), plainly.means()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=20 * tolerance), key
    if name == "sac":  # from a loss that is not finite on no step is made
        good = other.state_dict()
        with torch.no_grad():
            replay._table.fill_(torch.nan)
        updates.step(torch.Generator())
        after = other.state_dict()
        for key in good:
            if key.startswith(("policy", "critics", "optimizer")):
                assert torch.equal(after[key], good[key]), key
        with pytest.raises(NonFiniteError, match=r"not finite: .*critic loss"):
            updates.means()


@pytest.mark.usefixtures("quietly")
def test_compiled_epochs_are_those_made_one_by_one(place):
    options = {"hidden": (16, 16), "batch_size": 24, "epochs": 2, "learning_rate": 3e-3, "clip_value": 0.1}
    one, other = (
        PPO(N, M, P, PPOConfig(**options, entropy_weight=0.01, compile=compile_), seed=5) for compile_ in (False, True)
    )
    rng = torch.Generator().manual_seed(0)
    for n in (72, 71):  # of the minibatch that is smaller than usual no library is made
        columns = [torch.randn(n, width, generator=rng) for width in (N, P, M)]
        columns += [torch.randn(n, generator=rng) - shift for shift in (3.0, 0.0, 0.0, 0.0)]
        mine, theirs = one.update(Rollout(*columns)), other.update(Rollout(*columns))
        for key in mine:
            assert_close(theirs[key], mine[key], atol=1e-4, rtol=1e-4, msg=key)
        for a, b in zip(one._parameters, other._parameters, strict=True):
            assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert len(list(place.glob("*.so"))) == 1


class Walk:
    """x <- factor x + noise."""

    def __init__(self, factor=0.5, n=4):
        self.x, self.factor = torch.zeros(n), factor
        self.rng = torch.Generator().manual_seed(0)

    def __call__(self):
        self.x.mul_(self.factor).add_(torch.randn(self.x.shape, generator=self.rng))

    def compiled(self):
        x, rng = self.x.clone(), self.rng.get_state()

        def put_back():
            self.x.copy_(x)
            self.rng.set_state(rng)

        return Compiled(self, put_back)


def made(walk):
    """Was there something to compile?"""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Compiling)
        walk.compiled()
    return any(warning.category is Compiling for warning in caught)


def test_what_makes_the_same_calls_is_made_once(place, beside_this):
    assert made(Walk())
    assert not made(Walk())
    made_here = set(place.iterdir())
    assert {path.suffix for path in made_here} == {".so", ".sha256"}
    script = (
        "import torch; torch.set_num_threads(1); import test_compiled; "
        "assert not test_compiled.made(test_compiled.Walk())"
    )
    subprocess.run([sys.executable, "-P", "-c", script], env=beside_this, check=True)
    assert set(place.iterdir()) == made_here
    assert len({key_of(walk) for walk in (Walk(), Walk(factor=0.25), Walk(n=5))}) == 3


@pytest.mark.usefixtures("quietly", "once")
def test_random_numbers_come_in_the_order_of_the_calls():
    one, other = Walk(), Walk()
    run = other.compiled()
    for _ in range(3):
        one()
        run()
    assert_close(other.x, one.x)
    assert torch.equal(other.rng.get_state(), one.rng.get_state())


@pytest.mark.usefixtures("quietly", "once")
def test_a_library_that_was_not_used_for_months_goes_when_another_is_made(place):
    place.mkdir(parents=True)
    old, recent = (place / f"{name}.so" for name in ("old", "recent"))
    for library, days in ((old, 100), (recent, 80)):
        library.touch()
        os.utime(library, (time.time() - days * 86_400,) * 2)
    Walk().compiled()
    assert not old.exists()
    assert recent.exists()


def key_of(walk):
    calls = compiled._Calls()
    with calls:
        walk()
    return calls.key()


@pytest.mark.usefixtures("once")
def test_a_broken_library_is_made_again(place):
    place.mkdir(parents=True)
    library = place / f"{key_of(Walk())}.so"
    library.write_bytes(b"\x7fELF and no more")
    assert made(Walk())
    whole = library.read_bytes()
    library.unlink()  # this process has loaded it
    library.write_bytes(whole[: len(whole) // 2 // 4096 * 4096])  # to load it would end this process
    assert made(Walk())
    assert not made(Walk())


@pytest.mark.usefixtures("once")
def test_who_may_create_what_others_write_still_compiles(place):
    before = os.umask(0o002)
    try:
        assert made(Walk())
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (place.parent, place)] == [0o700, 0o700]
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o600}


@pytest.mark.usefixtures("quietly", "once")
def test_who_has_waited_long_enough_makes_it_himself(place, monkeypatch):
    monkeypatch.setattr(libraries, "PATIENCE", 0.3)
    place.mkdir(parents=True)
    with (place / f"{key_of(Walk())}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.warns(UserWarning, match="another process is compiling what this one needs"):
            Walk().compiled()


def test_processes_that_want_the_same_library_make_it_once(place, beside_this):
    script = "import test_compiled; print(test_compiled.made(test_compiled.Walk()))"
    command = [sys.executable, "-P", "-c", script]
    processes = [subprocess.Popen(command, env=beside_this, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(said) == ["False", "True"]
    assert {path.suffix for path in place.iterdir()} == {".so", ".sha256"}


def test_machine_code_that_others_may_write_is_not_run(place):
    place.mkdir(parents=True)
    place.chmod(0o777)
    with pytest.raises(CompilerError, match="not yours alone"):
        Walk().compiled()


def test_a_place_that_another_may_rename_is_not_used(place):
    place.mkdir(parents=True, mode=0o700)
    place.parent.chmod(0o777)
    with pytest.raises(CompilerError, match="not yours alone"):
        Walk().compiled()


def test_what_draws_from_what_was_computed_is_refused():
    rng = torch.Generator().manual_seed(0)
    with pytest.raises(CompilerError, match="bernoulli draws from what was computed"):
        Compiled(lambda: torch.bernoulli(torch.full((3,), 0.5), generator=rng), lambda: None)


def test_where_no_library_can_be_kept_the_place_is_named(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    with pytest.raises(CompilerError, match=r"/proc/none/simtoreal/compiled cannot be made \(.*set XDG_CACHE_HOME"):
        Walk().compiled()


def test_without_a_compiler_the_way_out_is_said(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(CompilerError, match=r"no C\+\+ compiler .*not found.* agent.compile=false"):
        Walk().compiled()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("test \"$1\" = --version && exit\necho 'p.cpp:1: fatal error: omp.h' >&2\nexit 1", "fails: p.cpp:1: fatal"),
        ("exit 0", "compiles nothing"),
        (None, "Exec format error"),
    ],
)
def test_a_compiler_that_compiles_nothing_is_none(script, words, monkeypatch, tmp_path):
    fake = tmp_path / "c++"
    fake.write_bytes(b"\x7fELF" if script is None else f"#!/bin/sh\n{script}\n".encode())
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    assert words in libraries.why_not()
    with pytest.raises(CompilerError, match=r"agent.compile=false"):
        Walk().compiled()
