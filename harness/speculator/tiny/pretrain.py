"""Training the tiny target on generated text: next-token prediction on packed rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from harness.rng import stream
from harness.speculator.tiny.spec import TinySpec
from workloads.text import TEXT_DOMAINS, Sample, sample

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""


def prompt_text(s: Sample) -> str:
    """What a client sends for this sample; the model continues behind it."""
    return s.prompt + "\n"


def encode(tokenizer: Any, s: Sample) -> list[int]:
    """Token ids of a whole sample, begin and end of text included."""
    text: list[int] = tokenizer.encode(prompt_text(s) + s.completion)
    return [*text, tokenizer.eos_token_id]


def texts(seed: int, style: str, *names: str) -> Iterator[Sample]:
    """Endless samples, domains in turn."""
    rng = stream(seed, "text", style, *names)
    while True:
        for domain in TEXT_DOMAINS:
            yield sample(domain, rng, style=style)


def rows(tokenizer: Any, samples: Iterator[Sample], batch: int, length: int) -> Iterator[torch.Tensor]:
    """int64[batch, length] blocks: samples one behind another, each row begins with a new one."""
    while True:
        block = np.zeros((batch, length), dtype=np.int64)
        for row in block:
            held: list[int] = []
            while len(held) < length:
                held += encode(tokenizer, next(samples))
            row[:] = held[:length]
        yield torch.from_numpy(block)


def train(
    model: Any, batches: Iterator[torch.Tensor], steps: int, lr: float, what: str, progress: Progress
) -> float:
    """AdamW with warm-up and decay; returns the mean loss (nats per token) of the last tenth."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: _factor(s, steps))
    model.train()
    losses: list[float] = []
    for step in range(steps):
        ids = next(batches)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        progress(what, step + 1, steps)
    return _tail(losses)


def _factor(step: int, steps: int) -> float:
    """Warm-up over the first twentieth, a level third, then down to almost nothing."""
    warm = min(1.0, (step + 1) / max(1, steps // 20))
    return warm * min(1.0, 1.5 * (1.0 - 0.97 * step / steps))


def _tail(losses: Sequence[float]) -> float:
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def new_llama(spec: TinySpec, seed: int) -> Any:
    """An untrained LlamaForCausalLM of these sizes (transformers)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=spec.vocab,
        hidden_size=spec.hidden,
        intermediate_size=spec.intermediate,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        max_position_embeddings=spec.max_position,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return _initialised(LlamaForCausalLM(config), spec.layers)


@torch.no_grad()
def _initialised(model: Any, layers: int) -> Any:
    """Weights that keep the variance of what passes: a deep narrow model hardly learns from the default 0.02.

    Branches into the residual stream are scaled by 1 / sqrt(2 layers), as in GPT-2.
    """
    for name, weight in model.named_parameters():
        if weight.dim() != 2:
            continue
        std = 0.5 if "embed" in name else 0.02 if "lm_head" in name else weight.shape[1] ** -0.5
        if "o_proj" in name or "down_proj" in name:
            std /= math.sqrt(2 * layers)
        weight.normal_(std=std)
    return model
