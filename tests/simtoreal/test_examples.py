"""The bundles that lie in the repository: sound, small, and as good as their READMEs' figures lead one to expect."""

from pathlib import Path

import pytest

import simtoreal

BUNDLES = Path(__file__).parents[2] / "examples" / "bundles"
NAMES = {"cartpoleswingup": "CartPoleSwingUp", "pandareach": "PandaReach", "a1walk": "A1Walk"}
MOST_BYTES = 2_000_000


def test_there_is_one_of_each_task():
    assert {path.name for path in BUNDLES.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_bundle_is_small_sound_and_succeeds(name, tmp_path):
    bundle = BUNDLES / name
    assert sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) < MOST_BYTES
    assert simtoreal.verify(bundle).passed
    verdict = simtoreal.evaluate([bundle], out=tmp_path / "verdict", suites=["nominal"], episodes=5)
    assert sum(episode.success for episode in verdict.episodes) >= 4
    assert simtoreal.Runtime(bundle).spec.task == f"simtoreal/{NAMES[name]}-v0"
