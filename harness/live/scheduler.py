"""The scheduler in the server: vLLM's own, with K from the plan and a record of every step.

`--scheduler-cls harness.live.scheduler.LiveScheduler` (or `LiveAsyncScheduler` under asynchronous scheduling).
Nothing is decided here: before each step the K of each batch size is read from the link, and what the step did is
written to it. Times are `time.monotonic`, which all processes of a machine share.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from harness.live.labels import read_labels
from harness.live.link import BEGIN, END, FLIP, STEP, STEP_ROW, VERIFIED, VERIFY_ROW, Link


@dataclass(slots=True)
class Life:
    """What is known of one request on this server. Times: seconds of the monotonic clock, NaN before they are."""

    number: int
    arrival: float
    scheduled: float = math.nan
    first_token: float = math.nan
    cached: int = 0
    verify_steps: int = 0
    drafts: int = 0
    accepted: int = 0


@dataclass(frozen=True, slots=True)
class Planned:
    """A scheduled step, until its output is there."""

    start: float
    decoding: dict[str, int]
    """Drafts to verify of each request that decodes."""
    prefill_tokens: int
    context_tokens: int
    drafted: int
    """Draft tokens per sequence to propose at its end."""


class Recording:
    """Mixed in before a vLLM scheduler. Without a link in the configuration it changes nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._link = Link.of_config(self.vllm_config.additional_config)  # type: ignore[attr-defined]
        self._seen_sequence = -1
        self._seen_verifier = 0
        self._planned: deque[Planned | None] = deque()
        self._lives: dict[str, Life] = {}
        self._numbered = 0
        self._last_end = 0.0

    # --- what vLLM calls ---

    def add_request(self, request: Any) -> None:
        super().add_request(request)  # type: ignore[misc]
        if self._link is None or request.request_id in self._lives:
            return
        self._numbered += 1
        life = Life(self._numbered, _monotonic(request.arrival_time))
        self._lives[request.request_id] = life
        sampling = request.sampling_params
        labels = read_labels(sampling.extra_args if sampling is not None else None)
        self._tell(
            BEGIN,
            number=life.number,
            arrival=life.arrival,
            prompt_tokens=request.num_prompt_tokens,
            request_id=labels.request_id,
            domain=labels.domain,
            tenant=labels.tenant,
        )

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        if self._link is None:
            return super().schedule(*args, **kwargs)  # type: ignore[misc]
        self._follow_control()
        start = time.monotonic()
        output = super().schedule(*args, **kwargs)  # type: ignore[misc]
        if flip := int(self._link.control.get("flip")):
            setattr(output, FLIP, flip)
        self._planned.append(self._plan(output, start) if output.total_num_scheduled_tokens else None)
        return output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        planned = self._planned.popleft() if self._link is not None and self._planned else None
        if planned is None:
            return super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]
        ids = list(scheduler_output.num_scheduled_tokens)
        requests = {i: self.requests[i] for i in ids if i in self.requests}  # type: ignore[attr-defined]
        before = {i: r.num_output_tokens for i, r in requests.items()}
        outputs = super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]
        self._record(planned, requests, before, model_runner_output)
        return outputs

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:
        """Aborts and errors; requests that end by themselves are seen in `update_from_output`."""
        finished = super().finish_requests(request_ids, finished_status)  # type: ignore[misc]
        if self._link is not None:
            gone = [i for i in self._lives if i not in self.requests]  # type: ignore[attr-defined]
            for request_id in gone:
                self._end(request_id, None, time.monotonic())
        return finished

    # --- the plan ---

    def _follow_control(self) -> None:
        assert self._link is not None
        control = self._link.control
        if control.sequence != self._seen_sequence and getattr(self, "dynamic_sd_lookup", None) is not None:
            found = control.read_schedule()
            if found is not None:
                self._seen_sequence, table = found
                size, most = len(self.dynamic_sd_lookup), self.num_spec_tokens  # type: ignore[attr-defined, has-type]
                self.dynamic_sd_lookup = np.minimum(table[:size], most).tolist()
        verifier = int(control.get("verifier_version"))
        if verifier != self._seen_verifier:
            self._seen_verifier = verifier
            self.reset_prefix_cache(bool(control.get("kv_invalid")))  # type: ignore[attr-defined]

    # --- the record ---

    def _plan(self, output: Any, start: float) -> Planned:
        drafts = output.scheduled_spec_decode_tokens
        decoding: dict[str, int] = {}
        prefill = context = 0
        for request_id, tokens in output.num_scheduled_tokens.items():
            request = self.requests[request_id]  # type: ignore[attr-defined]
            life = self._lives.get(request_id)
            k = len(drafts.get(request_id, ()))
            computed = request.num_computed_tokens - tokens  # already moved on by the scheduler
            if life is not None and math.isnan(life.scheduled):
                life.scheduled, life.cached = start, computed
            if computed >= request.num_prompt_tokens and tokens == 1 + k:
                decoding[request_id] = k
                context += computed
            else:
                prefill += tokens
        return Planned(start, decoding, prefill, context, output.num_spec_tokens_to_schedule)

    def _record(
        self, planned: Planned, requests: dict[str, Any], before: dict[str, int], result: Any
    ) -> None:
        assert self._link is not None
        end = time.monotonic()
        begin = max(planned.start, self._last_end)
        self._last_end = end
        produced = 0
        verified: list[tuple[int, int, int, int, int]] = []
        ended = []
        version = int(self._link.control.get("drafter_version"))
        for request_id, request in requests.items():
            life = self._lives.get(request_id)
            gained = request.num_output_tokens - before[request_id]
            produced += gained
            if life is None:
                continue
            if gained and math.isnan(life.first_token):
                life.first_token = end
            k = planned.decoding.get(request_id, 0)
            sampled = _sampled(result, request_id)
            if k and sampled:
                accepted = max(0, len(sampled) - 1)
                life.verify_steps += 1
                life.drafts += k
                life.accepted += accepted
                verified.append((life.number, before[request_id], k, accepted, version))
            if request.is_finished():
                ended.append((request_id, request))
        if verified:
            self._link.steps.put(VERIFIED, np.array(verified, VERIFY_ROW))
        self._link.steps.put(STEP, self._step_row(planned, begin, end, produced, verified))
        for request_id, request in ended:
            self._end(request_id, request, end)

    def _step_row(
        self,
        planned: Planned,
        begin: float,
        end: float,
        produced: int,
        verified: list[tuple[int, int, int, int, int]],
    ) -> np.ndarray:
        assert self._link is not None
        pool = self.kv_cache_manager.block_pool  # type: ignore[attr-defined]
        row = np.zeros(1, STEP_ROW)
        row[0] = (
            begin,
            end - begin,
            len(planned.decoding),
            max((k for _, _, k, _, _ in verified), default=0),
            planned.prefill_tokens,
            produced,
            sum(min(accepted + 1, k) for _, _, k, accepted, _ in verified),
            sum(accepted for _, _, _, accepted, _ in verified),
            len(self.running),  # type: ignore[attr-defined]
            len(self.waiting),  # type: ignore[attr-defined]
            pool.num_gpu_blocks - pool.get_num_free_blocks(),
            int(self._link.control.get("drafter_version")),
            int(self._link.control.get("verifier_version")),
            planned.context_tokens,
            pool.num_gpu_blocks,
            planned.drafted,
        )
        return row

    def _end(self, request_id: str, request: Any, at: float) -> None:
        """`request` is None for one that was aborted or failed."""
        life = self._lives.pop(request_id)
        self._tell(
            END,
            number=life.number,
            scheduled=life.scheduled,
            first_token=life.first_token,
            finish=at,
            output_tokens=request.num_output_tokens if request is not None else 0,
            cached_tokens=life.cached,
            preemptions=request.num_preemptions if request is not None else 0,
            verify_steps=life.verify_steps,
            draft_tokens=life.drafts,
            accepted_tokens=life.accepted,
            ok=request is not None,
        )

    def _tell(self, kind: int, **content: Any) -> None:
        assert self._link is not None
        self._link.steps.put(
            kind, json.dumps({k: None if v != v else v for k, v in content.items()}).encode()
        )


def _monotonic(wall: float) -> float:
    """The API server's stamp on the monotonic clock. When the scheduler first sees a request the step under way has
    already made it wait, and that wait is its own."""
    return wall - (time.time() - time.monotonic())


def _sampled(result: Any, request_id: str) -> list[int]:
    tokens = result.sampled_token_ids
    at = result.req_id_to_index.get(request_id)
    return tokens[at] if tokens and at is not None else []


class LiveScheduler(Recording, Scheduler):
    """For synchronous scheduling (always on a CPU)."""


class LiveAsyncScheduler(Recording, AsyncScheduler):
    """For asynchronous scheduling."""
