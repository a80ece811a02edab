import subprocess
import sys

import pytest

from simtoreal.policies.memory import keep_freed_memory

COUNT = """
import ctypes, resource, sys, torch
from simtoreal.policies.memory import MMAP_THRESHOLD, keep_freed_memory
torch.set_num_threads(1)
ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 131072)  # where malloc begins; it moves that by what happens to be freed
if sys.argv[1] == "kept":
    assert keep_freed_memory() and keep_freed_memory()
def work():
    for _ in range(20):
        for rows in (256, 512, 1024):
            one, other = torch.empty(rows, 256).fill_(1), torch.empty(rows, 256).fill_(1)
            del one, other
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="glibc's malloc alone can be told")
def test_tensors_that_come_and_go_cause_no_page_faults():
    freed, kept = (
        int(subprocess.run([sys.executable, "-c", COUNT, mode], check=True, capture_output=True, text=True).stdout)
        for mode in ("freed", "kept")
    )
    assert kept < 50
    assert freed > 10 * max(kept, 10)
