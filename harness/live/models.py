"""From a name or path to what live mode serves: a target, its drafter head, and how."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import InputError, MissingPart, UnknownName, require_learning
from harness.gpus import gpus
from harness.live.hub import cached, is_repository, local_folder
from harness.live.installed import vllm_build
from harness.live.link import TRACES_BYTES
from harness.progress import in_quarters
from harness.speculator.tiny.spec import ALONE, made_names, tiny_spec

FILE = Path(__file__).with_name("models.toml")
CPU_SEQUENCES = 16
"""Decoding at once on a CPU: behind that a step of a tiny target takes over 0.1 s."""
GPU_SEQUENCES = 64
RING_TOKENS = 16_384
"""Of a few full steps of prompts, so that the trainer may look away for a moment."""
UNKNOWN_WIDTH = 8192
HEAD, INDEPENDENT = "eagle3", "llama"
"""Kinds of drafter that a server loads: an EAGLE-3 head, or a model that needs nothing of the target but its tokens."""
INDEPENDENT_ARCHITECTURES = ("LlamaForCausalLM", "Qwen3ForCausalLM")
HEAD_KEYS = ("draft_vocab_size", "eagle_config", "speculators_model_type")
"""What the configuration of a head says, whatever it calls its architecture."""
UNKNOWN_LENGTH = 2048
"""Longest context where the target's configuration is not here yet: what most EAGLE-3 heads are trained for."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What is served and how. `target` and `head` (the drafter) are folders or ids of the Hugging Face hub."""

    name: str
    target: str
    head: str
    dtype: str
    """As vLLM spells it."""
    tensor_parallel: int
    max_model_len: int
    """Prompt and output tokens of one request."""
    max_num_seqs: int
    device: str
    """`cpu` or `gpu`."""
    made: bool = False
    """Made by specdrift, here or by the next call of `made_model`."""
    successor: Path | None = None
    """The fine-tuned target that a verifier update brings."""
    min_gpu_gib: float = 0.0
    """Memory of each GPU; 0 where nobody worked it out."""
    gated: bool = False
    """Whether the target wants its licence accepted before it can be downloaded."""

    @property
    def block_size(self) -> int:
        """Tokens of a KV block: vLLM's own choice on a GPU; on a CPU small enough to tell contexts apart."""
        return 16 if self.device == "gpu" else 32

    @property
    def drafter(self) -> str:
        """Kind of the drafter in `head`; `HEAD` where it is not here yet."""
        here = cached(self.head) if is_repository(self.head) else Path(self.head)
        return drafter_kind(here) if here is not None else HEAD

    @property
    def needs_making(self) -> bool:
        """Whether `made_model` has still to make it; minutes."""
        return self.made and not (Path(self.target).parent / "made.json").is_file()


def drafter_kind(folder: Path) -> str:
    """`HEAD` or `INDEPENDENT`, by the configuration in a folder; `HEAD` without one."""
    said = _config(folder)
    alone = any(name in INDEPENDENT_ARCHITECTURES for name in said.get("architectures") or ())
    return INDEPENDENT if alone and not any(key in said for key in HEAD_KEYS) else HEAD


def model_names() -> tuple[str, ...]:
    """The names that `model_spec` knows."""
    return (*made_names(), *_table())


def model_spec(name_or_path: str, cache_only: bool = False) -> ModelSpec:
    """The model of a name (see `model_names`), of a folder that holds `target/` and `head/`, or of a pair
    `TARGET,DRAFTER` of folders or hub ids.

    Args:
        cache_only: a model that specdrift has still to make is MissingPart.

    Raises:
        InputError, UnknownName, MissingPart.
    """
    if name_or_path in _table():
        return ModelSpec(name=name_or_path, device="gpu", **_table()[name_or_path])
    if name_or_path in made_names():
        return _made(name_or_path, cache_only)
    if "," in name_or_path:
        return _pair(name_or_path)
    if Path(name_or_path).is_dir() or "/" in name_or_path:
        return _folder(Path(name_or_path))
    raise UnknownName("model", name_or_path, model_names())


