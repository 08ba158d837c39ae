"""`specdrift serve`: a vLLM server whose drafter learns from its own traffic, until interrupted.

The server is vLLM's own and answers any OpenAI client. Beside it run the controller (this process), which asks the
policy at every tick, and the trainer. When the server dies it is started again, with the static drafter and a learner
that keeps nothing of before, and the log says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from harness.contract import Event, to_json
from harness.errors import InputError, MissingPart, require
from harness.live.cell import Station
from harness.live.controller import Controller
from harness.live.feed import Feed, Tick
from harness.live.job import check_arm
from harness.live.link import Link
from harness.live.measure import latency_of, measure, policy_context
from harness.live.models import ModelSpec, at_hand, trace_bytes
from harness.live.placement import ON_CPU, Placement
from harness.live.prompts import Generated
from harness.live.server import Server, ServerConfig
from harness.live.workload import KNOWN, Workload
from harness.policy import PolicyContext, make
from workloads.parts import Trainer
from workloads.scenario import load_scenario

WATCH_SECONDS = 0.5
MOST_RESTARTS = 5
"""Restarts in a row that bring no request through; then something is wrong that a restart does not mend."""

SPARE_TRAINER = Trainer(own_accelerator=False)
"""A trainer on what the server's machine has to spare: its price is what it slows the server by."""

Listener = Callable[[Sequence[Event]], None]

QUIET = {"tick", "trained"}
"""Events that are not told on standard error."""


@dataclass(frozen=True)
class ServeJob:
    """What to serve and with which policy."""

    model: ModelSpec
    policy: str
    host: str = "127.0.0.1"
    port: int = 8000
    max_k: int = 5
    prefix_caching: bool = True
    events: Path | None = None
    """File that gets every event as a line of JSON."""
    metrics_port: int | None = None
    """Port that answers Prometheus, on the same interface."""
    seed: int = 0
    placement: Placement = ON_CPU


def command_line(job: ServeJob) -> tuple[Link, str]:
    """A new link, and what a user types to start a server on it: for `serve --print-flags`. Fetches nothing."""
    link = Link.create(trace_bytes(job.model))
    return link, _config(job, link).command_line()


def serve(job: ServeJob, attach: Path | None = None) -> None:
    """Serve until interrupted. `attach`: the link folder of a server that was started by hand."""
    check_arm(job.policy, job.max_k)
    if job.metrics_port == job.port:
        raise InputError(f"metrics port {job.port} is the server's own; give another")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_Serving(replace(job, model=at_hand(job.model, _say)), attach).run())


