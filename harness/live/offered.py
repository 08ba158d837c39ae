"""How much a live run asks, known once its engine is measured: its rate, and how many requests."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.live.job import LEAST_REQUESTS, LiveJob
from harness.live.workload import Workload


@dataclass(frozen=True)
class Offered:
    """The offered load, said in three ways."""

    load: float
    """Factor on the scenario's arrival rate."""
    requests_per_second: float
    utilisation: float

    @property
    def text(self) -> str:
        share = f"{self.utilisation:.2f} of what this server does without drafts"
        return f"{self.requests_per_second:.2f} requests/s, {share}"


def offered_load(job: LiveJob, tokens_per_second: float, workload: Workload) -> Offered:
    """By the job's factor, else by its share of `tokens_per_second`, which the engine without drafts does at full
    concurrency."""
    capacity = tokens_per_second / workload.output_tokens
    rate = workload.rate()
    load = job.load or job.utilisation * capacity / rate
    return Offered(load, rate * load, rate * load / capacity)


def first_total(job: LiveJob) -> int:
    """Requests of the workload by which the rate is chosen: all of them, where their number is known beforehand."""
    return job.requests if job.seconds is None else min(job.requests, LEAST_REQUESTS)


def with_total(job: LiveJob, offered: Offered) -> LiveJob:
    """The job with its number of requests: those that arrive in its time, `LEAST_REQUESTS` if they are fewer."""
    if job.seconds is None:
        return job
    arriving = round(job.seconds * offered.requests_per_second)
    return replace(job, requests=min(job.requests, max(LEAST_REQUESTS, arriving)))
