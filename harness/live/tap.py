"""The trace tap: what each verify pass leaves behind, from the model runner into the ring of traces.

Of the requests that are traced (a share of all, never those that opted out). Hidden states go as bfloat16: the fused
ones that an EAGLE-3 head is fed (an independent drafter is fed none), and the last one, from which the learner
recomputes the target's logits. Small steps are told together, `TOGETHER` tokens or more a record: packing a record
costs the engine the same for one token as for many. A record that finds no room is dropped and counted; its requests
are then given up, since a trace with a hole teaches nothing.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.live.labels import read_labels
from harness.live.link import Link

TRACE_BEGIN, TRACE_ROWS, TRACE_END = range(1, 4)
"""Kinds of records in traces.ring. An end is the number of the request, negative when it was given up."""

ROW = np.dtype(
    [
        ("number", "i8"),
        ("start", "i4"),  # position of the first token computed
        ("tokens", "i4"),  # tokens computed
        ("drafts", "i4"),  # of them drafts, the last ones
        ("sampled", "i4"),  # tokens sampled: accepted drafts and one more; 0 inside a prompt
        ("drafter_version", "i4"),
        ("verifier_version", "i4"),
    ]
)


TOGETHER = 128
"""Tokens after which a record is written (of a width of 4,096: 4 MB); earlier where a request in it ends."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request that is traced."""

    number: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one step leaves of the requests that are traced: R of them, N tokens. On the engine's device."""

    requests: list[str]
    rows: list[tuple[int, int, int, int, int, int]]
    """[R] as in `ROW`, without `sampled`."""
    sampled: list[tuple[int, bool]]
    """[R]: the row of `outputs`, and whether what was sampled counts (not inside a prompt)."""
    outputs: torch.Tensor | list[list[int]]
    """Sampled tokens of the whole batch; -1 stands for none."""
    tokens: torch.Tensor
    """int[N]."""
    states: list[torch.Tensor]
    """[N, H] each: the fused layers that a head is fed (three; none for an independent drafter), the last one."""

    def after(self) -> list[list[int]]:
        """Of each request, the tokens sampled."""
        outputs = self.outputs.tolist() if isinstance(self.outputs, torch.Tensor) else self.outputs
        return [[t for t in outputs[i] if t >= 0] if counts else [] for i, counts in self.sampled]


