"""What `specdrift serve` tells Prometheus: the events of the controller as counters and gauges.

vLLM has metrics of its own at `/metrics` of its port; these are about adaptation. Acceptance length over a window:
`1 + rate(specdrift_accepted_tokens_total[5m]) / rate(specdrift_verified_sequences_total[5m])`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from harness.contract import Event
from harness.errors import InputError

MOST_DOMAINS = 32
"""Domains that get a label of their own. Clients name them, so their number is not ours to know."""
OTHERS = "others"


class Metrics:
    """Keeps the numbers of one `specdrift serve`, over all lives of its server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._domains: set[str] = set()
        # Engine
        self._steps = self._counter(
            "engine_steps", "Decode steps without prompts, by drafts verified a sequence", "k"
        )
        self._seconds = self._counter("engine_step_seconds", "Seconds of those steps", "k")
        self._tokens = self._counter("output_tokens", "Tokens of all engine steps")
        self._finished = self._counter("requests_finished", "Requests that finished")
        self._verified = self._counter(
            "verified_sequences", "Sequences with drafts, over verify steps", "domain"
        )
        self._accepted = self._counter("accepted_tokens", "Drafts that the target accepted", "domain")
        # What serves
        self._drafter = self._gauge(
            "drafter_version", "Version of the drafter in service; 0 is the static one"
        )
        self._verifier = self._gauge("verifier_version", "Version of the target in service")
        self._swaps = self._counter("swaps", "Swaps of drafter weights", "outcome")
        self._stall = self._counter("swap_stall_seconds", "Seconds that swaps held the engine up")
        self._published = self._counter("published", "Candidates sent to the server")
        # The learner
        self._training = self._gauge("trainer_on", "1 while the policy lets the trainer work")
        self._trained = self._gauge("trainer_steps", "Optimiser steps since the trainer began")
        self._quarantined = self._counter("quarantined", "Candidates refused before they could serve")
        self._dropped = self._counter("dropped_records", "Records that a full ring did not take", "ring")
        self._faults = self._counter("faults", "Faults that serving went on after", "fault")
        self._take: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
            "tick": self._tick,
            "swap": self._swap,
            "publish": lambda d: self._published.inc(),
            "verifier_update": lambda d: self._verifier.set(d["version"]),
            "quarantine": lambda d: self._quarantined.inc(),
            "dropped": lambda d: self._dropped.labels(d["ring"]).inc(d["records"]),
            "fault": lambda d: self._faults.labels(d["fault"]).inc(),
        }

    def answer(self, host: str, port: int) -> Callable[[], None]:
        """Answer at http://host:port/metrics in a thread; returns what ends that. InputError: port in use."""
        try:
            server, thread = start_http_server(port, addr=host, registry=self.registry)
        except OSError as error:
            raise InputError(
                f"metrics cannot be answered at {host}:{port} ({error}); give another port"
            ) from error

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop

    def events(self, events: Sequence[Event]) -> None:
        for event in events:
            if take := self._take.get(event.kind):
                take(event.detail)

    def _tick(self, detail: Mapping[str, Any]) -> None:
        for _, k, steps, seconds, *_ in detail["steps"]:
            self._steps.labels(str(k)).inc(steps)
            self._seconds.labels(str(k)).inc(seconds)
        self._tokens.inc(detail["tokens"])
        self._finished.inc(detail["finished"])
        for group, (offered, accepted) in detail["positions"].items():
            domain = self._domain(group.partition("|")[0])
            self._verified.labels(domain).inc(offered[0] if offered else 0)
            self._accepted.labels(domain).inc(sum(accepted))
        self._drafter.set(detail["version"])
        self._verifier.set(detail["verifier"])
        self._training.set(detail["plan"]["train"])
        self._trained.set(detail["trainer"][0])

    def _swap(self, detail: Mapping[str, Any]) -> None:
        self._swaps.labels("done" if detail["ok"] else "failed").inc()
        self._stall.inc(detail["stall"])

    def _domain(self, name: str) -> str:
        if name not in self._domains and len(self._domains) >= MOST_DOMAINS:
            return OTHERS
        self._domains.add(name)
        return name

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(f"specdrift_{name}", says, labels, registry=self.registry)

    def _gauge(self, name: str, says: str) -> Gauge:
        return Gauge(f"specdrift_{name}", says, registry=self.registry)
