"""The simulated engine: a Python face on the compiled state.

Two ways to move time: `advance` (compiled, many steps a call) and, step by step, `plan` and `commit`
for callers that price a step or decide its acceptance themselves (data-parallel ranks, a real model).
Both run the same scheduler and the same accounting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.contract import KSchedule, Request, Slo
from harness.errors import InputError
from harness.latency.model import LatencyModel
from harness.observe import Gauges
from harness.rng import stream_key
from harness.sim.acceptance import MAX_K, request_latent
from harness.sim.kernel import advance, commit_step, plan_step, preempt_all
from harness.sim.kv import flush_cache, forget_kept
from harness.sim.state import REJECTED, UNFINISHED, State, new_state


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What `vllm serve` would be told. Defaults are vLLM's."""

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    block_size: int = 16
    kv_tokens: int = 400_000
    """KV-cache capacity in tokens."""
    prefix_caching: bool = True
    """Equal prompt prefixes share KV, and a preempted request finds its own blocks while they last."""
    prefix_tokens: int = 512
    """Tokens of one prefix hash of the workload."""
    prefix_hashes: int = 0
    """Most prefix hashes that one request carries; 0 when the workload has none."""
    async_scheduling: bool = True
    reserve_prompt: bool = True
    """Admit a request only if its whole prompt fits (vLLM's scheduler_reserve_full_isl)."""
    max_k: int = 7
    """Largest K the engine is started with; KV look-ahead is kept for it."""
    drafter_loaded: bool = True

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "block_size", "kv_tokens", "prefix_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.max_k <= MAX_K:
            raise InputError(f"max_k is {self.max_k}; the engine model holds 0 to {MAX_K} draft tokens")
        if self.prefix_caching and self.prefix_tokens % self.block_size:
            raise InputError(
                f"prefix_tokens is {self.prefix_tokens}; it must be a multiple of block_size {self.block_size}"
            )


@dataclass(frozen=True, slots=True)
class Labels:
    """Domains and tenants of a run; their order is their number inside the engine."""

    domains: tuple[str, ...]
    tenants: tuple[str, ...]
    latent_sd: tuple[float, ...] = ()
    """Spread of the per-request latent, per domain (logit scale)."""
    slo: Mapping[str, Slo] = field(default_factory=dict)


