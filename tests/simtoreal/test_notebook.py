"""The notebook of learning by choices: it runs from its first cell to its last, and says what can be worked by hand."""

import base64
import io
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

NOTEBOOK = Path(__file__).parents[2] / "examples" / "from_q_table_to_rainbow.ipynb"
MOST_BYTES = 600_000


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """All of it, each training as short as it can be, in a folder of its own."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALE", "0.03")
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(folder / name))
        return client.execute()  # raises CellExecutionError where a cell does


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(notebook):
    return "".join(output.text for output in outputs(notebook) if output.get("name") == "stdout")


def figures(notebook):
    """As arrays [H, W, 4]."""
    found = [output.data["image/png"] for output in outputs(notebook) if "image/png" in output.get("data", {})]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")) for png in found]


def table(notebook):
    """What the line world's learner printed of each state [6, 3]: left, right and the most."""
    _, after = printed(notebook).split("max\n", 1)
    return np.array([line.split()[1:] for line in after.splitlines()[:6]], dtype=float)


def check(notebook):
    """The line world's values, .9 to the power of how many steps there are still to go, and a figure for each cell that
    shows one."""
    values = table(notebook)
    np.testing.assert_allclose(values[:5, 1], [0.6561, 0.729, 0.81, 0.9, 1.0], atol=1e-4)
    np.testing.assert_allclose(values[:, 2], values[:, :2].max(axis=1))
    assert not values[5].any()  # nothing follows the goal
    shown = figures(notebook)
    assert len(shown) == sum("plt.show()" in cell.source for cell in notebook.cells) >= 10
    assert all(np.ptp(figure[..., :3]) > 100 for figure in shown)
    for choice in (  # changes of 0.15 of 0.4 rad and of 1.25 m/s, the speed varies fastest
        "choice 0: steering_angle -0.06 rad, speed -0.1875 m/s",
        "choice 4: steering_angle 0 rad, speed 0 m/s",
        "choice 8: steering_angle 0.06 rad, speed 0.1875 m/s",
        "verified: True",
    ):
        assert f"{choice}\n" in printed(notebook)


@pytest.mark.slow
def test_it_runs_to_its_end(executed):
    check(executed)


def test_what_is_stored_is_whole_small_and_quiet():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    check(notebook)
    assert NOTEBOOK.stat().st_size < MOST_BYTES
    assert not any(output.get("name") == "stderr" for output in outputs(notebook))
