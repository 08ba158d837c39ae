"""`specdrift make-model`: a tiny target, its tokenizer, an EAGLE-3 head and a fine-tuned successor.

<folder>/target      LlamaForCausalLM and tokenizer, Hugging Face format
<folder>/successor   the same, fine-tuned on text of another style: the verifier update
<folder>/head        EAGLE-3 head pretrained on the first domain only, vLLM's checkpoint layout
<folder>/made.json   sizes, seed, losses, seconds; written last, so a folder without it is not whole
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import workloads.text
from harness.errors import InputError
from harness.rng import stream
from harness.speculator.checkpoint import write_json
from harness.speculator.drafters.eagle3 import Eagle3
from harness.speculator.objectives import combine
from harness.speculator.rollouts import Rollouts, roll_out
from harness.speculator.rows import build_rows
from harness.speculator.target import Target, quiet
from harness.speculator.tiny import vllm_head
from harness.speculator.tiny.alone import make_alone
from harness.speculator.tiny.pretrain import Progress, encode, new_llama, prompt_text, rows, texts, train
from harness.speculator.tiny.spec import ALONE, TinySpec, tiny_spec
from harness.speculator.tiny.tokenizer import train_tokenizer
from harness.speculator.vocabulary import DraftVocabulary
from workloads.text import TEXT_DOMAINS, sample

FIRST_DOMAIN = TEXT_DOMAINS[0]
TOKENIZER_SAMPLES = 3000
HEAD_OUTPUT = 64
"""Output tokens of the texts that the head is pretrained on."""
HEAD_DEPTH = 5


@dataclass(frozen=True, slots=True)
class TinyModel:
    """Where the parts are."""

    folder: Path

    @property
    def target(self) -> Path:
        return self.folder / "target"

    @property
    def successor(self) -> Path:
        return self.folder / "successor"

    @property
    def head(self) -> Path:
        return self.folder / "head"

    @property
    def record(self) -> dict[str, Any]:
        """What `made.json` says."""
        found: dict[str, Any] = json.loads((self.folder / "made.json").read_text(encoding="utf-8"))
        return found


def cache_folder() -> Path:
    """`$SPECDRIFT_CACHE`, or the user's cache directory."""
    given = os.environ.get("SPECDRIFT_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else (Path(base) if base else Path.home() / ".cache") / "specdrift"


def made_model(
    name: str, seed: int = 0, folder: Path | None = None, progress: Progress = lambda *_: None
) -> TinyModel:
    """The model of that name (`spec.made_names`): from `folder` (default: the cache) if it is there whole, else made
    there."""
    place = folder or made_place(name, seed)
    if (place / "made.json").is_file():
        return TinyModel(place)
    if place.exists() and any(place.iterdir()):
        raise InputError(f"{place} is not empty and holds no model made by specdrift; name another folder")
    beside = place.with_name(f"{place.name}.{os.getpid()}.tmp")
    try:
        _make_any(name, seed, beside, progress)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(beside, place)
    except OSError:
        if not (place / "made.json").is_file():  # else another process was first: its model is the same
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return TinyModel(place)


def made_place(name: str, seed: int = 0) -> Path:
    """Where the model of that name is, or will be, in the cache.

    The key holds sizes, seed and the code that makes it, so a changed generator is never mistaken for an unchanged one.
    """
    base = name.removesuffix(ALONE)
    more = ("alone",) if base != name else ()
    return cache_folder() / "models" / f"{name}-{_digest(tiny_spec(base), seed, *more)}"


def _make_any(name: str, seed: int, out: Path, progress: Progress) -> None:
    base = name.removesuffix(ALONE)
    if base == name:
        _make(tiny_spec(name), seed, out, progress)
    else:
        make_alone(tiny_spec(base), seed, made_model(base, seed, progress=progress).folder, out, progress)


def _make(spec: TinySpec, seed: int, out: Path, progress: Progress) -> None:
    began, cpu = time.perf_counter(), time.process_time()
    model_parts = TinyModel(out)
    tokenizer = train_tokenizer(
        (prompt_text(s) + s.completion for style in ("plain", "formal")
         for s in islice(texts(seed, style, "tokenizer"), TOKENIZER_SAMPLES)),
        spec.vocab,
    )  # fmt: skip
    model = new_llama(spec, seed)
    plain = rows(tokenizer, texts(seed, "plain", "pretrain"), spec.batch, spec.length)
    loss = train(model, plain, spec.steps, spec.lr, "target", progress)
    _save_target(model, tokenizer, model_parts.target)
    head_report = _make_head(spec, seed, Target(model), tokenizer, model_parts.head, progress)
    model.requires_grad_(True)
    formal = rows(tokenizer, texts(seed, "formal", "successor"), spec.batch, spec.length)
    successor = train(model, formal, spec.successor_steps, spec.lr / 3, "successor", progress)
    _save_target(model, tokenizer, model_parts.successor)
    record = {
        "spec": asdict(spec), "seed": seed, "parameters": sum(p.numel() for p in model.parameters()),
        "loss": {"target": loss, "successor": successor, **head_report},
        "seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu,
        "first_domain": FIRST_DOMAIN,
    }  # fmt: skip
    write_json(out / "made.json", record)


def _save_target(model: Any, tokenizer: Any, folder: Path) -> None:
    quiet()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _make_head(
    spec: TinySpec, seed: int, target: Target, tokenizer: Any, folder: Path, progress: Progress
) -> dict[str, float]:
    """Pretrain the static drafter on greedy texts of the first domain, the field's usual recipe (EAGLE-3)."""
    rng = stream(seed, "text", "head")
    prompts = [tokenizer.encode(prompt_text(sample(FIRST_DOMAIN, rng))) for _ in range(spec.head_requests)]
    rolled = roll_out(target, prompts, HEAD_OUTPUT, tokenizer.eos_token_id)
    counts = torch.bincount(rolled.tokens, minlength=spec.vocab).double()
    general = [t for s in islice(texts(seed, "plain", "vocabulary"), 600) for t in encode(tokenizer, s)]
    counts += 0.05 * torch.bincount(torch.tensor(general), minlength=spec.vocab)
    torch.manual_seed(seed)
    head = new_head(target, DraftVocabulary.most_frequent(counts, spec.draft_vocab))
    loss = _pretrain(head, target, rolled, spec, seed, progress)
    vllm_head.save(head, target, folder)
    return {"head": loss}


def new_head(target: Target, vocabulary: DraftVocabulary) -> Eagle3:
    """An untrained EAGLE-3 head for the target; its lm_head starts from the target's own rows."""
    head = Eagle3(vllm_head.geometry(target.config), vocabulary, target.embedding)
    with torch.no_grad():
        head.lm_head.weight.copy_(target.head[vocabulary.ids])
    return head


def _pretrain(
    head: Eagle3, target: Target, rolled: Rollouts, spec: TinySpec, seed: int, progress: Progress
) -> float:
    rng = stream(seed, "head order")
    optimiser = torch.optim.AdamW(head.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    total, done, last = spec.head_epochs * (len(rolled) // 8), 0, 0.0
    for _ in range(spec.head_epochs):
        order = rng.permutation(len(rolled))
        for begin in range(0, len(order) - 7, 8):
            traces = [rolled.trace(int(i)) for i in order[begin : begin + 8]]
            loss, _ = combine(build_rows(head, target.head, traces, HEAD_DEPTH), {"forward_kl": 1.0})
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            for group in optimiser.param_groups:
                group["lr"] = 2e-3 * (1.0 - 0.9 * done / total)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            done, last = done + 1, float(loss.detach())
            progress("head", done, total)
    return last


def _digest(spec: TinySpec, seed: int, *more: str) -> str:
    own = [Path(__file__).with_name(f"{part}.py") for part in ("make", "pretrain", "tokenizer", *more)]
    sources = [*own, *sorted(Path(workloads.text.__file__).parent.glob("*.py"))]
    digest = hashlib.sha256(f"{spec}{seed}{torch.__version__}".encode())
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
