"""The trainer: traces in, vetted candidate files out; a process that may die."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from fake_runner import FakeRunner, labelled, request  # noqa: E402

from harness.contract import TrainPlan  # noqa: E402
from harness.errors import InputError, UnknownName  # noqa: E402
from harness.live import training as live_training  # noqa: E402
from harness.live.link import Link  # noqa: E402
from harness.live.report import STATIC_FILE, Report, TrainerConfig  # noqa: E402
from harness.live.tap import Tap  # noqa: E402
from harness.live.trainer import TrainerProcess  # noqa: E402
from harness.live.training import Training  # noqa: E402
from harness.service import KEPT_VERSIONS  # noqa: E402
from harness.speculator import checkpoint  # noqa: E402
from harness.speculator.settings import learner  # noqa: E402
from tests.speculator import micro  # noqa: E402
from tests.speculator.elsewhere import elsewhere  # noqa: E402

ON = TrainPlan(on=True)


class PoolBrain:
    """The micro target's texts as they were rolled out, states and all: no model runs."""

    hidden = 48

    def __init__(self, domain: str) -> None:
        self.pool = micro.pools().pool(0, domain)

    def read(self, i: int) -> list[int]:
        """From now on it knows this text only."""
        self._states = torch.cat(self.pool.states(i), -1).float()
        text = self.pool.text(i).tolist()
        self._next = dict(zip(map(_key, self._states), text[1:], strict=False))
        return text

    def states(self, tokens):
        return self._states[: len(tokens)]

    def choice(self, states):
        return [self._next[_key(row)] for row in states]


def _key(row: torch.Tensor) -> bytes:
    return row.numpy().tobytes()


class Traffic:
    """Writes traces of texts to the link as the server would: prefill, then three drafts a step, all accepted."""

    def __init__(self, link: Link, domain: str = "sql", fused: bool = True) -> None:
        self.brain = PoolBrain(domain)
        self.domain = domain
        self.runner = FakeRunner(self.brain, fused=fused)
        self.tap = Tap(self.runner, link)
        link.control.set("sample", 1.0)
        self.served = 0

    def send(self, n: int) -> None:
        for i in range(self.served, self.served + n):
            at = i % len(self.brain.pool)
            text, prompt = self.brain.read(at), int(self.brain.pool.prompt_tokens[at])
            one = request(f"{self.domain}-{i}", text[:prompt], **labelled(i, self.domain))
            self.runner.step((one, prompt))
            while (known := len(one.tokens)) < len(text):
                self.runner.step((one, text[known : min(known + 3, len(text) - 1)] or 1))
            self.tap.ended([one.name])
        assert not self.tap.error
        self.served += n


@pytest.fixture
def link() -> Iterator[Link]:
    found = Link.create(32 << 20)
    yield found
    found.remove()


@pytest.fixture
def config(link, tmp_path, monkeypatch) -> TrainerConfig:
    """Candidates come often, so that few traces do."""
    often = {"checkpoint_steps": 4, "batch": 2, "warmup": 0}
    monkeypatch.setattr(live_training, "learner", lambda name: replace(learner(name), **often))
    return TrainerConfig(link.folder, micro.model().target, micro.model().head, tmp_path / "weights")


def new(config: TrainerConfig) -> Training:
    return Training(config)


def worked(training: Training, until: Callable[[Report], bool], most: int = 400) -> Report:
    for _ in range(most):
        training.work()
        report = training.report()
        if until(report):
            return report
    raise AssertionError(f"it never came to that: {training.report()}")


def offers(report: Report) -> bool:
    return report.candidate is not None


def test_the_static_drafter_is_a_file_from_the_start(config):
    training = new(config)
    static = checkpoint.load(config.out / STATIC_FILE)
    assert static.weights_print == training.learner.static.weights_print
    report = training.report()
    assert (report.state.alive, report.state.steps, report.candidate, report.run) == (True, 0, None, 0)


@pytest.mark.parametrize("untrained", [False, True])
def test_an_independent_drafter_learns_from_text_and_last_states(config, link, tmp_path, untrained: bool):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    vocabulary = micro.pools().target(0).config.vocab_size
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes)).save_pretrained(tmp_path / "draft")
    training = new(replace(config, head=tmp_path / "draft", untrained=untrained))
    training.obey("plan", ON)
    Traffic(link, fused=False).send(40)
    report = worked(training, lambda r: offers(r) and r.state.steps >= 16)
    assert report.candidate is not None
    found = checkpoint.load(report.candidate)
    static = checkpoint.load(config.out / STATIC_FILE)
    assert (found.kind, found.vocabulary.is_full) == ("llama", True)
    assert found.weights_print != static.weights_print
    assert set(found.weights) == set(static.weights)
    (domain,) = report.state.heldout_candidate
    assert report.state.heldout_candidate[domain] > 1.1 > report.state.heldout_static[domain]


