"""A drafter that rests: in a step that drafts nothing (K = 0), its pass over the step's tokens is put off.

vLLM runs the drafter's first pass at K = 0 too, because later drafts attend to the KV cache that it fills. But nobody
reads that cache before somebody drafts, and most requests end before that when K stays 0. So what the pass would read
is put aside, and one pass over all of it is made when a step drafts again or `MOST_TOKENS` wait. What was drafted is
the same as ever: an EAGLE-3 head has one layer, whose keys and values depend on each position's own input alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.live.link import RESTS_KEY

MOST_TOKENS = 1024
"""Put aside at most: it bounds the memory (hidden states of three layers each) and how long the pass takes."""


@dataclass(frozen=True, slots=True)
class _Step:
    """What the drafter's first pass of one engine step would have read; N tokens of R requests."""

    requests: list[str]
    lengths: torch.Tensor
    """int64[R]: tokens of each request."""
    held: torch.Tensor
    """int64[R]: how many of them hold; rejected drafts lie behind those."""
    after: torch.Tensor
    """int[N]: the token that follows each (a head reads that one beside the states of this)."""
    positions: torch.Tensor
    """int[N]."""
    hidden: torch.Tensor
    """[N, 3H]."""


@dataclass(frozen=True, slots=True)
class _Late:
    """What was put aside of the requests that still run, as one pass: N tokens, grouped by request, in order of
    position."""

    row: torch.Tensor
    """int64[N]: of the request in the batch at hand."""
    positions: torch.Tensor
    after: torch.Tensor
    hidden: torch.Tensor


def rests(runner: Any, vllm_config: Any) -> bool:
    """Whether this engine's drafter may. With prefix caching, a request's cache outlives it and must be complete;
    layers with a recurrent state count drafts of their own; on a GPU this was never tried."""
    speculative, cache = vllm_config.speculative_config, vllm_config.cache_config
    return (
        vllm_config.additional_config.get(RESTS_KEY, True)
        and speculative is not None
        and speculative.method == "eagle3"
        and not cache.enable_prefix_caching
        and not vllm_config.model_config.uses_mrope
        and not vllm_config.model_config.is_hybrid
        and runner.device.type == "cpu"
    )


class RestingDrafter:
    """Wraps `runner.drafter.propose`, and `runner.propose_draft_token_ids`, which lays out what that one reads. Never
    raises into the engine of its own accord."""

    def __init__(self, runner: Any, most: int = MOST_TOKENS) -> None:
        self._runner = runner
        self._drafter = runner.drafter
        self._propose = runner.drafter.propose
        self._lay_out = runner.propose_draft_token_ids
        self._most = min(most, self._drafter.max_num_tokens)
        self._steps: list[_Step] = []
        self._tokens = 0
        self.rested = self.passes = 0
        """Steps put off, and passes that made up for them."""
        self.error = ""
        """The first failure of this class itself; the drafter then never rests again."""
        runner.drafter.propose = self.propose
        runner.propose_draft_token_ids = self.step

    def step(self, *args: Any) -> Any:
        """As vLLM's `propose_draft_token_ids`. Where every request has decoded one token and none drafts, what is put
        aside needs no laying out."""
        if not self.error:
            try:
                if self._rest_decode(*args):
                    return self._nothing(len(self._steps[-1].requests))
            except Exception as error:
                self._give_up(error)
        return self._lay_out(*args)

    def propose(self, *args: Any, **call: Any) -> torch.Tensor:
        """As vLLM's `propose`, which is called by keywords."""
        if not args and not self.error:
            try:
                if self._rest(call):
                    return self._nothing(call["common_attn_metadata"].num_reqs)
            except Exception as error:
                self._give_up(error)
        return self._propose(*args, **call)

    def _rest_decode(
        self,
        scheduler_output: Any,
        sampled: Any,
        sampling: Any,
        hidden: Any,
        sample_hidden: Any,
        aux: Sequence[torch.Tensor],
        *rest: Any,
    ) -> bool:
        """True when the pass of this step was put off. Arguments as vLLM's `propose_draft_token_ids` has them."""
        runner = self._runner
        requests, n = runner.input_batch.req_ids, scheduler_output.total_num_scheduled_tokens
        # One token each: none has a draft to verify. Discarded is what is sampled inside a prompt.
        if (
            scheduler_output.num_spec_tokens_to_schedule
            or n != len(requests)
            or self._tokens + n > self._most
            or runner.discard_request_mask.np[:n].any()
        ):
            return False
        ones = torch.ones(n, dtype=torch.int64)
        fused = torch.cat([layer[:n] for layer in aux], -1)
        after = sampled.view(n).to(runner.input_ids.gpu.dtype)
        self._put(_Step(list(requests), ones, ones, after, runner.positions[:n].clone(), fused))
        return True

    def _rest(self, call: dict[str, Any]) -> bool:
        """True when the pass of this step was put off; whatever waits is made up for where it no longer may."""
        tokens = len(call["target_token_ids"])
        rest = call["num_speculative_tokens"] == 0 and tokens <= self._most
        if self._steps and (not rest or self._tokens + tokens > self._most):
            late = gathered(self._steps, self._requests(call))
            self._forget()
            if late is not None:
                self._propose(
                    **call | late_call(late, call["common_attn_metadata"], self._drafter.block_size)
                )
                self.passes += 1
        if rest:
            self._put(_step(call, self._requests(call)))
        return rest

    def _put(self, step: _Step) -> None:
        self._steps.append(step)
        self._tokens += len(step.after)
        self.rested += 1

    def _nothing(self, requests: int) -> torch.Tensor:
        """What vLLM's `propose` leaves and returns at K = 0."""
        self._drafter.num_speculative_tokens = 0
        self._drafter._last_draft_probs = None
        return torch.empty(requests, 0, dtype=torch.int64)

    def _requests(self, call: dict[str, Any]) -> list[str]:
        return self._runner.input_batch.req_ids[: call["common_attn_metadata"].num_reqs]

    def _give_up(self, error: Exception) -> None:
        """Drafts are worth less than the engine's step."""
        self.error = f"{type(error).__name__}: {error}"
        self._forget()

    def _forget(self) -> None:
        self._steps, self._tokens = [], 0


