"""The engine's iteration, compiled: schedule a step, price it, commit it, again until the next event.

It follows vLLM V1: one token budget for decode and chunked prefill, running requests first, then
the waiting queue; a running request that finds no block preempts the last admitted one, which will
recompute. Under asynchronous scheduling a step is scheduled while the one before it runs, so an
arrival waits for the step after next and a finished request keeps its seat for one step more.

`advance` gives the same result for any stopping points: it only ever runs whole steps that start
before the horizon, and every random draw is addressed by request and position, not by order.
"""

from __future__ import annotations

import math

from numba import njit

from harness.latency.compiled import CompiledLatency, step_seconds
from harness.latency.shape import (
    DECODE_SEQS,
    DRAFT_PASSES,
    DRAFTER_LOADED,
    EXPERT_TOKENS,
    KV_MAX,
    KV_SQ,
    KV_SUM,
    PREFILL_KV,
    PREFILL_PAIRS,
    PREFILL_SEQS,
    PREFILL_TOKENS,
    QUERY_TOKENS,
    SAMPLED_ROWS,
)
from harness.sim.acceptance import accepted_drafts
from harness.sim.kv import (
    available_blocks,
    cached_entries,
    hold_entries,
    keep_blocks,
    reclaim_blocks,
    release,
    share_prompt,
    take_blocks,
    unheld_entries,
)
from harness.sim.state import FINISHED, State


@njit(cache=True)
def advance(s: State, lat: CompiledLatency, horizon: float, max_steps: int) -> int:
    """Run whole steps that start before `horizon`, at most `max_steps`; return how many ran.

    Stops early when there is nothing to run or a record buffer is nearly full.
    """
    ran = 0
    while ran < max_steps and s.reg[0].clock < horizon and has_room(s):
        if not plan_step(s):
            break
        commit_step(s, step_seconds(lat, s.x) * s.reg[0].slowdown)
        ran += 1
    return ran


@njit(cache=True)
def has_room(s: State) -> bool:
    """Whether the record buffers can take one more step, whatever it ends."""
    r = s.reg[0]
    return r.steps < len(s.steps) and r.done + r.max_seqs <= len(s.done)


# --- schedule ---------------------------------------------------------------------------------


@njit(cache=True)
def plan_step(s: State) -> bool:
    """Decide what the next step computes and describe it in `s.x`; False when there is nothing to run."""
    r = s.reg[0]
    if r.running == 0 or r.async_scheduling == 0:
        r.seen_until = r.clock
        _drop_ended(s)
    budget = _schedule_running(s)
    if budget >= 0:
        _schedule_waiting(s, budget)
    _drop_ended(s)
    if _describe(s):
        return True
    # all seats were held by requests that had just ended: with those gone, look once more
    r.seen_until = r.clock
    if r.waiting > 0:
        _schedule_waiting(s, r.max_tokens)
    return _describe(s)


@njit(cache=True)
def _schedule_running(s: State) -> int:
    """Give rows and blocks to running requests; return the token budget left, -1 if one was preempted."""
    r = s.reg[0]
    budget = r.max_tokens
    preempted = False
    i = 0
    while i < r.running:
        req = s.slots[s.running[i]]
        req.rows = 0
        if req.generated < req.output:
            rows = min(req.target - req.computed, budget) if req.computed < req.target else 1 + r.k_drafted
            if 0 < rows <= budget:
                evicted_self = False
                while not evicted_self and _blocks_needed(s, s.running[i], rows) > available_blocks(s):
                    evicted_self = r.running - 1 == i
                    _preempt_last(s)
                    preempted = True
                if evicted_self:
                    break
                _grow(s, s.running[i], rows)
                budget -= rows
        i += 1
    return -1 if preempted else budget


@njit(cache=True)
def _schedule_waiting(s: State, budget: int) -> None:
    r = s.reg[0]
    while r.waiting > 0 and budget > 0 and r.running < r.max_seqs:
        slot = s.waiting[r.waiting_head]
        req = s.slots[slot]
        if req.arrival > r.seen_until:
            break
        entries = cached_entries(s, slot) if r.entry_blocks > 0 else 0
        hit = _usable_hit(s, slot, entries)
        rows = min(req.target - hit, budget)
        held = entries * r.entry_blocks + req.kept
        need = _ceil_div(hit + rows + _look_ahead(s), r.block_size) - held
        fit = _ceil_div(req.target, r.block_size) - held if r.reserve_prompt else need
        pool = available_blocks(s) - unheld_entries(s, slot, entries) * r.entry_blocks - req.kept
        if max(need, fit) > pool:
            break
        _admit(s, slot, entries, hit)
        _grow(s, slot, rows)
        budget -= rows


