"""Inside the trainer process: traces in, steps of the learner, vetted candidates out as files."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from harness.contract import TrainerState, TrainPlan
from harness.errors import InputError
from harness.live.assemble import Assembler
from harness.live.link import Link
from harness.live.models import INDEPENDENT, drafter_kind
from harness.live.report import STATIC_FILE, Report, TrainerConfig
from harness.service import KEPT_VERSIONS
from harness.speculator import checkpoint, draft_model
from harness.speculator.checkpoint import Snapshot
from harness.speculator.drafters.base import Drafter
from harness.speculator.drafters.eagle3 import Eagle3
from harness.speculator.learner import Learner
from harness.speculator.settings import learner
from harness.speculator.target import Ends
from harness.speculator.tiny import vllm_head

IDLE_SECONDS = 0.02
JOINED_SECONDS = 0.005
"""Optimiser steps with a pause of at most this between them are one stretch of work."""
KEPT_FILES = 16
"""Candidate files kept that were not published."""


class Training:
    """The learner of one run, and what it reports. `begin` starts over for another run."""

    def __init__(self, config: TrainerConfig) -> None:
        self._config = config
        self._traces = Link.open(config.link).traces
        self._ends = Ends.load(config.target)
        self._files: list[Path] = []
        self._published: list[Path] = []
        self._serving_path: Path | None = None
        self._written = 0
        self._begin(0, config.learner, config.seed, config.untrained)

    # --- what the controller says ---

    def obey(self, what: str, *details: Any) -> None:
        """See `TrainerProcess.tell`."""
        if what == "plan":
            self._plan = details[0]
        elif what == "serving":
            self._serving = checkpoint.load(details[0]) if details[0] else self.learner.static
            self._serving_path = details[0]
        elif what == "published":
            self._keep(details[0])
            self._forget_candidate()
            self._published_samples = self.learner.samples
        elif what == "verifier":
            ends = Ends.load(details[1])
            self.learner.set_verifier(details[0], ends.head, ends.embedding)
            self._forget_candidate()
        elif what == "begin":
            self._begin(*details)
        elif what == "corrupt":
            self._corrupt_next = True
        else:
            raise InputError(f"the trainer was told {what!r}, which it does not know")

    def _begin(self, run: int, name: str, seed: int, untrained: bool) -> None:
        self._run = run
        for _ in self._traces.take():
            pass  # traces of what ran before
        self._dropped_before = self._traces.dropped
        torch.manual_seed(seed)
        device, settings = self._config.device, learner(name)
        drafter = first_drafter(self._config.head, self._ends, untrained, seed).to(device)
        self.learner = Learner(drafter, self._ends.head.to(device), settings, seed, fresh=untrained)
        self._assembler = Assembler(_end_tokens(self._ends), settings.branches)
        self._plan = TrainPlan()
        self._serving = self.learner.static
        self._serving_path = None
        checkpoint.save(self._serving, self._config.out / STATIC_FILE)
        self._candidate: Snapshot | None = None
        self._path: Path | None = None
        self._corrupt_next = False
        self._refusal = ""
        self._published_samples = 0
        self._busy = 0.0
        self._worked: list[tuple[float, float]] = []
        self._tokens = self._peak = 0
        self._state = TrainerState(alive=True)
        self._rest_until = 0.0

    # --- its own life ---

    def work(self) -> bool:
        """Take in what lies there, then one optimiser step if the plan wants one; True after a checkpoint."""
        took = False
        for trace in self._assembler.feed(self._traces.take(256)):
            took = True
            self._tokens += len(trace)
            if self._plan.on or self.learner.steps:
                self.learner.add(trace)
        self._peak = max(self._peak, self.learner.buffer.nbytes)
        if not self._plan.on or self._plan.budget == 0 or not self.learner.ready():
            if not took:
                time.sleep(IDLE_SECONDS)
            return False
        if time.monotonic() < self._rest_until:
            time.sleep(IDLE_SECONDS)
            return False
        began = time.monotonic()
        self.learner.step(self._plan)
        checkpointed = self.learner.steps % self.learner.settings.checkpoint_steps == 0
        if checkpointed:
            self._checkpoint()
        ended = time.monotonic()
        self._busy += ended - began
        self._rest_until = began + (ended - began) / self._plan.budget
        self._remember_work(began, ended)
        return checkpointed

    def _remember_work(self, began: float, ended: float) -> None:
        if self._worked and began - self._worked[-1][1] <= JOINED_SECONDS:
            began, _ = self._worked.pop()
        self._worked.append((began, ended))

    def report(self) -> Report:
        """What there is to say now; when it worked is said once."""
        learner = self.learner
        worked, self._worked = tuple(self._worked), []
        state = replace(
            self._state,
            busy_seconds=self._busy,
            steps=learner.steps,
            samples=learner.samples,
            shifts=learner.shifts,
            dropped=learner.buffer.dropped + self._traces.dropped - self._dropped_before,
            quarantined=len(learner.quarantined),
        )
        return Report(
            state,
            self._path,
            self._refusal,
            self._busy,
            self._assembler.incomplete,
            self._tokens,
            learner.buffer.nbytes,
            self._peak,
            self._run,
            worked,
        )

    def _checkpoint(self) -> None:
        candidate = self.learner.candidate()
        if self._corrupt_next:
            candidate, self._corrupt_next = checkpoint.broken(candidate), False
        verdict = self.learner.vet(candidate, self._serving)
        if verdict.ok:
            self._candidate = candidate
            self._path = self._write(candidate)
            self._state = replace(
                self._state,
                candidate=self.learner.steps,
                candidate_samples=self.learner.samples - self._published_samples,
            )
        else:
            self._forget_candidate()
            self._refusal = verdict.reason
        if self.learner.settings.gate:
            self._evaluate()

    def _evaluate(self) -> None:
        """Held-out figures of the serving, static and candidate drafters; Aurora's trainer has none."""
        judge, groups = self.learner.judge, self.learner.present_groups()
        serving = judge.lengths(self._serving, groups)
        static = judge.lengths(self.learner.static, groups)
        found = judge.lengths(self._candidate, groups) if self._candidate is not None else {}
        self._state = replace(
            self._state,
            heldout_samples={d: s.steps for d, s in serving.items()},
            heldout_serving={d: s.length for d, s in serving.items()},
            heldout_static={d: s.length for d, s in static.items()},
            heldout_candidate={d: s.length for d, s in found.items()},
        )

    def _write(self, candidate: Snapshot) -> Path:
        self._written += 1
        path = self._config.out / f"candidate-{self._written}.safetensors"
        checkpoint.save(candidate, path)
        self._files.append(path)
        while len(self._files) > KEPT_FILES:
            self._files.pop(0).unlink(missing_ok=True)
        return path

    def _keep(self, path: Path) -> None:
        """A published file stays for as long as a rollback can reach it."""
        if path in self._files:
            self._files.remove(path)
            self._published.append(path)
        for old in self._published[: -KEPT_VERSIONS - 1]:
            if old != self._serving_path:
                self._published.remove(old)
                old.unlink(missing_ok=True)

    def _forget_candidate(self) -> None:
        self._candidate = self._path = None
        self._state = replace(self._state, candidate=None, candidate_samples=0, heldout_candidate={})


def first_drafter(folder: Path, ends: Ends, untrained: bool, seed: int) -> Drafter:
    """The drafter of the folder; one of its sizes that knows nothing when `untrained`."""
    if drafter_kind(folder) == INDEPENDENT:
        return draft_model.untrained(folder, ends, seed) if untrained else draft_model.load(folder, ends)
    head = vllm_head.load(folder, ends)
    if untrained:
        fresh = Eagle3(head.config, head.vocabulary, ends.embedding)
        with torch.no_grad():
            for rows in fresh.heads():
                rows.normal_(std=0.02, generator=torch.Generator().manual_seed(seed))
        return fresh
    return head


def _end_tokens(ends: Ends) -> list[int]:
    """Tokens that end a text; a target may have several."""
    found = getattr(ends.config, "eos_token_id", None)
    return found if isinstance(found, list) else [] if found is None else [found]
