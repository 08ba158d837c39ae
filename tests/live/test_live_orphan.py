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
import sys, time
from pathlib import Path
from harness.live.orphan import end_with_parent
end_with_parent(Path(sys.argv[1]))
print("up", flush=True)
time.sleep(60)
"""
PARENT = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}, sys.argv[2]], start_new_session=True,
                         env=os.environ | ({{"{VARIABLE}": str(os.getpid())}} if sys.argv[1] == "ours" else {{}}))
print(child.pid, flush=True)
time.sleep(60)
"""


def killed_parent(whose: str, link: Path) -> int:
    """Start a parent with a child, kill it with -9 and return the child's pid."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, whose, str(link)],
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
def test_a_server_of_ours_ends_with_us_and_leaves_no_traces(tmp_path: Path) -> None:
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "traces.ring").write_bytes(b"what people wrote")
    assert ends(killed_parent("ours", tmp_path / "link"), 5.0)
    assert not (tmp_path / "link").exists()


def test_a_server_started_by_hand_stays(tmp_path: Path) -> None:
    (tmp_path / "link").mkdir()
    pid = killed_parent("by hand", tmp_path / "link")
    try:
        assert not ends(pid, 0.5)
        assert (tmp_path / "link").exists()
    finally:
        os.kill(pid, signal.SIGKILL)
