"""A module that is not installed: one line that says what to install (FAULTS row 56)."""

import subprocess
import sys

import pytest

BLOCK = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from simtoreal.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("module", "package", "arguments"),
    [
        ("stable_baselines3", "stable-baselines3", ["train", "Pendulum-v1", "--algorithm", "sb3-sac", "--steps", "9"]),
        ("imageio", "imageio[ffmpeg]", ["play", "CartPoleSwingUp", "--video", "film.mp4"]),
        ("viser", "viser", ["play", "CartPoleSwingUp"]),
        ("pybullet", "pybullet", ["train", "CartPoleSwingUp", "--steps", "9"]),
        ("matplotlib", "matplotlib", ["evaluate", "nothing"]),
    ],
)
def test_the_message_says_what_to_install(module, package, arguments, tmp_path):
    out = [] if arguments[0] == "play" else ["--out", "out"]
    command = [sys.executable, "-c", BLOCK, module, *arguments, *out]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.returncode == 2, said.stderr
    assert said.stdout == ""
    assert said.stderr == f"simtoreal: {module} is not installed; pip install '{package}'\n"
    assert list(tmp_path.iterdir()) == []
