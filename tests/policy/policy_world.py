"""A small closed world for policy tests: hazards by drafter and domain, a closed-form step cost, a trainer.

It keeps the contract's one promise that matters here: a step with K drafts offers position i only when all
before it were accepted. Requests differ (a log-odds latent each), as real ones do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from harness.contract import (
    STATIC,
    TRAINED,
    Observation,
    Plan,
    PositionCounts,
    StepLatency,
    Swap,
    TrainerState,
)
from harness.latency.shape import StepShape, decode_shape
from harness.policy.base import Policy, PolicyContext, Truth
from harness.policy.lengths import expit, lengths, logit

HAZARDS = (0.62, 0.58, 0.63, 0.68, 0.70, 0.72, 0.74)
STEPS_PER_TICK = 32


def predict(shape: StepShape) -> float:
    """Seconds: a + b * tokens + c * kv + d * draft passes, near the published H100 fit of Llama-3.1-8B."""
    loaded = 3e-4 if shape.drafter_loaded else 0.0
    return 7.09e-3 + 2.1e-5 * shape.tokens + 3.93e-8 * shape.kv_sum + loaded + 6e-4 * shape.draft_passes


@dataclass
class World:
    """Runs one policy. Everything a test varies is a field."""

    seconds: Callable[[StepShape], float] = predict
    """The true step cost (the policy's `predict` may be another)."""
    hazards: Callable[[float, str, int], np.ndarray] = lambda time, domain, version: np.array(HAZARDS)
    """(time, domain, version; -1 is static) -> true hazards [max_k]."""
    mix: Callable[[float], Mapping[str, float]] = lambda time: {"chat": 1.0}
    batch: Callable[[float], int] = lambda time: 16
    candidates: Mapping[float, int] = field(default_factory=dict)
    """Time at which each version becomes ready."""
    heldout: Callable[[float, str, int], float] | None = None
    """What the trainer reports; None: the truth."""
    verifier: Callable[[float], int] = lambda time: 0
    stall: float = 0.3
    swap_delay: float = 1.5
    swap_ok: Callable[[float], bool] = lambda time: True
    spread: float = 0.35
    """Standard deviation of a request's log-odds: a hazard of 0.6 has sd 0.08 over requests."""
    context: float = 800.0
    seed: int = 1

    def run(self, policy: Policy, context: PolicyContext, until: float) -> Log:
        """Serve for `until` seconds."""
        self.rng = np.random.default_rng(self.seed)
        self.max_k = context.max_k
        self.time, self.version, self.newest = 0.0, -1, -1
        self.ready: int | None = None
        self.pending: tuple[float, int] | None = None
        self.swap: Swap | None = None
        self.log = Log()
        if policy.needs_truth:
            policy.bind_truth(self.truth)
        plan = policy.reset(context)
        while self.time < until:
            observation = self._tick(plan, context)
            plan = policy.decide(observation)
            self.log.add(observation, plan, self.batch(self.time))
            if plan.publish and self.ready is not None and self.pending is None:
                self.pending = (self.time + self.swap_delay, self.ready)
            elif self.pending is None:
                self._serve(plan.drafter)
        return self.log

    def truth(self) -> Truth:
        def length(version: int) -> tuple[float, ...]:
            domains, weights = zip(*self.mix(self.time).items(), strict=True)
            nodes, mass = np.polynomial.hermite_e.hermegauss(9)
            base = logit(np.stack([self.hazards(self.time, d, version) for d in domains]))
            over_requests = lengths(expit(base[:, None] + self.spread * nodes[:, None]))
            mixed = np.einsum("d,n,dnk->k", np.array(weights), mass / mass.sum(), over_requests)
            return tuple(mixed.tolist())

        ready = None if self.ready is None else length(self.ready)
        trained = None if self.newest < 0 else length(self.newest)
        batch = self.batch(self.time)
        return Truth(length(self.version), batch, self.context, ready, length(-1), trained)

    def _tick(self, plan: Plan, context: PolicyContext) -> Observation:
        begun, batch = self.time, self.batch(self.time)
        k = plan.k(batch)
        seconds = STEPS_PER_TICK * self.seconds(decode_shape(batch, k, self.context))
        positions, tokens = self._decode(batch, k)
        self.time += seconds
        changed = self._finish_swap()
        for at, version in self.candidates.items():
            if begun < at <= self.time:
                self.ready = version
        self.log.tokens += tokens
        self.log.made.append(tokens)
        return Observation(
            time=self.time,
            running=batch,
            mean_context=self.context,
            engine_steps=STEPS_PER_TICK,
            steps=(StepLatency(batch, k, STEPS_PER_TICK, seconds, tokens),),
            tokens=tokens,
            finished=batch // 4,
            positions={} if changed and k == 0 else positions,
            drafter=STATIC if self.version < 0 else TRAINED,
            drafter_version=max(0, self.version),
            verifier_version=self.verifier(self.time),
            trainer=self._trainer(context),
            last_swap=self.swap,
        )

    def _decode(self, batch: int, k: int) -> tuple[dict[tuple[str, str], PositionCounts], int]:
        counts, tokens = {}, batch * STEPS_PER_TICK
        domains, weights = zip(*self.mix(self.time).items(), strict=True)
        share = self.rng.multinomial(batch, np.array(weights) / sum(weights))
        for domain, sequences in zip(domains, share, strict=True):
            base = logit(self.hazards(self.time, domain, self.version))
            latent = self.rng.normal(0.0, self.spread, size=(sequences, 1))
            rates = expit(base + latent)
            left = np.full(sequences, STEPS_PER_TICK)
            offered, accepted = [], []
            for i in range(k):
                offered.append(int(left.sum()))
                left = self.rng.binomial(left, rates[:, i])
                accepted.append(int(left.sum()))
            tokens += sum(accepted)
            if offered and offered[0]:
                counts[(domain, "t")] = PositionCounts(tuple(offered), tuple(accepted))
        return counts, tokens

    def _trainer(self, context: PolicyContext) -> TrainerState:
        if not context.trainer:
            return TrainerState()
        domains = list(self.mix(self.time))

        def report(version: int) -> dict[str, float]:
            return {d: self._heldout(d, version) for d in domains}

        return TrainerState(
            alive=True,
            steps=int(10 * self.time),
            samples=int(100 * self.time),
            candidate=None if self.ready is None else 100 + self.ready,
            heldout_serving=report(self.version),
            heldout_candidate={} if self.ready is None else report(self.ready),
            heldout_static=report(-1),
            heldout_samples=dict.fromkeys(domains, 2000),
        )

    def _heldout(self, domain: str, version: int) -> float:
        if self.heldout is not None:
            return self.heldout(self.time, domain, version)
        return float(lengths(self.hazards(self.time, domain, version))[-1])

    def _finish_swap(self) -> bool:
        if self.pending is None or self.time < self.pending[0]:
            return False
        version, ok = self.pending[1], self.swap_ok(self.time)
        self._swap_to(version, ok)
        self.pending = None
        if ok:
            self.newest, self.ready = version, None
        return ok

    def _swap_to(self, version: int, ok: bool = True) -> None:
        self.time += self.stall
        self.swap = Swap(self.time, max(0, version), self.stall, ok)
        self.log.swaps += 1
        if ok:
            self.version = version

    def _serve(self, drafter: str) -> None:
        name, _, number = drafter.partition(":")
        version = {STATIC: -1, TRAINED: self.newest}.get(name, int(number or 0))
        if version != self.version:
            self._swap_to(version)


@dataclass
class Log:
    """What happened, per tick, and in total."""

    tokens: int = 0
    swaps: int = 0
    time: list[float] = field(default_factory=list)
    k: list[int] = field(default_factory=list)
    """K in force at the batch size of the moment."""
    version: list[int] = field(default_factory=list)
    batch: list[float] = field(default_factory=list)
    """Sequences that decoded in each tick."""
    made: list[int] = field(default_factory=list)
    """Tokens of each tick."""
    plans: list[Plan] = field(default_factory=list)

    def add(self, observation: Observation, plan: Plan, batch: int) -> None:
        self.time.append(observation.time)
        self.batch.append(observation.batch)
        self.k.append(plan.k(batch))
        self.version.append(-1 if observation.drafter == STATIC else observation.drafter_version)
        self.plans.append(plan)

    def goodput_at(self, batch: int, after: float) -> float:
        """Tokens per second over the ticks that decoded `batch` sequences, from `after` on."""
        seconds = np.diff(self.time, prepend=0.0)
        chosen = (np.array(self.batch) == batch) & (np.array(self.time) > after)
        return float(np.array(self.made)[chosen].sum() / seconds[chosen].sum())

    @property
    def goodput(self) -> float:
        """Tokens per second of the whole run, stalls included."""
        return self.tokens / self.time[-1]


def context(**changes: object) -> PolicyContext:
    """A deployment that fits `World`'s defaults."""
    values: dict[str, object] = {
        "max_k": 7,
        "max_batch": 256,
        "predict": predict,
        "offline_hazards": HAZARDS,
        "mean_context": 800.0,
        "swap_stall": 0.3,
        "seed": 5,
    }
    values.update(changes)
    return PolicyContext(**values)  # type: ignore[arg-type]


def shifted(hazards: tuple[float, ...], log_odds: float) -> np.ndarray:
    """`hazards`, all moved by `log_odds`."""
    return np.asarray(expit(logit(np.array(hazards)) + log_odds))
