"""Try other tile configurations on the GPU at hand and print which are faster than the committed ones.

    python -m kernels.profiling.tune [--op gemm] [--budget 240]

An aid for setting the constants in gemm.py, lm_head.py and attention.py: it changes nothing by
itself. Every candidate is checked against the reference before it is timed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from kernels import attention, gemm, lm_head
from kernels.common import H200_SMS, Inputs, Op, cdiv
from kernels.models import LLAMA3_8B, LLAMA3_70B

MARGIN = 0.97
"""A candidate must take under this share of the committed time to be worth a line."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A shape with one configuration for it."""

    op: Op
    shape: Any
    cfg: Any
    committed: bool

    def tuned(self) -> Op:
        """The op, launched with this configuration."""
        return replace(self.op, run=_with(LAUNCHERS[self.op.name], self.cfg))


def _with(launcher: Callable[..., Any], cfg: Any) -> Callable[..., Any]:
    def run(**inputs: Any) -> Any:
        out = launcher(**inputs, cfg=cfg)
        return out if isinstance(out, tuple) else (out,)

    return run


LAUNCHERS: dict[str, Callable[..., Any]] = {
    "gemm": gemm.gemm,
    "lm_head": lm_head.lm_head,
    "attention": attention.attention,
}


def gemm_trials() -> Iterator[Trial]:
    """Llama-3-8B's and a 70B shard's projections at one row count per tile."""
    models = (LLAMA3_8B, LLAMA3_70B.shard(8))
    for (n, k), m in itertools.product([p for mod in models for p in gemm.projections(mod)[:4]], gemm.TILES):
        shape = gemm.GemmShape(m, n, k)
        now = gemm.config(m, n, k, H200_SMS)
        yield Trial(gemm.OP, shape, now, True)
        deep = ((64, 5), (64, 8), (128, 3), (128, 5)) if m <= 64 else ((64, 3), (64, 4))
        for bn, (bk, stages), split in itertools.product((64, 128), deep, (1, 2, 4)):
            cfg = gemm.GemmConfig(now.bm, bn, bk, split, 4 if bn * now.bm <= 64 * 128 else 8, stages)
            if (
                cfg != now
                and fits(cfg)
                and cdiv(n, bn) * split <= 12 * H200_SMS
                and not (m == 256 and split > 1)
            ):
                yield Trial(gemm.OP, shape, cfg, False)


def fits(cfg: Any) -> bool:
    """Whether the stages of a product fit the shared memory of sm_90 (bf16; 2 KB left for barriers)."""
    return cfg.stages * (cfg.bm + cfg.bn) * cfg.bk * 2 <= 232448 - 2048


def head_trials() -> Iterator[Trial]:
    """Full and pruned vocabulary of Llama-3-8B at one row count per tile."""
    for rows, vocab in itertools.product(lm_head.TILES, (LLAMA3_8B.vocab, LLAMA3_8B.draft_vocab)):
        shape, now = lm_head.HeadShape(rows, vocab, LLAMA3_8B.hidden), lm_head.config(rows)
        yield Trial(lm_head.OP, shape, now, True)
        for bn, bk, stages in itertools.product((64, 128, 256), (64, 128), (3, 4, 5, 6)):
            cfg = lm_head.HeadConfig(now.bm, bn, bk, 4 if bn * now.bm <= 64 * 128 else 8, stages)
            if cfg != now and fits(cfg) and bn * now.bm <= 256 * 64:
                yield Trial(lm_head.OP, shape, cfg, False)


def attention_trials() -> Iterator[Trial]:
    """Each row tile, few and many sequences; tiles and chunk lengths."""
    for query_tokens, batch in itertools.product((1, 5, 16), (1, 16, 64)):
        shape = attention.AttentionShape(batch, query_tokens, 4096, 32, 8)
        now = attention.config(query_tokens * 4, 8, batch * 4096, 4096, batch, H200_SMS)
        yield Trial(attention.OP, shape, now, True)
        tiles = ((32, 4, 5), (32, 4, 7), (64, 4, 3), (64, 4, 5), (64, 8, 3), (64, 8, 5), (128, 8, 3))
        for (bn, warps, stages), chunk in itertools.product(tiles, (256, 512, 1024, 2048, 4096)):
            cfg = attention.AttentionConfig(chunk, bn, warps, stages)
            if cfg != now:
                yield Trial(attention.OP, shape, cfg, False)


TRIALS = {"gemm": gemm_trials, "lm_head": head_trials, "attention": attention_trials}


@dataclass(frozen=True, slots=True)
class Result:
    trial: Trial
    error: float
    median_us: float


def better(results: list[Result]) -> list[tuple[Result, Result]]:
    """(committed, best other) for each shape where a correct candidate beats the committed one by MARGIN."""
    found = []
    for shape in dict.fromkeys(r.trial.shape for r in results):
        mine = [r for r in results if r.trial.shape == shape and r.error <= r.trial.op.tolerance]
        committed = next((r for r in mine if r.trial.committed), None)
        best = min(mine, key=lambda r: r.median_us, default=None)
        if committed and best and best.median_us < MARGIN * committed.median_us:
            found.append((committed, best))
    return found


def measure(trial: Trial, backend: Any) -> Result:
    """Check and time one trial on the device; a launch that fails counts as infinitely wrong."""
    from kernels.profiling.gpu import DTYPE, SEED, rotated

    op = trial.tuned()
    try:
        inputs: Inputs = op.inputs(trial.shape, "cuda", DTYPE, SEED)
        error = op.check(op, inputs)
        sets = rotated(op, inputs, op.cost(trial.shape).cold_bytes, backend.properties.L2_cache_size)
        calls = [lambda s=s: op.run(**s) for s in sets] * (1 if len(sets) > 8 else 4)
        return Result(trial, error, backend.graph(calls).median_us)
    except Exception as failure:
        print(f"{trial.shape} {trial.cfg}: {type(failure).__name__}: {str(failure)[:100]}", flush=True)
        return Result(trial, float("inf"), float("inf"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m kernels.profiling.tune", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--op", action="append", choices=list(TRIALS), help="one operation; all by default")
    parser.add_argument("--budget", type=float, default=240.0, help="seconds (default 240)")
    args = parser.parse_args(argv)
    from kernels.profiling.gpu import CudaBackend

    try:
        backend = CudaBackend()
    except ValueError as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    names = args.op or list(TRIALS)
    for place, name in enumerate(names):
        end = time.monotonic() + (args.budget / len(names))
        results = []
        for trial in TRIALS[name]():
            if time.monotonic() > end:
                break
            results.append(measure(trial, backend))
        print(f"{name} ({place + 1} of {len(names)}): {len(results)} trials", flush=True)
        for old, new in better(results):
            print(f"  {old.trial.shape}\n    {old.median_us:9.2f} us {old.trial.cfg}")
            print(f"    {new.median_us:9.2f} us {new.trial.cfg}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
