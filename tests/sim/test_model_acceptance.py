"""Acceptance `model`: a real drafter under the simulated clock gives what a step-by-step server would."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from harness.contract import Request  # noqa: E402
from harness.errors import InputError, UnknownName  # noqa: E402
from harness.policy.cadence import Cadence  # noqa: E402
from harness.sim import cell as cells  # noqa: E402
from harness.sim.build import build_world  # noqa: E402
from harness.sim.cell import Cell  # noqa: E402
from harness.sim.job import prepare  # noqa: E402
from harness.sim.model import build  # noqa: E402
from harness.sim.model.tables import Tables  # noqa: E402
from harness.speculator.checkpoint import snapshot  # noqa: E402
from harness.speculator.texts import Texts  # noqa: E402
from tests.sim.test_world import Records, rows_of, scenario  # noqa: E402
from tests.speculator import micro  # noqa: E402

REQUESTS = 120


def run(policy: str, seed: int = 0, model: str = "micro", **changes):
    sink = Records()
    table = {
        "requests": REQUESTS,
        "mixture": {"kind": "constant", "domains": {"spider-sql": 1.0}},
        "max_k": 3,
    }
    cell = Cell(scenario(**(table | changes)), policy, seed, "h100-llama3-8b", acceptance=f"model:{model}")
    world = build_world(cell, sink)
    world.run()
    return sink, world


def test_every_request_is_served_with_the_length_of_its_text():
    sink, world = run("static:3")
    rows = rows_of(sink)
    texts = world.source._parts.texts
    assert len(rows) == REQUESTS
    for row in rows:
        request = texts.requests[row["request_id"]]
        assert (row["prompt"], row["generated"]) == (request.prompt_tokens, request.output_tokens)
        assert len(texts.tokens(row["request_id"])) == request.prompt_tokens + request.output_tokens


def test_accepted_drafts_are_those_of_drafting_step_by_step():
    """The batched table against the target's own text, verify step by verify step."""
    sink, world = run("static:3")
    parts, head = world.source._parts, micro.head()
    for row in rows_of(sink)[:10]:
        i = int(row["request_id"])
        tokens, (fused, last) = parts.texts.tokens(i), parts.texts.states(i)
        place, steps, accepted = parts.texts.requests[i].prompt_tokens - 1, 0, 0
        while place + 2 < len(tokens):
            hits = _one_step(head, tokens[: place + 2], fused[: place + 2], last[: place + 2], tokens, place)
            steps, accepted, place = steps + 1, accepted + hits, place + hits + 1
        assert (row["verify_steps"], row["accepted"]) == (steps, accepted)


def _one_step(head, known, fused, last, text, place) -> int:
    """Drafts from what a server knows at this step only: nothing behind `place` + 1 is in the batch."""
    from harness.speculator.drafters.base import batched

    blank = torch.zeros(3, dtype=torch.int64)
    wide = [torch.cat([s, s.new_zeros(3, s.shape[1])]) for s in (fused, last)]
    wide[0][place + 1] = 0  # the newest token has no hidden state yet
    batch = batched([torch.cat([known, blank])], [wide[0]], [wide[1]])
    drafts = head.draft(batch, 3).tokens[0, place].tolist()
    truth = text[place + 2 : place + 5].tolist()
    hits = 0
    while hits < min(3, len(truth)) and drafts[hits] == truth[hits]:
        hits += 1
    return hits


def test_a_run_repeats_byte_for_byte():
    first, second = (run("bandit+forward-kl", requests=60)[0] for _ in range(2))
    assert rows_of(first).tobytes() == rows_of(second).tobytes()


def test_arms_meet_the_same_requests():
    one, other = rows_of(run("static:3")[0]), rows_of(run("none")[0])
    for name in ("request_id", "arrival", "prompt", "output", "domain"):
        assert np.array_equal(one[name], other[name])


def test_training_raises_acceptance_in_the_run():
    sink, world = run("cadence:100@3+forward-kl", requests=400)
    assert world.trainer.learner.steps > 20
    assert len([e for e in sink.kinds("swap") if e.detail["ok"]]) >= 2
    late = [r for r in rows_of(sink) if r["request_id"] >= 300]
    base = [r for r in rows_of(run("static:3", requests=400)[0]) if r["request_id"] >= 300]
    gained, had = (
        sum(r["accepted"] for r in rows) / sum(r["verify_steps"] for r in rows) for rows in (late, base)
    )
    assert gained > had


def test_a_corrupt_candidate_is_quarantined_and_the_log_says_why():
    faults = [{"kind": "corrupt_candidate", "at": 0.3}]
    sink, world = run("bandit+forward-kl", requests=300, faults=faults)
    assert [e.detail["reason"] for e in sink.kinds("quarantine")] == ["a weight is not a finite number"]
    assert all(np.isfinite(w).all() for w in (t.numpy() for t in world._service.weights.weights.values()))


