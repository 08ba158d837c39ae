"""Whether weights are at hand or can be had, without importing the Hugging Face libraries."""

from __future__ import annotations

import json
import os
import re
import threading
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path

PATIENCE = 3.0
"""Seconds that the hub has to answer."""
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_YES = ("1", "true", "yes", "on")


def is_repository(name: str) -> bool:
    """Whether `name` is the id of a repository, `owner/name`, rather than a path."""
    return bool(_REPOSITORY.fullmatch(name)) and not name.startswith(".") and not Path(name).exists()


def holds_model(folder: Path) -> bool:
    """Whether a folder has a configuration and all the weight files that it speaks of."""
    if not (folder / "config.json").is_file():
        return False
    for index in folder.glob("*.index.json"):
        try:
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, LookupError, AttributeError):
            return False
        return all((folder / name).is_file() for name in files)
    return any(path.is_file() for end in ("*.safetensors", "*.bin") for path in folder.glob(end))


def hub_cache() -> Path:
    """Where downloaded repositories lie."""
    if given := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(given).expanduser()
    return _home() / "hub"


def cached(repository: str) -> Path | None:
    """The snapshot that its main branch means, if it is in the cache, whole."""
    folder = hub_cache() / f"models--{repository.replace('/', '--')}"
    try:
        commit = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    found = folder / "snapshots" / commit
    return found if holds_model(found) else None


def is_cached(repository: str) -> bool:
    """Whether it need not be downloaded."""
    return cached(repository) is not None


def is_offline() -> bool:
    """Whether the user keeps these libraries from the network."""
    return any(
        os.environ.get(name, "").lower() in _YES for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def has_token() -> bool:
    """Whether downloads would carry a token. What it says is never read."""
    if os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"):
        return True
    return Path(os.environ.get("HF_TOKEN_PATH") or _home() / "token").expanduser().is_file()


def endpoint() -> str:
    """The hub, or the mirror that the user named."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def is_reachable() -> bool:
    """Whether the hub answers at all, through the user's proxy if there is one."""
    return _answers(endpoint())


@cache
def _answers(url: str) -> bool:
    heard: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE):
                heard.append(True)
        except urllib.error.HTTPError:  # any answer is one
            heard.append(True)
        except (OSError, ValueError):
            return

    # In a thread of its own, because looking up a name knows no time limit.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return bool(heard)


def _home() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or Path(base) / "huggingface").expanduser()


def local_folder(place: str) -> Path:
    """The folder of a model: `place` itself, or the snapshot of a repository, downloaded where it is not cached."""
    if not is_repository(place):
        return Path(place)
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(place, allow_patterns=["*.json", "*.safetensors", "*.bin", "*.model", "*.txt"])
    )
