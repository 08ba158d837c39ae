"""Everything a user or CI runs, as sessions: `nox -l` lists them; arguments after `--` are passed on."""

from __future__ import annotations

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
    """The learning experiments of docs/learning.md, one run each; about an hour on two cores."""
    session.install(TORCH)
    session.install(".[learn]")
    for name in session.posargs or ("domain-shift", "recurring", "verifier-update", "day-zero", "long-shift"):
        scenario, run = f"benchmarks/learning/{name}.toml", f"runs/learning-{name}"
        session.run("specdrift", "simulate", "--scenario", scenario, "--acceptance", "model", "--out", run)
        session.run("specdrift", "recovery", run)


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
    session.install("-e", ".[dev,kernels,learn]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("pytest", "-n", "2", *session.posargs)
