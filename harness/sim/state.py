"""The simulated engine's state as flat arrays, so that one compiled call can advance many steps.

Requests in flight live in *slots*; `running` and `waiting` hold slot numbers. All arrays are owned
by `harness.sim.engine.Engine`; the compiled functions in `kernel.py` and `kv.py` mutate them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from harness.latency.shape import FIELDS
from harness.sim.acceptance import MAX_K

SLOT = np.dtype(
    [
        # set on submission
        ("request_id", "i8"),
        ("arrival", "f8"),
        ("prompt", "i8"),
        ("output", "i8"),
        ("domain", "i8"),
        ("tenant", "i8"),
        ("latent", "f8"),
        ("hashes", "i8"),
        # kept by the scheduler
        ("computed", "i8"),  # tokens whose KV is held
        ("target", "i8"),  # tokens to compute before the next token can be sampled by a prefill
        ("generated", "i8"),
        ("rows", "i8"),  # tokens scheduled for it in the step under way
        ("blocks", "i8"),  # KV blocks only it holds
        ("shared", "i8"),  # prefix-cache entries it holds
        ("cached", "i8"),  # prompt tokens found in the prefix cache at first admission
        # while preempted: its computed blocks in the free queue, reusable until taken (see kv.py)
        ("kept", "i8"),
        ("behind", "i8"),  # other free blocks between its own and the next preempted request's
        ("older", "i8"),
        ("younger", "i8"),
        # its record
        ("scheduled", "f8"),
        ("first_token", "f8"),
        ("finish", "f8"),
        ("preemptions", "i8"),
        ("verify_steps", "i8"),
        ("drafts", "i8"),
        ("accepted", "i8"),
        ("slo_met", "i8"),
        ("status", "i8"),
    ]
)

FINISHED, UNFINISHED, REJECTED, FAILED = range(4)
STATUS_NAMES = ("finished", "unfinished", "rejected", "failed")

STEP = np.dtype(
    [
        ("start", "f8"),
        ("seconds", "f8"),
        ("batch", "i4"),
        ("k", "i4"),
        ("prefill_tokens", "i4"),
        ("output_tokens", "i4"),
        ("offered", "i4"),
        ("accepted", "i4"),
        ("running", "i4"),
        ("waiting", "i4"),
        ("kv_blocks", "i4"),
        ("drafter_version", "i4"),
        ("verifier_version", "i4"),
    ]
)
"""One row per engine step; the names are those of `contract.StepRecord`."""

ENTRY = np.dtype([("key", "i8"), ("refs", "i8"), ("prev", "i8"), ("next", "i8")])
"""One cached prefix block; evictable entries (refs 0) form a list from least to most recently used."""

REGISTER = np.dtype(
    [
        ("clock", "f8"),  # end of the last step
        ("seen_until", "f8"),  # arrivals up to here are visible to the next schedule
        ("slowdown", "f8"),  # factor on step time while a trainer shares the accelerator
        ("live", "i8"),  # requests submitted and not ended
        ("running", "i8"),
        ("waiting", "i8"),
        ("waiting_head", "i8"),
        ("free_slots", "i8"),
        ("free_blocks", "i8"),  # neither held nor in the prefix cache
        ("oldest_kept", "i8"),  # preempted requests with blocks in the free queue, -1 none
        ("youngest_kept", "i8"),
        ("front", "i8"),  # free blocks ahead of the oldest kept ones
        ("steps", "i8"),  # rows in the step buffer
        ("done", "i8"),  # rows in the buffer of ended requests
        ("k_drafted", "i8"),  # drafts waiting to be verified by the next step
        ("k_limit", "i8"),  # largest K the engine was started with (look-ahead slots)
        ("drafter_loaded", "i8"),
        ("drafter_version", "i8"),
        ("verifier_version", "i8"),
        ("lru_head", "i8"),
        ("lru_tail", "i8"),
        ("evictable", "i8"),  # entries with no holder
        ("entries", "i8"),  # entries ever used; the rest of the table is fresh
        ("entry_free", "i8"),  # head of the list of recycled entries
        ("preempted", "i8"),
        ("evicted", "i8"),
        # of the step under way
        ("batch", "i8"),
        ("k_verify", "i8"),
        ("context_tokens", "i8"),  # tokens of context over running sequences
        # fixed
        ("max_seqs", "i8"),
        ("max_tokens", "i8"),
        ("block_size", "i8"),
        ("total_blocks", "i8"),
        ("entry_blocks", "i8"),  # KV blocks of one prefix entry; 0 turns the prefix cache off
        ("reserve_prompt", "i8"),
        ("reuse_preempted", "i8"),
        ("async_scheduling", "i8"),
        ("external", "i8"),  # acceptance comes from `accept_in`, not from the parametric model
        ("acceptance_key", "u8"),
    ]
)


class State(NamedTuple):
    """All arrays of one engine. Shapes: S slots, R max running, D domains, T tenants."""

    reg: np.ndarray  # REGISTER[1]
    x: np.ndarray  # f8[len(FIELDS)]: the shape of the step under way
    slots: np.ndarray  # SLOT[S]
    hashes: np.ndarray  # i8[S, H]
    running: np.ndarray  # i8[R], in order of admission
    waiting: np.ndarray  # i8[S], a ring
    free_slots: np.ndarray  # i8[S], a stack
    k_by_batch: np.ndarray  # i8[R + 1]
    logits: np.ndarray  # f8[D, MAX_K]: serving drafter against the current verifier
    accept_in: np.ndarray  # i8[S]: accepted drafts decided outside
    slo: np.ndarray  # f8[T, 2]: ttft, tpot
    offered: np.ndarray  # i8[D, T, MAX_K], since the last tick
    accepted: np.ndarray  # i8[D, T, MAX_K]
    steps: np.ndarray  # STEP[buffer]
    done: np.ndarray  # SLOT[buffer]
    entries: np.ndarray  # ENTRY[E]
    table: np.ndarray  # i8[2^m], open addressing: entry number + 1, 0 empty


def new_state(
    *,
    slots: int,
    max_seqs: int,
    domains: int,
    tenants: int,
    hashes: int,
    entries: int,
    step_rows: int = 4096,
    done_rows: int = 4096,
) -> State:
    """Empty arrays of the given sizes; the engine fills the registers."""
    table = 1 << max(4, int(np.ceil(np.log2(max(entries, 1) * 2 + 1))))
    return State(
        reg=np.zeros(1, REGISTER),
        x=np.zeros(len(FIELDS)),
        slots=np.zeros(slots, SLOT),
        hashes=np.zeros((slots, max(hashes, 1)), np.int64),
        running=np.zeros(max_seqs + 1, np.int64),
        waiting=np.zeros(slots, np.int64),
        free_slots=np.arange(slots - 1, -1, -1, dtype=np.int64),
        k_by_batch=np.zeros(max_seqs + 1, np.int64),
        logits=np.full((domains, MAX_K), -np.inf),
        accept_in=np.zeros(slots, np.int64),
        slo=np.full((tenants, 2), np.inf),
        offered=np.zeros((domains, tenants, MAX_K), np.int64),
        accepted=np.zeros((domains, tenants, MAX_K), np.int64),
        steps=np.zeros(step_rows, STEP),
        done=np.zeros(done_rows, SLOT),
        entries=np.zeros(max(entries, 1), ENTRY),
        table=np.zeros(table, np.int64),
    )