@cache
def _table() -> dict[str, dict[str, Any]]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def _made(name: str, cache_only: bool) -> ModelSpec:
    require_learning()
    # Where it lies depends on the code that makes it, which only that code knows.
    from harness.speculator.tiny.make import made_place

    found = _of_folder(name, made_place(name), tiny_spec(name.removesuffix(ALONE)).max_position, made=True)
    if cache_only and found.needs_making:
        raise MissingPart(f"model {name!r} has not been made yet; specdrift make-model {name} makes it")
    return found


def _folder(folder: Path) -> ModelSpec:
    lengths = _length(folder / "target")
    if lengths is None or not (folder / "head" / "config.json").is_file():
        raise InputError(
            f"{str(folder)!r} is no folder with a model in target/ and in head/; "
            "two places are given as TARGET,DRAFTER, each a folder or an id of the Hugging Face hub"
        )
    return _of_folder(folder.resolve().name, folder, lengths, made=(folder / "made.json").is_file())


def _of_folder(name: str, folder: Path, length: int, made: bool) -> ModelSpec:
    device = _device()
    successor = folder / "successor"
    # A made target is float32; GPU attention kernels want half precision.
    dtype = ("float32" if device == "cpu" else "bfloat16") if made else "auto"
    return ModelSpec(
        name, str(folder / "target"), str(folder / "head"), dtype, 1, length, _sequences(device), device, made,
        successor if made or successor.is_dir() else None,
    )  # fmt: skip


def _pair(pair: str) -> ModelSpec:
    target, _, head = (part.strip() for part in pair.partition(","))
    for what, place in (("target", target), ("head", head)):
        if not is_repository(place) and not (Path(place) / "config.json").is_file():
            raise InputError(
                f"the {what} of {pair!r} is {place!r}; it must be a folder with a config.json or an id of the "
                "Hugging Face hub (owner/name)"
            )
    device = _device()
    length = _length(Path(target)) or UNKNOWN_LENGTH
    return ModelSpec(pair, target, head, "auto", 1, length, _sequences(device), device)


def _length(folder: Path) -> int | None:
    """Longest context of a model folder; None without a configuration."""
    said = _config(folder)
    try:
        return int(said.get("max_position_embeddings", UNKNOWN_LENGTH)) if said else None
    except (ValueError, TypeError) as error:
        raise InputError(f"{folder / 'config.json'} is no model configuration: {error}") from error


def _config(folder: Path) -> dict[str, Any]:
    """What the configuration of a model folder says; nothing without one."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'config.json'} is no model configuration: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{folder / 'config.json'} is no model configuration: it holds no table of settings")
    return found


def at_hand(spec: ModelSpec, say: Callable[[str], object] = lambda text: None) -> ModelSpec:
    """The same model with its weights in folders of this machine; made (which is said) or downloaded where they are
    not."""
    if spec.needs_making:
        from harness.speculator.tiny.make import made_model

        say(f"making model {spec.name!r}, once on this machine (minutes)")
        made_model(spec.name, progress=in_quarters(say))
    return replace(spec, target=str(local_folder(spec.target)), head=str(local_folder(spec.head)))


def trace_bytes(spec: ModelSpec) -> int:
    """Size of the ring of traces: `RING_TOKENS` tokens of four bfloat16 states each, `UNKNOWN_WIDTH` wide where the
    target's configuration is not here yet."""
    config = Path(spec.target) / "config.json"
    width = (
        json.loads(config.read_text(encoding="utf-8"))["hidden_size"] if config.is_file() else UNKNOWN_WIDTH
    )
    return max(TRACES_BYTES, RING_TOKENS * 4 * 2 * int(width))


def _device() -> str:
    return "gpu" if gpus() and vllm_build() != "cpu" else "cpu"


def _sequences(device: str) -> int:
    return CPU_SEQUENCES if device == "cpu" else GPU_SEQUENCES
