"""Provenance says what is there and never fails for what is not."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from harness.provenance import git_state, package_version, provenance
from harness.runlog import SCHEMA_VERSION


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_it_is_plain_data_with_real_versions() -> None:
    found = json.loads(json.dumps(provenance()))
    assert found["packages"]["numpy"] == np.__version__
    assert found["run_log_schema"] == SCHEMA_VERSION
    assert found["host"]["cpus"] == os.cpu_count()
    assert found["time_utc"].endswith("+00:00")


def test_a_package_that_is_not_installed_is_none() -> None:
    assert package_version("no-such-distribution-of-ours") is None


def test_git_state_follows_the_checkout(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) is None
    (tmp_path / "a.py").write_text("1\n")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-q", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "a.py").write_text("2\n")
    assert git_state(tmp_path) == {"commit": commit, "dirty": True}


def test_an_untracked_folder_inside_another_checkout_has_no_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "theirs")
    (tmp_path / "env" / "harness").mkdir(parents=True)
    assert git_state(tmp_path / "env" / "harness") is None


def test_without_git_or_checkout_it_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_state(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) is None
    assert provenance()["git"] is None
