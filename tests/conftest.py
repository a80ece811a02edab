"""What takes long is left to `make soak`, which sets SIMTOREAL_SOAK; what takes longest of the rest comes first, so
that no process waits for another at the end."""

import os
import resource
from pathlib import Path

import pytest

FIRST = (
    *("policies/test_compiled", "robots/test_tasks", "simtoreal/test_resume", "simtoreal/test_randomness"),
    *("simtoreal/test_train", "simtoreal/test_finetune", "simtoreal/test_images", "policies/test_recurrent_sac"),
)


def pytest_collection_modifyitems(config, items):
    if "SIMTOREAL_SOAK" not in os.environ:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("soak")])
        items[:] = [item for item in items if item.get_closest_marker("soak") is None]

    def place(item):
        file = item.nodeid.partition(".py")[0].removeprefix("tests/")
        return FIRST.index(file) if file in FIRST else len(FIRST)

    items.sort(key=place)


@pytest.fixture
def beside_this(request):
    """The environment of a process that imports the test's own file."""
    where = os.pathsep.join([str(request.path.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": where}


@pytest.fixture
def resident():
    """Says how much memory this process has [bytes]."""
    return lambda: int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