class Engine:
    """One rank. Times are seconds since the run began."""

    def __init__(self, config: EngineConfig, labels: Labels, latency: LatencyModel, seed: int) -> None:
        self.config = config
        self.labels = labels
        self.latency = latency
        self._domain = {name: i for i, name in enumerate(labels.domains)}
        self._tenant = {name: i for i, name in enumerate(labels.tenants)}
        self._latent_key = np.uint64(stream_key(seed, "latent"))
        self.state = self._empty_state(seed)
        self.rejected: list[tuple[Request, float]] = []
        """Requests that could never fit, with the time they were turned away."""

    def _empty_state(self, seed: int) -> State:
        c = self.config
        total = c.kv_tokens // c.block_size
        shares = c.prefix_caching and c.prefix_hashes > 0
        entry_blocks = c.prefix_tokens // c.block_size if shares else 0
        state = new_state(
            slots=max(1024, 2 * c.max_num_seqs),
            max_seqs=c.max_num_seqs,
            domains=len(self.labels.domains),
            tenants=len(self.labels.tenants),
            hashes=c.prefix_hashes if shares else 0,
            entries=total // entry_blocks if entry_blocks else 0,
            done_rows=max(4096, 4 * c.max_num_seqs),
        )
        registers = {
            "slowdown": 1.0,
            "free_slots": len(state.slots),
            "free_blocks": total,
            "total_blocks": total,
            "k_limit": c.max_k if c.drafter_loaded else 0,
            "drafter_loaded": c.drafter_loaded,
            "lru_head": -1,
            "lru_tail": -1,
            "entry_free": -1,
            "oldest_kept": -1,
            "youngest_kept": -1,
            "max_seqs": c.max_num_seqs,
            "max_tokens": c.max_num_batched_tokens,
            "block_size": c.block_size,
            "entry_blocks": entry_blocks,
            "reserve_prompt": c.reserve_prompt,
            "reuse_preempted": c.prefix_caching,
            "async_scheduling": c.async_scheduling,
            "acceptance_key": stream_key(seed, "acceptance"),
        }
        for name, value in registers.items():
            state.reg[name] = value
        for name, slo in self.labels.slo.items():
            state.slo[self._tenant[name]] = (slo.ttft, slo.tpot)
        return state

    # --- what the world does to it ---

    @property
    def clock(self) -> float:
        """End of the last step."""
        return float(self.state.reg[0]["clock"])

    @property
    def idle(self) -> bool:
        """Whether no request is waiting or running (one that just ended may still hold its seat)."""
        return int(self.state.reg[0]["live"]) == 0

    def gauges(self, time: float) -> Gauges:
        """The state a server would report at `time`."""
        r = self.state.reg[0]
        running = int(r["running"])
        return Gauges(
            time=time,
            running=running,
            waiting=int(r["waiting"]),
            kv_use=self.held_blocks / int(r["total_blocks"]),
            mean_context=int(r["context_tokens"]) / running if running else 0.0,
        )

    @property
    def held_blocks(self) -> int:
        """KV blocks held by running requests."""
        r = self.state.reg[0]
        return int(r["total_blocks"] - r["free_blocks"] - r["evictable"] * r["entry_blocks"])

    def submit(self, request: Request) -> bool:
        """Put a request at the tail of the queue; False (and noted in `rejected`) if it can never fit."""
        c = self.config
        held = request.prompt_tokens + request.output_tokens + (c.max_k if c.drafter_loaded else 0)
        if held > self.state.reg[0]["total_blocks"] * c.block_size:
            self.rejected.append((request, request.arrival))
            return False
        if self.state.reg[0]["free_slots"] == 0:
            self._double_slots()
        s, r = self.state, self.state.reg[0]
        r["free_slots"] -= 1
        slot = int(s.free_slots[r["free_slots"]])
        domain = self._domain[request.domain]
        hashes = request.prefix_hashes[: c.prefix_hashes] if c.prefix_caching else ()
        sd = self.labels.latent_sd[domain] if self.labels.latent_sd else 0.0
        latent = request_latent(self._latent_key, request.request_id, sd) if sd else 0.0
        nan = np.nan
        s.slots[slot] = (
            request.request_id, request.arrival, request.prompt_tokens, request.output_tokens,
            domain, self._tenant[request.tenant], latent, len(hashes),
            0, request.prompt_tokens, 0, 0, 0, 0, 0,
            0, 0, -1, -1,
            nan, nan, nan, 0, 0, 0, 0, 0, UNFINISHED,
        )  # fmt: skip
        if hashes:
            s.hashes[slot, : len(hashes)] = hashes
        s.waiting[(r["waiting_head"] + r["waiting"]) % len(s.waiting)] = slot
        r["waiting"] += 1
        r["live"] += 1
        return True

    def _double_slots(self) -> None:
        s, r = self.state, self.state.reg[0]
        n = len(s.slots)
        order = (r["waiting_head"] + np.arange(r["waiting"])) % n
        waiting = np.zeros(2 * n, np.int64)
        waiting[: r["waiting"]] = s.waiting[order]
        free = np.zeros(2 * n, np.int64)
        free[:n] = np.arange(2 * n - 1, n - 1, -1)
        r["waiting_head"], r["free_slots"] = 0, n
        self.state = s._replace(
            slots=np.concatenate([s.slots, np.zeros_like(s.slots)]),
            hashes=np.concatenate([s.hashes, np.zeros_like(s.hashes)]),
            accept_in=np.concatenate([s.accept_in, np.zeros_like(s.accept_in)]),
            waiting=waiting,
            free_slots=free,
        )

    def advance(self, horizon: float, max_steps: int) -> int:
        """Run whole steps that start before `horizon`, at most `max_steps`; return how many ran."""
        return int(advance(self.state, self.latency.compiled, horizon, max_steps))

    def plan(self) -> bool:
        """Schedule one step into `state.x`; False when there is nothing to run."""
        return bool(plan_step(self.state))

    def commit(self, seconds: float) -> None:
        """Account for the planned step, which took `seconds`."""
        commit_step(self.state, seconds)

    def wait_until(self, time: float) -> None:
        """Let time pass without a step (idle, or stalled)."""
        r = self.state.reg[0]
        r["clock"] = max(r["clock"], time)

    def set_schedule(self, schedule: KSchedule) -> None:
        """Use these draft lengths from the next drafting on."""
        table = np.zeros(self.config.max_num_seqs + 1, np.int64)
        for lo, hi, k in schedule:
            if k > self.config.max_k:
                raise InputError(
                    f"K is {k} at batch {lo}; the engine was started with K up to {self.config.max_k}"
                )
            table[lo : hi + 1] = k
        last = schedule[-1]
        table[last[1] + 1 :] = last[2]
        self.state.k_by_batch[:] = table

    def set_slowdown(self, factor: float) -> None:
        """Multiply every step's time from now on (a trainer on the same accelerator)."""
        self.state.reg[0]["slowdown"] = factor

    def set_drafter(self, logits: np.ndarray, version: int) -> None:
        """Serve with this drafter: float64[domains, MAX_K] hazard logits against the current target."""
        self.state.logits[:] = logits
        self.state.reg[0]["drafter_version"] = version

    def set_verifier(self, version: int, kv_invalid: bool) -> None:
        """The target changed; with `kv_invalid` every running request recomputes and the cache is void."""
        self.state.reg[0]["verifier_version"] = version
        if kv_invalid:
            preempt_all(self.state)
            flush_cache(self.state)
            forget_kept(self.state)
            self.state.reg[0]["k_drafted"] = 0

    # --- what the world takes from it ---

    def take_steps(self) -> np.ndarray:
        """Rows (state.STEP) of the steps since the last call; a copy."""
        r = self.state.reg[0]
        rows = self.state.steps[: r["steps"]].copy()
        r["steps"] = 0
        return rows

    def take_done(self) -> np.ndarray:
        """Rows (state.SLOT) of requests that ended since the last call; a copy."""
        r = self.state.reg[0]
        rows = self.state.done[: r["done"]].copy()
        r["done"] = 0
        return rows

    def take_positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Offered and accepted, int64[domains, tenants, MAX_K], since the last call."""
        s = self.state
        counts = s.offered.copy(), s.accepted.copy()
        s.offered[:] = 0
        s.accepted[:] = 0
        return counts

    def take_notes(self) -> list[tuple[str, dict[str, object]]]:
        """What an engine of another kind wants in the log: (kind, detail) since the last call."""
        return []

    def unfinished(self) -> np.ndarray:
        """Rows of the requests still waiting or running."""
        s, r = self.state, self.state.reg[0]
        waiting = s.waiting[(r["waiting_head"] + np.arange(r["waiting"])) % len(s.waiting)]
        slots = np.concatenate([s.running[: r["running"]], waiting]).astype(np.int64)
        rows = s.slots[slots]
        return rows[rows["generated"] < rows["output"]]

    def rejected_rows(self, requests: Sequence[tuple[Request, float]]) -> np.ndarray:
        """The same kind of rows for requests that were turned away."""
        rows = np.zeros(len(requests), self.state.slots.dtype)
        for row, (q, _) in zip(rows, requests, strict=True):
            row["request_id"], row["arrival"], row["prompt"] = q.request_id, q.arrival, q.prompt_tokens
            row["domain"], row["tenant"] = self._domain[q.domain], self._tenant[q.tenant]
            row["scheduled"] = row["first_token"] = row["finish"] = np.nan
            row["status"] = REJECTED
        return rows

    def block_census(self) -> dict[str, int]:
        """Where every KV block is; the values sum to `total_blocks` (invariant)."""
        s, r = self.state, self.state.reg[0]
        held = s.slots["blocks"][s.running[: r["running"]]].sum()
        cached = int((s.table != 0).sum()) * int(r["entry_blocks"])
        return {"free": int(r["free_blocks"]), "held": int(held), "cached": cached}
