"""Swaps under a load that is not ours: `python benchmarks/live_swaps.py [--swaps 24] [--json]`.

A server of ours answers vLLM's own load generator (`vllm bench serve`) while drafter weights are swapped again and
again, between two sets that differ. Says how many requests failed, and the longest gap in the engine's steps at
a swap, beside the median decode step, the gaps of steps without one and those of steps beside which weights were
prepared. Needs specdrift[live] and model `tiny`; exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from harness.contract import constant_k
from harness.live.link import STEP, STEP_ROW, Link
from harness.live.models import model_spec
from harness.live.server import Server, ServerConfig, Worker
from harness.speculator import checkpoint
from harness.speculator.target import Ends
from harness.speculator.tiny import vllm_head
from harness.speculator.tiny.make import new_head

BENCH = (
    "from vllm.utils.argparse_utils import FlexibleArgumentParser as P; "
    "from vllm.benchmarks.serve import add_cli_args, main; p = P(); add_cli_args(p); main(p.parse_args())"
)
"""`vllm bench serve`, by its module: CPU builds of vLLM come without a working `vllm` command."""
DRAWS = 1000
WARM_UP = 60
"""Requests at twice the rate before the first swap: the first step at each batch size compiles what it needs."""


def other_weights(head: Path, target: Path, out: Path) -> Path:
    """The same head, untrained: weights that answer differently."""
    ends = Ends.load(target)
    vocabulary = vllm_head.load(head, ends).vocabulary
    checkpoint.save(checkpoint.snapshot(new_head(ends, vocabulary)), out)  # type: ignore[arg-type]
    return out


def load(server: Server, requests: int, rate: float, out: Path) -> subprocess.Popen[bytes]:
    spec = server.config.model
    return subprocess.Popen(
        [sys.executable, "-c", BENCH, "--backend", "vllm", "--base-url", server.url, "--model", spec.name,
         "--tokenizer", spec.target, "--dataset-name", "random", "--random-input-len", "48",
         "--random-output-len", "64", "--num-prompts", str(requests), "--request-rate", str(rate), "--ignore-eos",
         "--save-result", "--result-dir", str(out), "--result-filename", "bench.json", "--disable-tqdm"],
        stdout=(out / "bench.log").open("wb"), stderr=subprocess.STDOUT,
    )  # fmt: skip


def run(swaps: int, requests: int, rate: float) -> dict[str, object]:
    spec = model_spec("tiny", cache_only=True)
    link = Link.create()
    link.control.write_schedule(constant_k(3))
    work = Path(tempfile.mkdtemp(prefix="specdrift-swaps-"))
    server = Server.start(ServerConfig(spec, link.folder), link, work / "server.log")
    try:
        server.wait_ready()
        files = [Path(spec.head) / "model.safetensors"]
        files.append(other_weights(Path(spec.head), Path(spec.target), work / "other.safetensors"))
        load(server, WARM_UP, 2 * rate, work).wait()
        list(link.steps.take())  # steps of the warm-up
        bench = load(server, requests, rate, work)
        worker, answers, rows = Worker(link), [], []
        while bench.poll() is None:
            rows += [np.frombuffer(c, STEP_ROW)[0] for kind, c in link.steps.take() if kind == STEP]
            if len(rows) > 100 and len(answers) < swaps:
                at = time.monotonic()
                answers.append((at, worker.swap(files[(len(answers) + 1) % 2], len(answers) + 1)))
            time.sleep(0.4)
        rows += [np.frombuffer(c, STEP_ROW)[0] for kind, c in link.steps.take() if kind == STEP]
        if bench.returncode:
            raise SystemExit((work / "bench.log").read_text()[-2000:])
        return report(np.array(rows), answers, json.loads((work / "bench.json").read_text()))
    finally:
        server.stop()
        link.remove()


def report(
    rows: np.ndarray, answers: list[tuple[float, dict[str, object]]], bench: dict[str, object]
) -> dict[str, object]:
    """A gap is what passes between the end of one step and the begin of the next while requests run, and what a
    step takes longer than the median of its batch size: the flip happens as a step begins. Steps without a swap
    have gaps too (other processes on two cores); *caused* is the longest at a swap less the longest that as many
    ordinary steps have, median over draws of them."""
    places = (
        np.flatnonzero((rows["prefill_tokens"][1:] == 0) & (rows["batch"][1:] > 0) & (rows["batch"][:-1] > 0))
        + 1
    )
    gaps = 1e3 * gaps_before(rows, places)
    swapped = np.diff(rows["drafter_version"])[places - 1] != 0  # the first step of each version
    prepared = beside_preparation(rows[places], answers) & ~swapped
    at_swaps, preparing, ordinary = gaps[swapped], gaps[prepared], gaps[~swapped & ~prepared]
    rng = np.random.default_rng(0)
    usual = float(np.median([rng.choice(ordinary, len(at_swaps)).max(initial=0.0) for _ in range(DRAWS)]))
    stalls = [1e3 * float(str(a["stall"])) for _, a in answers if a["ok"]]
    return {
        "requests": bench["completed"],
        "failed": bench.get("failed", 0),
        "swaps": len(stalls),
        "failed_swaps": len(answers) - len(stalls),
        "median_step_ms": 1e3 * float(np.median(rows["seconds"][places])),
        "longest_stall_ms": max(stalls),
        "median_stall_ms": float(np.median(stalls)),
        "longest_gap_ms": float(at_swaps.max(initial=0.0)),
        "median_gap_ms": float(np.median(at_swaps)),
        "preparing_steps": len(preparing),
        "preparing_longest_ms": float(preparing.max(initial=0.0)),
        "preparing_median_ms": float(np.median(preparing)),
        "ordinary_longest_ms": usual,
        "ordinary_median_ms": float(np.median(ordinary)),
        "ordinary_p99_ms": float(np.quantile(ordinary, 0.99)),
        "caused_ms": float(at_swaps.max(initial=0.0)) - usual,
        "versions_seen": int(rows["drafter_version"].max()),
    }


def beside_preparation(rows: np.ndarray, answers: list[tuple[float, dict[str, object]]]) -> np.ndarray:
    """bool[len(rows)]: whether a swap's weights were being prepared at some time of the step."""
    begins, ends = rows["start"], rows["start"] + rows["seconds"]
    spans = [(at, at + float(str(a["prepare"]))) for at, a in answers if a["ok"]]
    return np.array([any(b < to and at < e for at, to in spans) for b, e in zip(begins, ends, strict=True)])


def gaps_before(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Seconds, float64[len(places)]: wait for each of these decode steps and what it took beyond its batch size's
    median."""
    batch, seconds = rows["batch"][places], rows["seconds"][places]
    usual = {b: float(np.median(seconds[batch == b])) for b in np.unique(batch)}
    waited = rows["start"][places] - rows["start"][places - 1] - rows["seconds"][places - 1]
    return np.asarray(waited + seconds - np.array([usual[b] for b in batch]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--swaps", type=int, default=24)
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--rate", type=float, default=4.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = run(given.swaps, given.requests, given.rate)
    print(json.dumps(found) if given.json else "\n".join(f"{k:20s} {v}" for k, v in found.items()))
    good = not found["failed"] and not found["failed_swaps"] and found["swaps"] >= given.swaps
    return 0 if good and found["longest_gap_ms"] < found["median_step_ms"] else 1  # type: ignore[operator]


if __name__ == "__main__":
    sys.exit(main())
