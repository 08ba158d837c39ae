"""A vLLM server as a process of ours: its flags, its start, its end, and noticing when it died."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import MissingPart
from harness.live.link import CONFIG_KEY, RESTS_KEY, Link
from harness.live.models import HEAD, INDEPENDENT, ModelSpec
from harness.live.orphan import VARIABLE
from harness.live.placement import ON_CPU, Placement

START_SECONDS = 600.0
STOP_SECONDS = 20.0
MAX_BATCHED_TOKENS = 2048
"""Tokens of one engine step: prompts are cut to fit. The simulator's default too."""

METHODS = {HEAD: "eagle3", INDEPENDENT: "draft_model"}
"""Kinds of drafter, as vLLM calls them."""

CPU_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
"""One thread for the engine: two that wait for each other on two busy cores make steps ten times slower."""

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""The tap and the swap know vLLM's first model runner only."""


@dataclass(frozen=True)
class ServerConfig:
    """What a server is started with."""

    model: ModelSpec
    link: Path
    drafter: bool = True
    max_k: int = 5
    host: str = "127.0.0.1"
    port: int = 0
    prefix_caching: bool = False
    rest: bool = True
    """At K = 0 the drafter may rest (`resting.py`); else its first pass runs in every step, as in vLLM."""
    placement: Placement = ON_CPU
    extra: tuple[str, ...] = ()
    """More flags of vLLM's own."""

    def flags(self) -> list[str]:
        """Flags of `vllm serve` (without the model), as a user could type them."""
        m = self.model
        scheduler = "LiveScheduler" if m.device == "cpu" else "LiveAsyncScheduler"
        flags = [
            "--host", self.host, "--port", str(self.port), "--served-model-name", m.name,
            "--dtype", m.dtype, "--max-model-len", str(m.max_model_len), "--max-num-seqs", str(m.max_num_seqs),
            "--block-size", str(m.block_size), "--max-num-batched-tokens", str(MAX_BATCHED_TOKENS),
            "--enable-prefix-caching" if self.prefix_caching else "--no-enable-prefix-caching",
            "--scheduler-cls", f"harness.live.scheduler.{scheduler}",
            "--worker-cls", "harness.live.worker.LiveWorker",
            "--additional-config", json.dumps(self._additional()),
        ]  # fmt: skip
        if m.device == "cpu":
            executor = "uni" if m.tensor_parallel == 1 else "mp"
            flags += ["--enforce-eager", "--distributed-executor-backend", executor]
        if self.placement.share is not None:
            flags += ["--gpu-memory-utilization", str(self.placement.share)]
        if m.tensor_parallel > 1:
            flags += ["--tensor-parallel-size", str(m.tensor_parallel)]
        if self.drafter:
            flags += ["--speculative-config", json.dumps(self._speculation())]
        return [*flags, *self.extra]

    def _additional(self) -> dict[str, Any]:
        return {CONFIG_KEY: str(self.link)} | ({} if self.rest else {RESTS_KEY: False})

    def _speculation(self) -> dict[str, Any]:
        """Every K is in the start-up schedule, since CUDA graphs are captured for those alone."""
        top = self.model.max_num_seqs
        ranges = [[i + 1, i + 1, k] for i, k in enumerate(range(self.max_k, -1, -1))][: top - 1]
        ranges.append([len(ranges) + 1, top, self.max_k])
        found = {
            "method": METHODS[self.model.drafter],
            "model": self.model.head,
            "num_speculative_tokens": self.max_k,
            "num_speculative_tokens_per_batch_size": ranges,
        }
        if self.model.drafter == INDEPENDENT and self.model.tensor_parallel > 1:
            found["draft_tensor_parallel_size"] = self.model.tensor_parallel
        return found

    def environment(self) -> dict[str, str]:
        """Variables to set beside the flags."""
        return ENVIRONMENT | (CPU_ENVIRONMENT if self.model.device == "cpu" else {})

    def command_line(self) -> str:
        """What a user types to start the same server by hand."""
        words = [f"{k}={shlex.quote(v)}" for k, v in self.environment().items()]
        return " ".join([*words, "python3", *map(shlex.quote, self.arguments(self.port))])

    def arguments(self, port: int) -> list[str]:
        """Of the Python interpreter: vLLM's server by its module, since CPU builds come without a working `vllm`."""
        flags = self.flags()
        flags[flags.index("--port") + 1] = str(port)
        return ["-m", "vllm.entrypoints.openai.api_server", "--model", self.model.target, *flags]


@dataclass
class Server:
    """A running server. `start` returns at once; `wait_ready` says when it answers."""

    config: ServerConfig
    link: Link
    log: Path
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, config: ServerConfig, link: Link, log: Path) -> Server:
        """Begin to start it; its output goes to `log`."""
        port = config.port or free_port()
        command = [sys.executable, *config.arguments(port)]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | config.environment() | {VARIABLE: str(os.getpid())},
                start_new_session=True,
            )
        return cls(config, link, log, process, port)

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.config.host in ("0.0.0.0", "::") else self.config.host
        return f"http://{host}:{self.port}"

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def ready(self) -> bool:
        """Whether it answers now. MissingPart when it died on the way, with the reason it gave."""
        if not self.alive:
            raise MissingPart(
                f"the vLLM server did not start: {last_words(self.log)} (whole log: {self.log})"
            )
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2.0) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        """Block until it answers. MissingPart when it died or took too long."""
        while not self.ready():
            if time.monotonic() - self.started > seconds:
                self.stop()
                raise MissingPart(f"the vLLM server was not ready after {seconds:.0f} s (log: {self.log})")
            time.sleep(0.25)

    def stop(self) -> None:
        """End the server and all of its processes."""
        if self.process is None:
            return
        for how, patience in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 5.0)):
            try:
                os.killpg(self.process.pid, how)
            except ProcessLookupError:
                break
            try:
                self.process.wait(patience)
                if how == signal.SIGTERM:
                    continue  # what it left behind in its group, if anything, is killed next
            except subprocess.TimeoutExpired:
                continue
        self.process.wait()


def free_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def last_words(log: Path) -> str:
    """The last line of a log that looks like a reason."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "it left no log"
    reasons = [line for line in lines if "Error" in line and "raise " not in line]
    found = (reasons or lines or ["it said nothing"])[-1].strip()
    return found[-300:]


class Worker:
    """The worker's socket: ask for a swap, or for its state."""

    def __init__(self, link: Link, timeout: float = 120.0) -> None:
        self._link = link
        self._timeout = timeout

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """One question, one answer. An answer `ok: false` comes back as it is, so does a server that is gone."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self._timeout)
                connection.connect(str(self._link.socket))
                with connection.makefile("rw", encoding="utf-8") as lines:
                    lines.write(json.dumps(question) + "\n")
                    lines.flush()
                    answer = lines.readline()
            return json.loads(answer) if answer else {"ok": False, "error": "the worker hung up"}
        except (OSError, ValueError) as error:
            return {"ok": False, "error": f"no answer from the worker: {error}"}

    def swap(
        self, path: Path, version: int, what: str = "drafter", kv_invalid: bool = False
    ) -> dict[str, Any]:
        return self.ask(
            {"op": "swap", "what": what, "path": str(path), "version": version, "kv_invalid": kv_invalid}
        )

    def state(self) -> dict[str, Any]:
        return self.ask({"op": "state"})