def test_a_trainer_on_a_device_of_its_own_offers_what_one_on_the_cpu_does(config, link):
    offered = []
    for device in ("cpu", "cuda:0"):
        with elsewhere():
            training = new(replace(config, device=device))
            training.obey("plan", ON)
            Traffic(link).send(12)
            path = worked(training, offers).candidate
            training.obey("published", path)
            training.obey("serving", path)
            training.obey("verifier", 1, micro.model().successor)
        assert path is not None
        offered.append(checkpoint.load(path))
    for name, weight in offered[0].weights.items():
        torch.testing.assert_close(offered[1].weights[name], weight, rtol=1e-4, atol=1e-5)


def test_without_a_plan_to_train_nothing_is_learned_or_kept(config, link):
    training = new(config)
    Traffic(link).send(6)
    for _ in range(5):
        assert not training.work()
    report = training.report()
    assert (report.state.steps, report.buffer_bytes, report.candidate) == (0, 0, None)
    assert report.tokens > 0
    training.obey("plan", TrainPlan(on=True, budget=0.0))
    Traffic(link, "chat").send(12)
    for _ in range(5):
        training.work()
    assert training.report().state.steps == 0, "a budget of nothing"


def test_traces_become_a_candidate_that_loads_and_is_judged(config, link):
    training = new(config)
    training.obey("plan", ON)
    Traffic(link).send(24)
    report = worked(training, offers)
    assert report.state.steps > 0
    assert report.state.candidate == report.state.steps
    assert report.state.candidate_samples == report.state.samples > 0
    assert report.state.busy_seconds == report.busy_seconds > 0.0
    assert report.peak_buffer_bytes >= report.buffer_bytes > 0
    found = checkpoint.load(report.candidate)
    assert found.weights_print != training.learner.static.weights_print
    assert found.samples == report.state.samples
    assert set(report.state.heldout_samples) == {"sql"}
    assert report.state.heldout_serving == report.state.heldout_static
    assert set(report.state.heldout_candidate) == {"sql"}


def test_when_it_worked_is_reported_once(config, link, monkeypatch):
    """Optimiser steps right behind each other are one stretch."""
    pause = 0.25
    monkeypatch.setattr(live_training, "JOINED_SECONDS", pause)
    training = new(config)
    training.obey("plan", ON)
    Traffic(link).send(40)
    stretches, report, began = [], training.report(), time.monotonic()
    assert report.worked == ()
    for stop in (8, 16):
        while report.state.steps < stop:
            training.work()
            report = training.report() if training.learner.steps >= stop else report
        stretches += report.worked
        time.sleep(2 * pause)
    assert training.report().worked == ()
    assert began < stretches[0][0] < stretches[-1][1] < time.monotonic()
    assert all(one[1] < other[0] for one, other in pairwise(stretches))
    seconds = sum(end - start for start, end in stretches)
    assert report.busy_seconds <= seconds < report.busy_seconds + 16 * pause
    assert 2 <= len(stretches) < 16


def test_a_published_candidate_is_one_no_more_and_its_file_stays(config, link, monkeypatch):
    """A rollback to it must be possible while newer candidates come and go."""
    monkeypatch.setattr(live_training, "KEPT_FILES", 1)
    training = new(config)
    training.obey("plan", ON)
    traffic = Traffic(link)
    traffic.send(24)
    first = worked(training, offers)
    training.obey("published", first.candidate)
    after = training.report()
    assert (after.candidate, after.state.candidate, after.state.candidate_samples) == (None, None, 0)
    training.obey("serving", first.candidate)
    paths = []
    while len(paths) < 3:
        traffic.send(12)
        report = worked(training, lambda r: r.candidate is not None and r.candidate not in paths)
        paths.append(report.candidate)
    assert [p.exists() for p in paths] == [False, False, True]
    assert first.candidate.exists()
    assert report.state.candidate_samples == report.state.samples - first.state.samples


def test_published_files_that_no_rollback_can_reach_go(config):
    training = new(config)
    paths = []
    for _ in range(KEPT_VERSIONS + 4):
        paths.append(training._write(training.learner.static))
        training.obey("published", paths[-1])
        if len(paths) == 1:
            training.obey("serving", paths[0])
    gone = [p for p in paths if not p.exists()]
    assert gone == paths[1:3], "the one that serves stays, however old"