def test_a_verifier_update_changes_the_texts_and_voids_the_traces():
    update = [{"at": 0.5, "stall": 0.5, "retained": 0.5}]
    sink, world = run("cadence:50@3", requests=160, verifier_updates=update)
    texts = world.source._parts.texts
    assert [texts.verifier(i) for i in (0, 79, 80, 159)] == [0, 0, 1, 1]
    assert world.trainer.learner.buffer.stale > 0
    assert len(rows_of(sink)) == 160
    target, steps = micro.pools().target(2), world.trainer.learner.steps
    world.trainer.learner.set_verifier(2, target.head, target.embedding)
    world.trainer._learn(None)  # the update came while a step was under way: nothing is left to learn from
    assert world.trainer.learner.steps == steps


def test_from_scratch_the_drafter_starts_with_nothing():
    sink, _ = run("static:3", drafter="untrained")
    rows = rows_of(sink)
    assert rows["accepted"].sum() < 0.2 * rows["verify_steps"].sum()


@pytest.mark.parametrize("policy", ["static:3+ngram", "cadence:20@3+medusa", "cadence:20@3+llama"])
def test_any_drafter_runs_behind_the_interface(policy):
    sink, world = run(policy, requests=60)
    assert len(rows_of(sink)) == 60
    kind = policy.partition("+")[2]
    assert world.source.start.kind == kind
    assert (world.trainer is None) is (kind == "ngram")
    if world.trainer is not None:
        assert world.trainer.learner.steps > 0


def test_a_model_may_come_with_an_independent_drafter():
    """Pretrained, from scratch, and beside a learner that brings a drafter of its own."""
    shares, known = {}, {"kind": "constant", "domains": {"gsm8k": 1.0}}
    for start in ("pretrained", "untrained"):
        _, world = run("cadence:20@3", model="micro+llama", requests=80, drafter=start, mixture=known)
        assert world.source.start.kind == "llama"
        assert world.trainer.learner.steps > 0
        static, _ = run("static:3", model="micro+llama", requests=80, drafter=start, mixture=known)
        rows = rows_of(static)
        shares[start] = rows["accepted"].sum() / rows["verify_steps"].sum()
    assert shares["pretrained"] > 2 * shares["untrained"]
    _, world = run("cadence:20@3+medusa", model="micro+llama", requests=40)
    assert world.source.start.kind == "medusa"


def test_tables_are_of_the_serving_weights_only():
    pools, head = micro.pools(), micro.head()
    texts = Texts(pools, iter([Request(0, 0.0, 5, 5, "spider-sql")]), (), 0)
    tables = Tables(micro.head(), texts, [pools.target(0).embedding], 2)
    tables.use(snapshot(head))
    before = tables.of([0])[0]
    with torch.no_grad():
        head.lm_head.weight.neg_()
    tables.use(snapshot(head))
    assert not torch.equal(before.drafts, tables.of([0])[0].drafts)


def test_what_a_real_model_cannot_do_is_refused():
    table = scenario(requests=40)
    with pytest.raises(InputError, match="oracle"):
        prepare(table, policies=("oracle",), acceptance="model:micro")
    with pytest.raises(UnknownName, match="did you mean 'aurora'"):
        prepare(table, policies=("bandit+auror",), acceptance="model:micro")
    with pytest.raises(UnknownName, match="model to make"):
        prepare(table, policies=("static:3",), acceptance="model:huge")
    with pytest.raises(InputError, match="buffer_bytes"):
        prepare(scenario(trainer={"buffer_bytes": 10}), policies=("static:3",), acceptance="model:micro")
    with pytest.raises(InputError, match="use --acceptance model"):
        prepare(table, policies=("bandit+aurora",))
    with pytest.raises(InputError, match="has no drafter"):
        prepare(table, policies=("none+aurora",), acceptance="model:micro")


def test_cadence_trains_as_aurora_released_it():
    assert Cadence.learner == "aurora"
    assert build.learner(Cadence.learner).gate is False
    assert cells.Cell(scenario(), "none", 0, "x", acceptance="model").model == "tiny"


def test_a_policy_is_told_of_known_traffic_only():
    """A longer run does not change what the context says was measured before it."""
    told = []
    for requests in (70, 90):
        sink = Records()
        table = {"mixture": {"kind": "constant", "domains": {"spider-sql": 1.0}}, "max_k": 3}
        cell = Cell(
            scenario(requests=requests, **table), "bandit", 0, "h100-llama3-8b", acceptance="model:micro"
        )
        context = build_world(cell, sink).policy._context
        told.append((context.mean_context, context.offline_hazards))
    assert told[0] == told[1]
