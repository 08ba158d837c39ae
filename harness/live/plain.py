"""A step that verifies no draft is a plain step: prepared and sampled as by an engine without a drafter.

vLLM prepares every step of an engine with a drafter for rejection sampling, also where no request has a draft: indices
of no draft tokens, then a rejection sampler that has nothing to judge. What it samples is the same.
"""

from __future__ import annotations

from typing import Any


def keep_plain(runner: Any) -> None:
    """Wraps `runner._prepare_inputs`, which asks for nothing but the speculative configuration whether to do so."""
    prepare = runner._prepare_inputs

    def prepared(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        if scheduler_output.scheduled_spec_decode_tokens:
            return prepare(scheduler_output, *args, **kwargs)
        speculative, runner.speculative_config = runner.speculative_config, None
        try:
            return prepare(scheduler_output, *args, **kwargs)
        finally:
            runner.speculative_config = speculative

    runner._prepare_inputs = prepared
