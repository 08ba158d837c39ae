"""A server ends with the process that started it, even when that one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.live.orphan import VARIABLE

CHILD = """
import time
from harness.live.orphan import end_with_parent
end_with_parent()
print("up", flush=True)
time.sleep(60)
"""
PARENT = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], start_new_session=True,
                         env=os.environ | ({{"{VARIABLE}": str(os.getpid())}} if sys.argv[1] == "ours" else {{}}))
print(child.pid, flush=True)
time.sleep(60)
"""


def killed_parent(whose: str) -> int:
    """Start a parent with a child, kill it with -9 and return the child's pid."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, whose],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert parent.stdout is not None
    told = sorted(parent.stdout.readline().strip() for _ in range(2))
    assert told[1] == "up"
    parent.kill()
    parent.wait()
    return int(told[0])


def ends(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().split()[2]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":  # ended, and nobody has asked for it
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux only, as vLLM is")
def test_a_server_of_ours_ends_with_us() -> None:
    assert ends(killed_parent("ours"), 5.0)


def test_a_server_started_by_hand_stays() -> None:
    pid = killed_parent("by hand")
    try:
        assert not ends(pid, 0.5)
    finally:
        os.kill(pid, signal.SIGKILL)