class _Serving:
    def __init__(self, job: ServeJob, attach: Path | None) -> None:
        self._job = job
        self._attach = attach
        self._policy = make(job.policy)
        self._work = Path(tempfile.mkdtemp(prefix="specdrift-weights-"))
        self._log = Path(tempfile.gettempdir()) / f"specdrift-serve-{job.port}.log"
        """Outlives us: it says why a server died."""
        self._stop = asyncio.Event()
        self._known: PolicyContext | None = None
        """Measured on the server's first life."""

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, self._work, ignore_errors=True)
            listeners = [self._metrics(stack)] if self._job.metrics_port is not None else []
            sink = Teller(self._job.events, listeners)
            stack.callback(sink.close)
            failures = 0
            while not self._stop.is_set() and failures < MOST_RESTARTS:
                served = await self._once(sink)
                failures = 0 if served else failures + 1
            if failures >= MOST_RESTARTS:
                raise MissingPart(f"the server died {failures} times without answering a request")

    def _metrics(self, stack: contextlib.ExitStack) -> Listener:
        """Prometheus answered from now on until the stack is closed."""
        require("live", "prometheus_client")
        from harness.live.metrics import Metrics

        metrics, port = Metrics(), self._job.metrics_port
        assert port is not None
        stack.callback(metrics.answer(self._job.host, port))
        return metrics.events

    async def _once(self, sink: Teller) -> bool:
        """One life of the server; True when it answered requests before it ended."""
        sink.answered = 0
        station = await self._station()
        try:
            if self._stop.is_set():  # interrupted while it started
                return False
            policy = make(self._job.policy)
            self._known = self._known or await self._context(station)
            trainer = await station.reset(policy, self._job.seed, untrained=False)
            controller = Controller(
                link=station.server.link,
                policy=policy,
                context=self._known,
                static=station.static if station.server.config.drafter else None,
                trainer=trainer,
                slo={},
                sink=sink,
            )
            controller.begin()
            controller.note("serving", url=station.server.url, model=self._job.model.name)
            await self._watch(controller, station)
            return sink.answered > 0
        finally:
            station.close()

    async def _watch(self, controller: Controller, station: Station) -> None:
        gone = asyncio.Event()
        control = asyncio.create_task(controller.run(gone))
        while not self._stop.is_set() and not control.done():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), WATCH_SECONDS)
            if not self._attach and not station.server.alive:
                controller.note(
                    "fault", fault="server_died", note="starting it again, with the static drafter"
                )
                break
        gone.set()
        await control

    async def _station(self) -> Station:
        """The server, ready; started unless one was started by hand."""
        if self._attach is not None:
            link = Link.open(self._attach)
            server = Server(_config(self._job, link), link, self._log, None, self._job.port)
            return Station(server, self._work, ours=False)
        link = Link.create(trace_bytes(self._job.model))
        _say(f"starting vLLM (log: {self._log})")
        server = Server.start(_config(self._job, link), link, self._log)
        station = Station(server, self._work)
        try:
            while not server.ready() and not self._stop.is_set():
                await asyncio.sleep(WATCH_SECONDS)
        except MissingPart:
            station.close()
            raise
        return station

    async def _context(self, station: Station) -> PolicyContext:
        """Calibrated on this server before it is announced."""
        from harness.speculator.texts import load_tokenizer

        job = self._job
        trainer = SPARE_TRAINER.model_copy(update={"own_accelerator": job.placement.own_gpu})
        scenario = load_scenario("steady").model_copy(update={"trainer": trainer})
        workload = Workload(scenario, KNOWN, 1.0, Generated(load_tokenizer(Path(job.model.target)), KNOWN))
        drafter = self._policy.uses_drafter
        measured = await measure(
            station.server,
            workload.known(job.seed),
            ks=sorted({0, 1, 3, job.max_k}) if drafter else (0,),
            concurrency=[n for n in (1, 4, 16) if n <= job.model.max_num_seqs],
        )
        model = latency_of([(measured, drafter)], job.model.name, job.model.block_size)
        mean = workload.mean_context(job.seed)
        return policy_context(self._policy, job.model, job.max_k, measured, model, scenario, mean, job.seed)


class Teller:
    """The controller's sink while serving: events as lines and to listeners, nothing of what was said."""

    def __init__(
        self, path: Path | None, listeners: Sequence[Listener] = (), out: TextIO = sys.stderr
    ) -> None:
        self._listeners = listeners
        self._file = path.open("a", encoding="utf-8") if path is not None else None
        self._out = out
        self.answered = 0

    def tick(self, tick: Tick, feed: Feed, began: float) -> None:
        self.answered += len(tick.met)

    def events(self, events: Sequence[Event]) -> None:
        for listener in self._listeners:
            listener(events)
        for event in events:
            line = {"time": round(event.time, 3), "kind": event.kind, **json.loads(to_json(event.detail))}
            if self._file is not None:
                self._file.write(json.dumps(line) + "\n")
                self._file.flush()
            if event.kind not in QUIET:
                print(
                    f"specdrift [{event.time:7.1f} s] {_sentence(event.kind, line)}",
                    file=self._out,
                    flush=True,
                )

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _sentence(kind: str, line: dict[str, Any]) -> str:
    details = ", ".join(f"{k} {v}" for k, v in line.items() if k not in ("time", "kind"))
    return f"{kind}: {details}"


def _config(job: ServeJob, link: Link) -> ServerConfig:
    return ServerConfig(
        job.model,
        link.folder,
        drafter=make(job.policy).uses_drafter,
        max_k=job.max_k,
        host=job.host,
        port=job.port,
        prefix_caching=job.prefix_caching,
        placement=job.placement,
    )


def _say(text: str) -> None:
    print(f"specdrift: {text}", file=sys.stderr, flush=True)
