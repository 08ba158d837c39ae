"""The learner: traces in, vetted candidates out. Live mode and the simulator run this same object.

Four files make it up: `buffer.py` (what may be trained on), `rows.py` and `objectives.py` (what a step
minimises), `judge.py` and `vetting.py` (what a candidate is worth, and whether it may be offered). It knows no
clock: whoever owns it decides when a step runs.
"""

from __future__ import annotations

import copy
import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import distributed

from harness.contract import TrainPlan
from harness.rng import stream
from harness.speculator.average import Average
from harness.speculator.buffer import BufferSettings, ReplayBuffer
from harness.speculator.checkpoint import Snapshot, load_into, snapshot
from harness.speculator.drafters.base import Drafter
from harness.speculator.drift import DriftDetector
from harness.speculator.heldout import HeldOut
from harness.speculator.judge import Group, Judge
from harness.speculator.objectives import check_weights, combine
from harness.speculator.rows import build_rows, can_fuse, fused_losses
from harness.speculator.settings import LearnerSettings
from harness.speculator.traces import Trace
from harness.speculator.vetting import Verdict, vet
from harness.speculator.vocabulary import DraftVocabulary

FUSED_VOCABULARY = 16_384
"""Draft tokens from which on logits of all rows are too large to hold."""

MIX_TRACES = 32
"""Traces whose domains make the mix that batches follow."""

RECENT_TRACES = 64
OLDER_WEIGHT = 0.1
LEAST_COVERAGE_GAIN = 0.01
"""For choosing the draft vocabulary: what a token of the buffer counts beside one of the last `RECENT_TRACES`
traces, and by how much more of those a new choice must cover."""

PRESENT_SHARE = 0.05
"""A group is present while it has at least this share of the last `RECENT_TRACES` traces."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimiser step."""

    loss: float
    parts: Mapping[str, float]
    """Each objective's own value."""
    traces: int
    grad_norm: float


