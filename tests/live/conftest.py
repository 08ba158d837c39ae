"""What several tests of live mode need."""

from __future__ import annotations

import pytest


@pytest.fixture
def servable(monkeypatch):
    """A model that nothing is missing for, of a context of 512 tokens, on a CPU."""
    from harness.live import job as live_job
    from harness.live.models import ModelSpec

    spec = ModelSpec("m", "/no/target", "/no/head", "float32", 1, 512, 16, "cpu")
    monkeypatch.setattr(live_job, "model_spec", lambda name: spec)
    monkeypatch.setattr(live_job, "missing_parts", lambda spec: [])