def test_a_new_target_voids_traces_and_candidate(config, link):
    training = new(config)
    training.obey("plan", ON)
    Traffic(link).send(24)
    worked(training, offers)
    training.obey("verifier", 1, micro.model().successor)
    report = training.report()
    assert (report.candidate, report.state.candidate) == (None, None)
    assert report.buffer_bytes == 0
    assert training.learner.candidate().verifier_version == 1
    late = Traffic(link, "chat")
    late.send(5)
    training.work()
    assert training.report().buffer_bytes == 0, "traced under the old target: too late"
    link.control.set("verifier_version", 1)
    late.send(12)
    training.work()
    assert training.report().buffer_bytes > 0


def test_a_corrupt_candidate_is_quarantined_and_never_offered(config, link):
    training = new(config)
    training.obey("plan", ON)
    traffic = Traffic(link)
    traffic.send(24)
    training.obey("corrupt")
    report = worked(training, lambda r: r.state.quarantined > 0)
    assert report.state.quarantined == 1
    assert report.refusal
    assert report.candidate is None
    traffic.send(24)
    report = worked(training, offers)
    assert report.state.quarantined == 1, "one fault, one refusal"
    assert all(bool(torch.isfinite(w).all()) for w in checkpoint.load(report.candidate).weights.values())


def test_begin_starts_over(config, link):
    training = new(config)
    training.obey("plan", ON)
    traffic = Traffic(link)
    traffic.send(24)
    worked(training, offers)
    traffic.send(10)
    for _ in range(3):
        while link.traces.put(99, bytes(1 << 20)):
            pass
    assert training.report().state.dropped == link.traces.dropped == 3
    training.obey("begin", 4, "aurora", 7, True)
    report = training.report()
    assert report.run == 4
    assert (report.state.steps, report.state.samples, report.candidate, report.tokens) == (0, 0, None, 0)
    assert report.state.dropped == 0, "what was lost before is not this run's"
    assert training.learner.settings.gate is False
    assert training.learner._allowed > 0, (
        "a learner that begins from nothing hurries, as the simulator's does"
    )
    untrained = checkpoint.load(config.out / STATIC_FILE)
    assert untrained.weights_print != micro_print(config), "day zero: the head knows nothing"
    for _ in range(3):
        training.work()
    assert training.report().tokens == 0, "traces from before were thrown away"
    training.obey("begin", 5, "default", 0, False)
    assert checkpoint.load(config.out / STATIC_FILE).weights_print == micro_print(config)


def micro_print(config: TrainerConfig) -> str:
    return checkpoint.load(config.head / checkpoint.WEIGHTS).weights_print


def test_an_incomplete_trace_is_counted(config, link):
    training = new(config)
    training.obey("plan", ON)
    traffic = Traffic(link)
    one = request("x", traffic.brain.read(0)[:4])
    traffic.runner.step((one, 3))
    traffic.tap.ended(["x"])
    training.work()
    assert training.report().incomplete == 1


def test_commands_that_it_does_not_know(config):
    training = new(config)
    with pytest.raises(InputError, match="was told 'dance'"):
        training.obey("dance")
    with pytest.raises(UnknownName):
        training.obey("begin", 1, "no-such-learner", 0, False)


# --- the process -------------------------------------------------------------------------------


def until(process: TrainerProcess, wanted: Callable[[Report], bool], seconds: float = 60.0) -> Report:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        report = process.poll()
        if wanted(report):
            return report
        time.sleep(0.02)
    raise AssertionError(f"it never came to that: {process.report}")


def test_the_process_from_begin_to_death(config, link):
    process = TrainerProcess(config)
    try:
        assert process.wait_ready(120.0)
        assert (config.out / STATIC_FILE).is_file()
        process.tell("plan", ON)
        Traffic(link).send(64)
        report = until(process, offers)
        checkpoint.load(report.candidate)
        process.begin("default", 3, untrained=False)
        assert process.report.run == 1
        assert (process.report.state.steps, process.report.candidate) == (0, None)
        process.kill()
        report = until(process, lambda r: not r.state.alive, 10.0)
        assert report.candidate is None
        began = time.monotonic()
        process.tell("plan", ON)
        process.begin("default", 4, untrained=False)
        assert time.monotonic() - began < 2.0, "a dead process is a state, not something to wait for"
    finally:
        process.stop()
    assert not process._process.is_alive()
