"""A small Llama of its own as drafter of a made target: model `tiny+llama`, with the target and successor of `tiny`."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from harness.rng import stream
from harness.speculator.checkpoint import write_json
from harness.speculator.target import quiet
from harness.speculator.tiny.pretrain import Progress, new_llama, rows, train
from harness.speculator.tiny.spec import TinySpec
from workloads.text import Sample, sample

LAYERS = 2
"""Of the target's own width. It takes as many optimiser steps as the target, each a tenth as long."""


def make_alone(spec: TinySpec, seed: int, base: Path, out: Path, progress: Progress) -> None:
    """Into `out`: the target and successor of the made model `base`, and a drafter pretrained on the first domain."""
    from transformers import AutoTokenizer

    began, cpu = time.perf_counter(), time.process_time()
    record = json.loads((base / "made.json").read_text(encoding="utf-8"))
    for part in ("target", "successor"):
        shutil.copytree(base / part, out / part)
    tokenizer = AutoTokenizer.from_pretrained(base / "target")
    model = new_llama(replace(spec, layers=LAYERS), seed)
    batches = rows(tokenizer, _texts(record["first_domain"], seed), spec.batch, spec.length)
    loss = train(model, batches, spec.steps, spec.lr, "drafter", progress)
    quiet()
    model.save_pretrained(out / "head")
    tokenizer.save_pretrained(out / "head")
    record["loss"]["head"] = loss
    record["drafter"] = "llama"
    record["seconds"], record["cpu_seconds"] = time.perf_counter() - began, time.process_time() - cpu
    write_json(out / "made.json", record)


def _texts(domain: str, seed: int) -> Iterator[Sample]:
    rng = stream(seed, "text", "drafter")
    while True:
        yield sample(domain, rng)