class Learner:
    """Trains `drafter` in place against the target's frozen `head` (float32[V, H]), both on one device. Traces come and
    snapshots go on the CPU."""

    def __init__(
        self,
        drafter: Drafter,
        head: torch.Tensor,
        settings: LearnerSettings,
        seed: int,
        fresh: bool = False,
    ) -> None:
        """`fresh`: the drafter begins from nothing, so every trace is news: hurry from the start."""
        self.drafter = drafter
        self.settings = settings
        self._head = head
        self.verifier_version = 0
        width = head.shape[1]
        capacity = settings.buffer_tokens * token_bytes(width, settings.store)
        self.buffer = ReplayBuffer(capacity, stream(seed, "buffer"), _buffer_settings(settings))
        self.heldout = HeldOut(
            settings.heldout_share,
            settings.heldout_traces,
            stream(seed, "heldout"),
            settings.heldout_per_group,
        )
        self.judge = Judge(copy.deepcopy(drafter), settings.eval_k)
        self._drift = DriftDetector()
        self._lr = settings.lr_at(width)
        self.optimiser = torch.optim.AdamW(
            drafter.parameters(), lr=self._lr, betas=(0.9, 0.95), weight_decay=0.0
        )
        self.average = Average(drafter, settings.average)
        self.steps = 0
        self.samples = 0
        """Traces trained on, repeats counted."""
        self.shifts = 0
        """Shifts of traffic detected."""
        self.quarantined: list[str] = []
        """Why candidates were refused, in order."""
        self.since_shift = 0
        """Optimiser steps since the last shift, new verifier or start."""
        self._allowed = 0
        """Traces that may be trained on beyond `reuse`."""
        self._present: list[Group] = []
        self._outputs: deque[torch.Tensor] = deque(maxlen=RECENT_TRACES)
        self.static = snapshot(drafter)
        """The weights of the start: the floor."""
        self._good = self.static
        self._warmup = 0 if fresh else settings.warmup
        if fresh:
            self._hurry()

    # --- traces in ---

    def add(self, trace: Trace) -> None:
        """Take one request's trace; a share of them is held out and never trained on."""
        self._present = [*self._present[-RECENT_TRACES + 1 :], (trace.domain, trace.tenant)]
        if trace.verifier_version < self.verifier_version:
            self.buffer.add(trace)  # counted there as stale
            return
        self._outputs.append(trace.tokens[trace.prompt_tokens :].clone())
        if self._drift.update(_hit_rate(trace), trace.domain):
            self.shift()
        if self.settings.gate and self.heldout.takes(trace):
            for old in self.heldout.add(trace):
                self.buffer.add(old)
        else:
            self.buffer.add(trace)

    def shift(self) -> None:
        """Traffic changed: learn fast again."""
        self.shifts += 1
        self._hurry()

    def set_verifier(self, version: int, head: torch.Tensor, embedding: torch.Tensor) -> None:
        """The target changed: what was traced under the old one is void."""
        self.verifier_version = version
        self._head = head.to(self._head.device)
        self.drafter.set_embedding(embedding)
        self.judge.set_embedding(embedding)
        self.buffer.set_verifier(version)
        self.heldout.set_verifier(version)
        self._hurry()

    def _hurry(self) -> None:
        """Learn fast for a while. What a paused trainer left undone before is not made up for."""
        self.since_shift = 0
        self._allowed = self.samples - self._quota() + self.settings.burst

    def _quota(self) -> int:
        return int(self.settings.reuse * self.buffer.seen)

    def ready(self) -> bool:
        """Whether there is enough new to train on. Each trace is used `reuse` times on average."""
        s = self.settings
        if s.once:
            return len(self.buffer) >= s.batch
        return len(self.buffer) >= s.batch and self.samples + s.batch <= self._quota() + self._allowed

    # --- learning ---

    def step(self, plan: TrainPlan | None = None) -> StepReport:
        """One optimiser step by the plan's objectives and mix over domains."""
        s = self.settings
        weights = plan.objectives if plan is not None and plan.objectives else s.objectives
        check_weights(weights)
        wanted = plan.domains if plan is not None and plan.domains else self._recent_mix()
        traces = self.buffer.sample(s.batch, wanted)
        self.drafter.train()
        loss, parts = self._loss(traces, weights)
        loss.backward()
        norm = self._apply()
        self.steps += 1
        self.samples += len(traces)
        if self.steps % s.checkpoint_steps == 0:
            self.fit_vocabulary()
        return StepReport(float(loss.detach()), parts, len(traces), norm)

    def _loss(
        self, traces: list[Trace], weights: Mapping[str, float]
    ) -> tuple[torch.Tensor, Mapping[str, float]]:
        """Dense rows, or the fused kernel where it knows all that is wanted and the vocabulary is large."""
        s, used = self.settings, [name for name, weight in weights.items() if weight > 0]
        if len(self.drafter.vocabulary) >= FUSED_VOCABULARY and can_fuse(used):
            losses = fused_losses(self.drafter, self._head, traces, s.depth, s.decay, used)
            loss = torch.stack([weights[name] * losses[name] for name in used]).sum()
            return loss, {name: float(value.detach()) for name, value in losses.items()}
        return combine(build_rows(self.drafter, self._head, traces, s.depth), weights, s.decay)

    def _recent_mix(self) -> Mapping[str, float]:
        """Weights that make a batch look like the traffic of the last requests, with a little of each domain
        before: the buffer itself follows a shift only as fast as it fills. Empty without labels or reservoirs."""
        held = self.buffer.domains()
        if self.settings.once or len(held) < 2:
            return {}
        recent = Counter(domain for domain, _ in self._present[-MIX_TRACES:])
        total = sum(recent.values())
        return {d: (recent[d] / total + self.settings.keep_old) / n for d, n in held.items()}

    def _apply(self) -> float:
        s = self.settings
        parameters = [p for p in self.drafter.parameters() if p.grad is not None]
        if distributed.is_available() and distributed.is_initialized():
            average_gradients(parameters)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, s.clip))
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.average.update()
        self.since_shift += 1
        return norm

    def _rate(self) -> float:
        """Full right after a shift; small steps once it has been learnt, which forget less."""
        settle = self.settings.settle
        settled = math.sqrt(settle / self.since_shift) if settle and self.since_shift > settle else 1.0
        return self._lr * settled * min(1.0, (self.steps + 1) / max(1, self._warmup))

    def fit_vocabulary(self) -> bool:
        """Choose the draft vocabulary anew if it covers too little of the latest output and another would cover
        more; True if so. Older traffic has a say, so that a domain that rests does not lose its tokens at once."""
        size = self.drafter.vocabulary.target_size
        tokens = torch.cat(list(self._outputs)) if self._outputs else torch.zeros(0, dtype=torch.int64)
        counts = torch.bincount(tokens, minlength=size).to(self._head.device)
        covered = self.drafter.vocabulary.coverage(counts)
        if covered >= self.settings.coverage:
            return False
        wanted = counts + OLDER_WEIGHT * self.buffer.token_counts(size).to(counts.device)
        best = DraftVocabulary.most_frequent(wanted, len(self.drafter.vocabulary)).coverage(counts)
        if best < covered + LEAST_COVERAGE_GAIN:
            return False
        self.rechoose_vocabulary(wanted)
        return True

    @torch.no_grad()
    def rechoose_vocabulary(self, counts: torch.Tensor) -> None:
        """Draft the tokens that traffic holds now. Kept tokens keep their row; new ones start from the target's."""
        old = self.drafter.vocabulary
        smoothed = counts.double() + 1e-3 * old.t2d  # what is unseen stays, where there is room
        new = DraftVocabulary.most_frequent(smoothed, len(old))
        kept = old.index[new.ids]
        for head in self.drafter.heads():
            state = self.optimiser.state.get(head, {})
            for name in ("exp_avg", "exp_avg_sq"):
                if name in state:
                    state[name] = carried(state[name], kept, torch.zeros_like(state[name]))
            for rows in (head, self.average.of(head)):
                rows.copy_(carried(rows, kept, self._head[new.ids]))
        old.become(new)

    # --- candidates out ---

    def candidate(self) -> Snapshot:
        """What the learner would offer now: the average of its weights over the last steps."""
        return snapshot(self.drafter, self.samples, self.verifier_version, self.average.weights())

    def vet(self, candidate: Snapshot, serving: Snapshot) -> Verdict:
        """Whether the candidate may be offered. A refused one is remembered; where all traffic loses, training
        goes back to the last good weights: what made the candidate bad is in them too."""
        if not self.settings.gate:
            return Verdict()
        latest = Counter(self._present[-MIX_TRACES:])
        shares = {group: n / latest.total() for group, n in latest.items()}
        verdict = vet(candidate, serving, self.judge, self.present_groups(), self.settings.tolerance, shares)
        if verdict.ok:
            self._good = candidate
            return verdict
        self.quarantined.append(verdict.reason)
        if verdict.undo:
            load_into(self.drafter, self._good)
            self.average.restart()
            self.optimiser.state.clear()
        return verdict

    def present_groups(self) -> dict[Group, list[Trace]]:
        """Held-out traces of the domains and tenants that are in the traffic now."""
        recent = Counter(self._present)
        least = PRESENT_SHARE * len(self._present)
        return {group: traces for group, traces in self.heldout.groups().items() if recent[group] >= least}


def carried(rows: torch.Tensor, kept: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
    """Row kept[i] of `rows` where kept[i] >= 0, row i of `fresh` elsewhere."""
    return torch.where(kept[:, None] >= 0, rows[kept.clamp(min=0)], fresh)


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Data parallelism: the mean of all ranks' gradients, so that n ranks are one with n times the batch."""
    ranks = distributed.get_world_size()
    for p in parameters:
        assert p.grad is not None
        distributed.all_reduce(p.grad)
        p.grad /= ranks


def _hit_rate(trace: Trace) -> float | None:
    """Share of the trace's verify steps whose first draft was accepted; None without any."""
    return float((trace.accepted > 0).float().mean()) if len(trace.at) else None


def token_bytes(width: int, store: str) -> int:
    """Bytes of one token's states in a trace: three of the target's layers and its last, each `width` wide."""
    return 4 * width * getattr(torch, store).itemsize


def _buffer_settings(s: LearnerSettings) -> BufferSettings:
    return BufferSettings(
        recent_share=s.recent_share,
        priority=s.priority,
        dtype=getattr(torch, s.store),
        replay_share=s.replay_share,
        once=s.once,
    )
