"""Steps without drafts are prepared as without a drafter, others as vLLM does."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

from harness.live.plain import keep_plain


class Runner:
    """vLLM's, as far as it asks itself whether to prepare for rejection sampling."""

    speculative_config = "eagle3"
    broken = False

    def _prepare_inputs(self, scheduler_output, num_scheduled_tokens):
        if self.broken:
            raise RuntimeError("no blocks")
        return self.speculative_config, num_scheduled_tokens


def test_only_steps_with_drafts_are_prepared_for_rejections():
    runner = Runner()
    keep_plain(runner)
    drafts = SimpleNamespace(scheduled_spec_decode_tokens={"a": [1, 2]})
    none = SimpleNamespace(scheduled_spec_decode_tokens={})
    assert runner._prepare_inputs(none, num_scheduled_tokens=[1]) == (None, [1])
    assert runner._prepare_inputs(drafts, [3]) == ("eagle3", [3])
    assert runner.speculative_config == "eagle3"
    runner.broken = True
    with pytest.raises(RuntimeError, match="no blocks"):
        runner._prepare_inputs(none, [1])
    assert runner.speculative_config == "eagle3", "what serves next still has its drafter"