@njit(cache=True)
def _admit(s: State, slot: int, entries: int, hit: int) -> None:
    r = s.reg[0]
    req = s.slots[slot]
    r.waiting_head = (r.waiting_head + 1) % len(s.waiting)
    r.waiting -= 1
    s.running[r.running] = slot
    r.running += 1
    hold_entries(s, slot, entries)
    if req.kept > 0:
        reclaim_blocks(s, slot)
    req.computed = hit
    if math.isnan(req.scheduled):
        req.scheduled = r.clock
        req.cached = hit


@njit(cache=True)
def _usable_hit(s: State, slot: int, entries: int) -> int:
    """Cached tokens it can skip: whole blocks, and at least the last token is computed again."""
    r = s.reg[0]
    hit = (entries * r.entry_blocks + s.slots[slot].kept) * r.block_size
    last = (s.slots[slot].target - 1) // r.block_size * r.block_size
    return min(hit, last)


@njit(cache=True)
def _grow(s: State, slot: int, rows: int) -> None:
    req = s.slots[slot]
    n = max(0, _blocks_needed(s, slot, rows))
    take_blocks(s, n)
    req.blocks += n
    req.rows = rows


@njit(cache=True)
def _blocks_needed(s: State, slot: int, rows: int) -> int:
    r = s.reg[0]
    req = s.slots[slot]
    total = _ceil_div(req.computed + rows + _look_ahead(s), r.block_size)
    return total - req.blocks - req.shared * r.entry_blocks


@njit(cache=True)
def _look_ahead(s: State) -> int:
    """Slots kept for the drafts of the next step."""
    r = s.reg[0]
    return r.k_limit if r.drafter_loaded else 0


@njit(cache=True)
def _preempt_last(s: State) -> None:
    """Send the last admitted request back to the head of the queue; it will recompute its tokens."""
    r = s.reg[0]
    r.running -= 1
    slot = s.running[r.running]
    req = s.slots[slot]
    if req.generated >= req.output:  # it had ended; its seat was all that was left of it
        release(s, slot)
        _free_slot(s, slot)
        return
    if r.reuse_preempted:
        keep_blocks(s, slot)
    release(s, slot)
    req.rows = 0
    req.computed = 0
    req.target = req.prompt + req.generated
    req.preemptions += 1
    r.preempted += 1
    r.waiting_head = (r.waiting_head - 1) % len(s.waiting)
    s.waiting[r.waiting_head] = slot
    r.waiting += 1


@njit(cache=True)
def preempt_all(s: State) -> None:
    """Take every running request off the engine; order of admission is kept."""
    while s.reg[0].running > 0:
        _preempt_last(s)


@njit(cache=True)
def _drop_ended(s: State) -> None:
    """Give up the seats and blocks of requests that ended with the step before."""
    r = s.reg[0]
    kept = 0
    for i in range(r.running):
        slot = s.running[i]
        if s.slots[slot].generated >= s.slots[slot].output:
            release(s, slot)
            _free_slot(s, slot)
        else:
            s.running[kept] = slot
            kept += 1
    r.running = kept


@njit(cache=True)
def _free_slot(s: State, slot: int) -> None:
    r = s.reg[0]
    s.free_slots[r.free_slots] = slot
    r.free_slots += 1


