"""Speed and memory of the simulator, beside published and measured figures of its peers.

    python benchmarks/simulator.py            # speed at mean batch 32, then cost from 10k to 1M requests
    python benchmarks/simulator.py --quick    # up to 100k requests

Everything runs through the real path: world, policy, trainer, run log on disk. CPU seconds of one
process, compilation excluded (a short run warms up first). Figures in docs/performance.md.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.runlog import CellWriter
from harness.sim.build import build_world
from harness.sim.cell import Cell
from harness.sim.recorder import Recorder
from workloads.scenario import Scenario, scenario_from

PEERS = (
    ("Vidur (Python, 2024), measured", "2.2-4.1k", "30-76k"),
    ("Frontier (Python, 2026), measured", "-", "3.6k"),
    ("BLIS (Go), measured", "-", "36k"),
    ("target", "20k", "600k"),
)
"""Engine steps and output tokens per CPU-second on a two-core machine."""

RATE = 16.5
"""Requests per second that give a mean batch near 32 with K = 3 on the published H100 fit."""


def scenario(requests: int) -> Scenario:
    return scenario_from(
        {
            "name": "benchmark",
            "question": "How fast is the simulator at a mean batch of 32?",
            "requests": requests,
            "arrivals": {"process": "poisson", "rate": RATE},
            "mixture": {"kind": "constant", "domains": {"chat": 1.0}},
        },
        "benchmark",
    )


def measure(requests: int, policy: str) -> dict[str, float]:
    """One cell of `requests` under `policy`, streamed to a run log that is thrown away."""
    with tempfile.TemporaryDirectory() as folder, CellWriter(Path(folder), "arm", 0) as writer:
        counter = _Counter(writer)
        world = build_world(Cell(scenario(requests), policy, 0, "h100-llama3-8b"), counter)
        began = time.process_time()
        world.run()
        counter.close()
        seconds = time.process_time() - began
    return {
        "requests": requests,
        "cpu_s": seconds,
        "steps_per_s": counter.steps / seconds,
        "tokens_per_s": counter.tokens / seconds,
        "batch": counter.sequences / counter.steps,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


class _Counter(Recorder):
    """The real recorder, counting what passes through."""

    def __init__(self, writer: CellWriter) -> None:
        super().__init__(writer)
        self.steps = self.tokens = self.sequences = 0

    def step_rows(self, rows) -> None:
        self.steps += len(rows)
        self.tokens += int(rows["output_tokens"].sum())
        self.sequences += int(rows["batch"].sum())
        super().step_rows(rows)


def in_own_process(requests: int, policy: str) -> str:
    """The figures of one size, measured in a fresh process so that peak memory is its own."""
    asked = [sys.executable, __file__, "--one", str(requests), policy]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout


def line(name: str, m: dict[str, float]) -> str:
    return (
        f"{name:34s} {m['requests']:>9,.0f} {m['cpu_s']:>8.1f} {m['steps_per_s']:>9,.0f} "
        f"{m['tokens_per_s']:>11,.0f} {m['batch']:>6.1f} {m['peak_mib']:>9,.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="stop at 100k requests")
    parser.add_argument("--one", nargs=2, metavar=("REQUESTS", "POLICY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        requests, policy = int(options.one[0]), options.one[1]
        measure(200, policy)
        print(line(f"specdrift, {policy}", measure(requests, policy)))
        return
    print(
        f"{'':34s} {'requests':>9} {'CPU s':>8} {'steps/s':>9} {'tokens/s':>11} {'batch':>6} {'peak MiB':>9}"
    )
    for policy in ("static:3", "bandit"):
        print(in_own_process(10_000, policy), end="")
    for requests in (10_000, 100_000) if options.quick else (10_000, 100_000, 1_000_000):
        print(in_own_process(requests, "static:3"), end="")
    print("\npeers, per CPU-second" + " " * 34 + "steps      tokens")
    for name, steps, tokens in PEERS:
        print(f"{name:52s} {steps:>9} {tokens:>11}")


if __name__ == "__main__":
    main()