class Tap:
    """Wraps `runner.propose_draft_token_ids`, which sees all of a step. Never raises into the engine."""

    def __init__(self, runner: Any, link: Link, together: int = TOGETHER) -> None:
        self._runner = runner
        self._link = link
        self._together = together
        self._seen: list[_Seen] = []
        self._tokens = 0
        """In what was seen."""
        self._wanted: dict[str, Wanted | None] = {}
        self._numbered = 0
        self._ends: deque[int] = deque()
        """Ends not told yet: untold, what came of the request before would wait for more in the trainer."""
        self.error = ""
        """The first failure of the tap itself; it stops tapping, the server goes on."""
        inner = runner.propose_draft_token_ids

        def propose(*args: Any, **kwargs: Any) -> Any:
            self.note(*args)  # first: the drafter lays out its later passes in this step's metadata
            return inner(*args, **kwargs)

        runner.propose_draft_token_ids = propose

    def note(
        self,
        scheduler_output: Any,
        sampled_token_ids: Any,
        sampling_metadata: Any,
        hidden_states: torch.Tensor,
        sample_hidden_states: torch.Tensor,
        aux_hidden_states: Sequence[torch.Tensor] | None,
        spec_decode_metadata: Any,
        common_attn_metadata: Any,
        *rest: Any,
    ) -> None:
        """Arguments as vLLM's `propose_draft_token_ids` has them."""
        if self.error:
            return
        with self._guarded():
            starts = common_attn_metadata.query_start_loc_cpu.tolist()
            counts = spec_decode_metadata.num_draft_tokens if spec_decode_metadata is not None else None
            self._see(starts, counts, sampled_token_ids, hidden_states, aux_hidden_states or ())

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """The engine's step is worth more than any trace."""
        try:
            yield
        except Exception as error:
            self._seen, self._tokens = [], 0
            self.error = f"{type(error).__name__}: {error}"

    def ended(self, request_ids: Sequence[str]) -> None:
        """These requests are over."""
        if any(self._wanted.get(request_id) is not None for request_id in request_ids):
            with self._guarded():
                self._tell_seen()
        for request_id in request_ids:
            wanted = self._wanted.pop(request_id, None)
            if wanted is not None:
                self._ends.append(wanted.number)
        self._tell_ends()

    # --- one step ---

    def _see(
        self, starts: list[int], counts: Any, sampled: Any, hidden: torch.Tensor, aux: Sequence[torch.Tensor]
    ) -> None:
        self._tell_ends()
        batch = self._runner.input_batch
        requests, rows, which = [], [], []
        where: list[int] = []
        drafter = int(self._link.control.get("drafter_version"))
        verifier = int(self._link.control.get("verifier_version"))
        for i, request_id in enumerate(batch.req_ids[: len(starts) - 1]):
            wanted = self._of(request_id)
            if wanted is None:
                continue
            computed, n = int(batch.num_computed_tokens_cpu[i]), starts[i + 1] - starts[i]
            requests.append(request_id)
            rows.append(
                (wanted.number, computed, n, int(counts[i]) if counts is not None else 0, drafter, verifier)
            )
            which.append((i, computed + n >= wanted.prompt_tokens))
            where += range(starts[i], starts[i + 1])
        if not rows:
            return
        # vLLM trims lists of sampled tokens where a text ends, and its buffers serve the next step.
        outputs = sampled if isinstance(sampled, torch.Tensor) else [list(row) for row in sampled]
        at = torch.tensor(where).to(hidden.device)
        states = [layer[at] for layer in (*aux, hidden)]
        self._seen.append(_Seen(requests, rows, which, outputs, self._runner.input_ids.gpu[at], states))
        self._tokens += len(where)
        if self._tokens >= self._together:
            self._tell_seen()

    def _tell_seen(self) -> None:
        """One record of all that was seen since the last."""
        seen, self._seen, self._tokens = self._seen, [], 0
        if not seen:
            return
        after = [ids for one in seen for ids in one.after()]
        told = [row for one in seen for row in one.rows]
        rows = [(*row[:4], len(ids), *row[4:]) for row, ids in zip(told, after, strict=True)]
        tokens = torch.cat([one.tokens for one in seen]).to(torch.int32).cpu().numpy()
        sampled = np.array([t for ids in after for t in ids], np.int32)
        states = [_bits(torch.cat(layers)) for layers in zip(*(one.states for one in seen), strict=True)]
        head = np.array([len(rows), len(tokens), len(sampled), states[-1].shape[1]], np.int32)
        if not self._link.traces.put(TRACE_ROWS, head, np.array(rows, ROW), tokens, sampled, *states):
            for request_id in {request_id: None for one in seen for request_id in one.requests}:
                wanted, self._wanted[request_id] = self._wanted[request_id], None
                assert wanted is not None
                self._ends.append(-wanted.number)

    def _tell_ends(self) -> None:
        while self._ends and self._link.traces.has_room(8):
            self._link.traces.put(TRACE_END, np.int64(self._ends.popleft()).tobytes())

    def _of(self, request_id: str) -> Wanted | None:
        """Decided when a request is first seen."""
        if request_id not in self._wanted:
            self._wanted[request_id] = self._begin(request_id)
        return self._wanted[request_id]

    def _begin(self, request_id: str) -> Wanted | None:
        state = self._runner.requests[request_id]
        sampling = state.sampling_params
        labels = read_labels(sampling.extra_args if sampling is not None else None)
        share = zlib.crc32(request_id.encode()) / 2**32
        if not labels.trace or share >= self._link.control.get("sample"):
            return None
        self._numbered += 1
        wanted = Wanted(self._numbered, int(state.num_prompt_tokens))
        content = {
            "number": wanted.number,
            "prompt_tokens": wanted.prompt_tokens,
            "request_id": labels.request_id,
            "domain": labels.domain,
            "tenant": labels.tenant,
        }
        return wanted if self._link.traces.put(TRACE_BEGIN, json.dumps(content).encode()) else None


def _bits(states: torch.Tensor) -> np.ndarray:
    """bfloat16 as int16[tokens, width]: NumPy has no bfloat16."""
    return states.to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy()