def _step(call: dict[str, Any], requests: list[str]) -> _Step:
    starts = call["common_attn_metadata"].query_start_loc_cpu
    last = call["token_indices_to_sample"]
    last = starts[1:] - 1 if last is None else last
    after = call["target_token_ids"].roll(-1)
    after[last.long()] = call["next_token_ids"].to(after.dtype)
    return _Step(
        list(requests),
        starts.diff().long(),
        last.long() + 1 - starts[:-1],
        after,
        call["target_positions"].clone(),
        call["target_hidden_states"],  # vLLM makes it anew each step
    )


def gathered(steps: list[_Step], requests: list[str]) -> _Late | None:
    """All that waits of `requests`, or None. A position that came twice (preempted, or after a rejected draft) is
    taken as it came last; requests that are not there have ended, or will be computed anew."""
    row = _rows(steps, requests)
    positions = torch.cat([step.positions for step in steps]).long()
    order = torch.argsort(row * (int(positions.max()) + 1) + positions, stable=True)
    same = (row[order[1:]] == row[order[:-1]]) & (positions[order[1:]] == positions[order[:-1]])
    latest = torch.cat([~same, torch.ones(1, dtype=torch.bool)])
    order = order[latest & (row[order] >= 0)]
    if not len(order):
        return None
    after = torch.cat([step.after for step in steps])
    hidden = torch.cat([step.hidden for step in steps])
    return _Late(row[order], positions[order], after[order], hidden[order])


def _rows(steps: list[_Step], requests: list[str]) -> torch.Tensor:
    """int64[N]: the row of each token's request now; -1 for rejected drafts and requests that are gone. All steps at
    once: there may be a thousand, and the engine waits."""
    now = {request: row for row, request in enumerate(requests)}
    row = torch.tensor([now.get(request, -1) for step in steps for request in step.requests])
    lengths = torch.cat([step.lengths for step in steps])
    held = torch.cat([step.held for step in steps])
    begins = lengths.cumsum(0) - lengths
    place = torch.arange(int(lengths.sum())) - begins.repeat_interleave(lengths)
    return torch.where(place < held.repeat_interleave(lengths), row.repeat_interleave(lengths), -1)


def late_call(late: _Late, now: Any, block_size: int) -> dict[str, Any]:
    """The arguments of `propose` that make it one pass over `late`, without a draft. `now`: the batch at hand."""
    which, lengths = late.row.unique_consecutive(return_counts=True)
    starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    last = starts[1:] - 1
    blocks = now.block_table_tensor[which]
    place = torch.arange(len(which)).repeat_interleave(lengths)
    slots = blocks[place, late.positions // block_size].long() * block_size + late.positions % block_size
    ends = (late.positions[last] + 1).to(now.seq_lens.dtype)
    metadata = type(now)(
        query_start_loc=starts.to(now.query_start_loc.dtype),
        query_start_loc_cpu=starts.to(now.query_start_loc_cpu.dtype),
        seq_lens=ends,
        num_reqs=len(which),
        num_actual_tokens=len(late.row),
        max_query_len=int(lengths.max()),
        max_seq_len=int(ends.max()),
        block_table_tensor=blocks,
        slot_mapping=slots.to(now.slot_mapping.dtype),
    )
    return {
        "num_speculative_tokens": 0,
        "target_token_ids": late.after.roll(1),  # vLLM rolls it back and puts `next_token_ids` at the ends
        "target_positions": late.positions,
        "target_hidden_states": late.hidden,
        "next_token_ids": late.after[last],
        "token_indices_to_sample": last.to(now.query_start_loc.dtype),
        "common_attn_metadata": metadata,
        "mm_embed_inputs": None,
        "num_rejected_tokens_gpu": None,
    }
