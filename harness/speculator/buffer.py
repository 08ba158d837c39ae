"""The replay buffer: what the trainer may learn from, within a bound of bytes.

Recent traces stand in a FIFO. What falls out of it is offered to its domain's reservoir, so no trace is ever
held twice. A reservoir is a uniform sample of all that it was offered: every trace has a random key and the
highest key leaves first, which for traces of one size is Algorithm R (Vitter 1985) in distribution, and unlike
it still is a uniform sample after its room shrank for a new domain.

Every trace seen is held, `dropped`, `retired` or `stale`: seen = len + dropped + retired + stale.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import islice
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from harness.errors import InputError
from harness.speculator.traces import Trace

AS_THEY_ARRIVE: Mapping[str, float] = MappingProxyType({})
"""Domain weights of a plan that has none."""

_EPS = 0.05  # a trace without any rejection keeps some weight: it shows what must not be unlearnt


@dataclass(frozen=True, slots=True)
class BufferSettings:
    """How the buffer keeps and draws. InputError where a value is out of range."""

    recent_share: float = 0.5
    """Share of the capacity for the most recent traces; the rest is for reservoirs, equal bytes per domain."""
    max_version_lag: int | None = None
    """Evict traces whose drafter is older than the newest by more than this; None keeps all."""
    priority: float = 0.5
    """Exponent of a trace's share of steps with a rejection, within its domain; 0 draws uniformly."""
    dtype: torch.dtype = torch.bfloat16
    """Of the stored hidden states."""
    replay_share: float = 0.3
    """Share of each batch that comes out of the reservoirs."""
    once: bool = False
    """Aurora's released behaviour: no reservoirs; each trace is used once, in order of arrival."""

    def __post_init__(self) -> None:
        for name in ("recent_share", "replay_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"buffer.{name} is {getattr(self, name)}; it must lie in 0..1")
        if not (math.isfinite(self.priority) and self.priority >= 0):
            raise InputError(f"buffer.priority is {self.priority}; it must be finite and not negative")
        if self.max_version_lag is not None and self.max_version_lag < 0:
            raise InputError(f"buffer.max_version_lag is {self.max_version_lag}; it must not be negative")


class ReplayBuffer:
    """Traces within `capacity_bytes` of tensors. One thread at a time."""

    def __init__(
        self, capacity_bytes: int, rng: np.random.Generator, settings: BufferSettings | None = None
    ) -> None:
        if capacity_bytes < 1:
            raise InputError(f"buffer capacity is {capacity_bytes} bytes; it must be at least 1")
        self.capacity_bytes = capacity_bytes
        self.settings = settings or BufferSettings()
        share = 1.0 if self.settings.once else self.settings.recent_share
        self._recent_capacity = int(capacity_bytes * share)
        self._recent: deque[_Held] = deque()
        self._recent_bytes = 0
        self._replay = _Reservoirs(capacity_bytes - self._recent_capacity)
        self._rng = rng
        self._verifier, self._version = 0, 0
        self.seen = 0
        """Traces added."""
        self.dropped = 0
        """Lost for want of room before they were ever sampled."""
        self.retired = 0
        """Gone after they were sampled: used up (`once`) or evicted for room."""
        self.stale = 0
        """Gone because of their verifier's or drafter's version."""
        self.peak_bytes = 0

    def __len__(self) -> int:
        return len(self._recent) + len(self._replay)

    @property
    def nbytes(self) -> int:
        return self._recent_bytes + self._replay.nbytes

    def domains(self) -> Mapping[str, int]:
        """Traces held per domain."""
        return Counter(held.trace.domain for held in (*self._recent, *self._replay))

    def add(self, trace: Trace) -> int:
        """Take a trace in; return how many this cost that had never been sampled (itself included)."""
        self.seen += 1
        self.set_verifier(trace.verifier_version)
        if self._is_stale(trace):
            self.stale += 1
            return 0
        trace = owned(trace.stored_as(self.settings.dtype))
        weight = (rejections(trace) + _EPS) ** self.settings.priority
        evicted = self._push(_Held(trace, trace.nbytes, self.seen, float(self._rng.random()), weight))
        lost = sum(not held.sampled for held in evicted)
        self.dropped += lost
        self.retired += len(evicted) - lost
        self.peak_bytes = max(self.peak_bytes, self.nbytes)
        return lost

    def sample(self, n: int, domains: Mapping[str, float] = AS_THEY_ARRIVE, fresh: int = 0) -> list[Trace]:
        """Up to n different traces.

        A domain is drawn in proportion to its traces held times its weight; as in the simulator, a domain
        that `domains` does not name weighs 1, and weights that leave nothing to draw are ignored. The
        first `fresh` places go to traces never sampled, oldest first: those are the next to fall out of
        the FIFO unused.
        """
        if n < 1 or not 0 <= fresh <= n:
            raise InputError(f"sample({n}, fresh={fresh}): needs n >= 1 and fresh in 0..n")
        weights = self._weights(domains)
        chosen = self._use_up(n, weights) if self.settings.once else self._mixed(n, weights, fresh)
        for held in chosen:
            held.sampled = True
        return [held.trace for held in chosen]

    def set_verifier(self, version: int) -> None:
        """The target changed: states of an older one are void and go at once. Versions only grow."""
        if version > self._verifier:
            self._verifier = version
            self._purge()

    def set_version(self, version: int) -> None:
        """The newest drafter in service; lower than before after a rollback."""
        self._version = version
        self._purge()

    def token_counts(self, vocab_size: int) -> torch.Tensor:
        """int64[vocab_size]: output tokens of the recent traces, for choosing the draft vocabulary anew."""
        output = [held.trace.tokens[held.trace.prompt_tokens :].cpu() for held in self._recent]
        tokens = torch.cat(output) if output else torch.zeros(0, dtype=torch.int64)
        if tokens.numel() and int(tokens.max()) >= vocab_size:
            raise InputError(f"token {int(tokens.max())} is outside the vocabulary of {vocab_size}")
        return torch.bincount(tokens, minlength=vocab_size)

    # --- keeping ---

    def _push(self, new: _Held) -> list[_Held]:
        """Put `new` into the FIFO; return what found no room anywhere."""
        if new.nbytes > self._recent_capacity:
            leaving = [new]  # it would push out all others and then itself
        else:
            leaving = []
            while self._recent_bytes + new.nbytes > self._recent_capacity:
                leaving.append(self._recent.popleft())
                self._recent_bytes -= leaving[-1].nbytes
            self._recent.append(new)
            self._recent_bytes += new.nbytes
        return [gone for held in leaving for gone in self._replay.offer(held)]

    def _is_stale(self, trace: Trace) -> bool:
        lag = self.settings.max_version_lag
        too_old = lag is not None and trace.drafter_version < self._version - lag
        return too_old or trace.verifier_version < self._verifier

    def _purge(self) -> None:
        before = len(self)
        self._keep_recent(lambda held: not self._is_stale(held.trace))
        self._replay.keep(lambda held: not self._is_stale(held.trace))
        self.stale += before - len(self)

    def _keep_recent(self, wanted: Callable[[_Held], bool]) -> None:
        self._recent = deque(held for held in self._recent if wanted(held))
        self._recent_bytes = sum(held.nbytes for held in self._recent)

    # --- drawing ---

    def _weights(self, domains: Mapping[str, float]) -> Mapping[str, float]:
        """`domains`, checked; empty where it would leave nothing to draw."""
        wrong = {name: w for name, w in domains.items() if not (math.isfinite(w) and w >= 0)}
        if wrong:
            raise InputError(f"domain weights {wrong} must be finite and not negative")
        return domains if any(domains.get(name, 1.0) > 0 for name in self.domains()) else AS_THEY_ARRIVE

    def _use_up(self, n: int, weights: Mapping[str, float]) -> list[_Held]:
        chosen = self._draw(self._recent, n, weights) if weights else list(islice(self._recent, n))
        chosen.sort(key=lambda held: held.serial)
        used = {held.serial for held in chosen}
        self._keep_recent(lambda held: held.serial not in used)
        self.retired += len(chosen)
        return chosen

    def _mixed(self, n: int, weights: Mapping[str, float], fresh: int) -> list[_Held]:
        unseen = (h for h in self._recent if not h.sampled and weights.get(h.trace.domain, 1.0) > 0)
        chosen = list(islice(unseen, fresh))
        # Rounded up or down at random, so that small batches keep the share on average.
        replayed = int((n - len(chosen)) * self.settings.replay_share + self._rng.random())
        chosen += self._draw(self._replay, replayed, weights)
        # The FIFO gives the rest; where it is too small, the reservoirs give more.
        for source in (self._recent, self._replay):
            taken = {held.serial for held in chosen}
            left = [held for held in source if held.serial not in taken]
            chosen += self._draw(left, n - len(chosen), weights)
        return [chosen[i] for i in self._rng.permutation(len(chosen))]

    def _draw(self, items: Iterable[_Held], n: int, weights: Mapping[str, float]) -> list[_Held]:
        groups: dict[str, list[_Held]] = {}
        for held in items:
            groups.setdefault(held.trace.domain, []).append(held)
        wanted = np.array([weights.get(name, 1.0) for name in groups])
        sizes = np.array([len(group) for group in groups.values()], dtype=np.int64)
        counts = _allot(n, wanted, sizes, self._rng)
        return [h for group, k in zip(groups.values(), counts, strict=True) for h in self._first(group, k)]

    def _first(self, group: list[_Held], k: int) -> list[_Held]:
        if self.settings.once:
            return group[:k]
        # The k smallest of exponentials over weights: drawing by weight without replacement.
        weight = np.array([held.weight for held in group])
        order = np.argsort(self._rng.exponential(size=len(group)) / weight, kind="stable")
        return [group[i] for i in order[:k]]


def rejections(trace: Trace) -> float:
    """Share of the verify steps that rejected a draft: what there is to learn from; 0 without a step."""
    if not len(trace.at):
        return 0.0
    return float((trace.accepted < (trace.drafted >= 0).sum(dim=1)).float().mean())


def owned(trace: Trace) -> Trace:
    """`trace` with its views copied: a view keeps alive all of its base, which `nbytes` does not count."""
    tensors = {f.name: getattr(trace, f.name) for f in fields(trace)}
    views: dict[str, Any] = {
        name: t.clone(memory_format=torch.contiguous_format)
        for name, t in tensors.items()
        if isinstance(t, torch.Tensor) and t.untyped_storage().nbytes() != t.numel() * t.element_size()
    }
    return replace(trace, **views)


@dataclass(slots=True, eq=False)
class _Held:
    trace: Trace
    nbytes: int
    serial: int
    key: float
    """Random; the highest of a domain leaves its reservoir first."""
    weight: float
    sampled: bool = False


class _Reservoirs:
    """One per domain, within `capacity` bytes in all.

    The fullest reservoir gives way: equal bytes for all that have enough, and room that a rare domain does
    not fill is lent to the others. Were the shares fixed, made-up labels could shrink each to nothing.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._heaps: dict[str, list[tuple[float, int, _Held]]] = {}
        self._bytes: dict[str, int] = {}
        self.nbytes = 0

    def __len__(self) -> int:
        return sum(len(heap) for heap in self._heaps.values())

    def __iter__(self) -> Iterator[_Held]:
        return (held for heap in self._heaps.values() for _, _, held in heap)

    def offer(self, held: _Held) -> list[_Held]:
        """Take `held` in; return what had to go, maybe itself."""
        if held.nbytes > self._capacity:
            return [held]
        domain = held.trace.domain
        heapq.heappush(self._heaps.setdefault(domain, []), (-held.key, held.serial, held))
        self._count(domain, held.nbytes)
        gone = []
        while self.nbytes > self._capacity:
            fullest = max(self._bytes, key=self._bytes.__getitem__)
            gone.append(heapq.heappop(self._heaps[fullest])[2])
            self._count(fullest, -gone[-1].nbytes)
        return gone

    def keep(self, wanted: Callable[[_Held], bool]) -> None:
        """Drop all that are not wanted."""
        held = [h for h in self if wanted(h)]
        self._heaps, self._bytes, self.nbytes = {}, {}, 0
        for one in held:
            self.offer(one)

    def _count(self, domain: str, nbytes: int) -> None:
        self.nbytes += nbytes
        self._bytes[domain] = self._bytes.get(domain, 0) + nbytes
        if not self._heaps[domain]:
            del self._bytes[domain], self._heaps[domain]


def _allot(n: int, wanted: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int64[groups]: places of each group of sizes[groups], at random by size times wanted[groups]."""
    counts = np.zeros(len(sizes), dtype=np.int64)
    mass = sizes * (wanted / max(wanted.max(initial=0.0), np.finfo(float).tiny))
    while (left := n - int(counts.sum())) > 0:
        room = mass * (counts < sizes)
        if not room.sum() > 0:
            break
        counts += np.minimum(rng.multinomial(left, room / room.sum()), sizes - counts)
    return counts