@njit(cache=True)
def _describe(s: State) -> bool:
    """Fill the step shape from the scheduled rows; False when no row is scheduled."""
    r = s.reg[0]
    s.x[:] = 0.0
    decode = 0
    ends = 0
    chunks = 0
    context = 0
    for i in range(r.running):
        req = s.slots[s.running[i]]
        context += req.computed
        if req.rows == 0:
            continue
        if req.computed < req.target:
            chunks += 1
            if req.computed + req.rows == req.target:
                ends += 1
            s.x[PREFILL_TOKENS] += req.rows
            s.x[PREFILL_KV] += req.computed
            s.x[PREFILL_PAIRS] += req.rows * req.computed + 0.5 * req.rows * (req.rows + 1)
        else:
            decode += 1
            s.x[KV_SUM] += req.computed
            s.x[KV_SQ] += float(req.computed) * req.computed
            s.x[KV_MAX] = max(s.x[KV_MAX], req.computed)
    r.batch = decode
    r.context_tokens = context
    r.k_verify = r.k_drafted if decode > 0 else 0
    s.x[DECODE_SEQS] = decode
    s.x[QUERY_TOKENS] = 1 + r.k_verify
    s.x[PREFILL_SEQS] = chunks
    s.x[SAMPLED_ROWS] = decode * (1 + r.k_verify) + ends
    s.x[DRAFTER_LOADED] = r.drafter_loaded
    s.x[DRAFT_PASSES] = s.k_by_batch[min(decode + ends, r.max_seqs)] if r.drafter_loaded else 0
    s.x[EXPERT_TOKENS] = 0.0
    return decode + chunks > 0


# --- commit -----------------------------------------------------------------------------------


@njit(cache=True)
def commit_step(s: State, seconds: float) -> None:
    """Account for the planned step: tokens, acceptance, ends, and its record."""
    r = s.reg[0]
    row = s.steps[r.steps]
    row.start = r.clock
    row.seconds = seconds
    if r.async_scheduling:
        r.seen_until = r.clock
    r.clock += seconds
    output = 0
    offered = 0
    accepted = 0
    for i in range(r.running):
        slot = s.running[i]
        req = s.slots[slot]
        if req.rows == 0:
            continue
        before = req.generated
        if req.computed < req.target:
            _commit_prefill(s, slot)
        else:
            hits = _commit_decode(s, slot)
            accepted += hits
            offered += min(hits + 1, r.k_verify)
        output += req.generated - before
        if req.generated >= req.output:
            _end(s, slot)
    row.batch = r.batch
    row.k = r.k_verify
    row.prefill_tokens = int(s.x[PREFILL_TOKENS])
    row.output_tokens = output
    row.offered = offered
    row.accepted = accepted
    row.running = r.running
    row.waiting = r.waiting
    row.kv_blocks = r.total_blocks - available_blocks(s)
    row.drafter_version = r.drafter_version
    row.verifier_version = r.verifier_version
    r.steps += 1
    r.k_drafted = int(s.x[DRAFT_PASSES])


@njit(cache=True)
def _commit_prefill(s: State, slot: int) -> None:
    r = s.reg[0]
    req = s.slots[slot]
    req.computed += req.rows
    if req.computed == req.target:
        req.generated += 1
        if math.isnan(req.first_token):
            req.first_token = r.clock
            if r.entry_blocks > 0:
                share_prompt(s, slot)


@njit(cache=True)
def _commit_decode(s: State, slot: int) -> int:
    """Draw how many drafts the target accepts, count what was revealed, and move the request on."""
    r = s.reg[0]
    req = s.slots[slot]
    k = r.k_verify
    hits = 0
    if k > 0:
        if r.external:
            hits = min(s.accept_in[slot], k)
        else:
            hits = accepted_drafts(
                r.acceptance_key, req.request_id, req.generated, k, s.logits, req.domain, req.latent
            )
        for i in range(hits):
            s.offered[req.domain, req.tenant, i] += 1
            s.accepted[req.domain, req.tenant, i] += 1
        if hits < k:
            s.offered[req.domain, req.tenant, hits] += 1
        req.verify_steps += 1
        req.drafts += k
        req.accepted += hits
    tokens = min(1 + hits, req.output - req.generated)
    req.generated += tokens
    req.computed += tokens
    return hits


@njit(cache=True)
def _end(s: State, slot: int) -> None:
    """Record the end of a request; its seat is given up when the next step is scheduled."""
    r = s.reg[0]
    req = s.slots[slot]
    req.finish = r.clock
    req.status = FINISHED
    ttft = req.first_token - req.arrival
    tpot = (req.finish - req.first_token) / max(req.generated - 1, 1)
    req.slo_met = 1 if ttft <= s.slo[req.tenant, 0] and tpot <= s.slo[req.tenant, 1] else 0
    s.done[r.done] = req
    r.done += 1
    r.live -= 1


@njit(cache=True)
def _ceil_div(a: int, b: int) -> int:
    return (a + b - 1) // b
