"""A server that was started by us ends with us, however we end: nobody is left to stop it, and it holds a GPU."""

from __future__ import annotations

import os
import select
import shutil
import signal
import threading
import time
from pathlib import Path

VARIABLE = "SPECDRIFT_STARTED_BY"
"""Process that started the server; servers that a user starts by hand have none and stay."""

GRACE_SECONDS = 10.0


def end_with_parent(link: Path) -> None:
    """Watch the process named in the environment, if any; once it is gone, remove the folder `link` (traces of what
    people wrote lie in it) and end this process group."""
    pid = os.environ.get(VARIABLE)
    if pid is None or not hasattr(os, "pidfd_open"):  # Linux only, as vLLM is
        return
    threading.Thread(target=_watch, args=(int(pid), link), name="specdrift-orphan", daemon=True).start()


def _watch(pid: int, link: Path) -> None:
    try:
        gone = os.pidfd_open(pid)
        select.select([gone], [], [])
    except ProcessLookupError:
        pass  # it is gone already
    shutil.rmtree(link, ignore_errors=True)
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)
