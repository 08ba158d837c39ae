"""The drafter that rests leaves the cache that one which never rests would have, wherever somebody drafts."""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from harness.live.link import RESTS_KEY  # noqa: E402
from harness.live.resting import RestingDrafter, rests  # noqa: E402

BLOCK, BLOCKS_EACH = 4, 16


@dataclass
class Metadata:
    """What `propose` reads of vLLM's metadata."""

    query_start_loc: torch.Tensor
    query_start_loc_cpu: torch.Tensor
    seq_lens: torch.Tensor
    num_reqs: int
    num_actual_tokens: int
    max_query_len: int
    max_seq_len: int
    block_table_tensor: torch.Tensor
    slot_mapping: torch.Tensor


class Drafter:
    """vLLM's proposer, as far as its cache goes: what it would have read at each slot."""

    max_num_tokens = 2048
    block_size = BLOCK

    def __init__(self) -> None:
        self.cache: dict[int, tuple[int, int, float]] = {}
        self.calls: list[int] = []

    def propose(self, num_speculative_tokens, target_token_ids, target_positions, target_hidden_states,
                next_token_ids, token_indices_to_sample, common_attn_metadata, **_):  # fmt: skip
        meta = common_attn_metadata
        last = token_indices_to_sample
        last = meta.query_start_loc[1:] - 1 if last is None else last
        ids = torch.cat([target_token_ids[1:], target_token_ids[:1]])
        ids[last.long()] = next_token_ids.to(ids.dtype)
        starts = meta.query_start_loc_cpu.tolist()
        assert starts[-1] == len(ids) == meta.num_actual_tokens == len(meta.slot_mapping)
        assert meta.num_reqs == len(meta.seq_lens) == len(next_token_ids) == len(meta.block_table_tensor)
        assert meta.max_query_len == int(meta.query_start_loc.diff().max())
        rows = zip(meta.slot_mapping.tolist(), ids.tolist(), target_positions.tolist(),
                   target_hidden_states[:, 0].tolist(), strict=True)  # fmt: skip
        for slot, token, position, hidden in rows:
            self.cache[slot] = (token, position, hidden)
        self.calls.append(num_speculative_tokens)
        return torch.zeros(meta.num_reqs, num_speculative_tokens, dtype=torch.int64)


class Runner:
    """vLLM's runner, as far as it lays out what its drafter reads: `laid` times, `call` as it came of it."""

    def __init__(self, drafter: Drafter) -> None:
        self.drafter = drafter
        self.laid = 0

    def propose_draft_token_ids(self, *_: object) -> torch.Tensor:
        self.laid += 1
        return self.drafter.propose(**self.call)

    def step(self, names: list[str], call: dict, inside: list[bool]) -> torch.Tensor:
        """`inside`: which requests are inside their prompt, so that what is sampled for them does not count."""
        self.call = call
        self.input_batch = SimpleNamespace(req_ids=names)
        self.input_ids = SimpleNamespace(gpu=call["target_token_ids"].clone())
        self.positions = call["target_positions"].clone()
        self.discard_request_mask = SimpleNamespace(np=np.array(inside))
        sampled = torch.where(torch.tensor(inside), 999, call["next_token_ids"])[:, None]
        return self.propose_draft_token_ids(
            SimpleNamespace(
                num_spec_tokens_to_schedule=call["num_speculative_tokens"],
                total_num_scheduled_tokens=len(self.positions),
            ),
            sampled, None, None, None,
            [*call["target_hidden_states"].split(1, -1)],
            None, call["common_attn_metadata"], None,
        )  # fmt: skip

    def forget(self) -> None:
        """The buffers serve the next step."""
        self.positions.fill_(-1)
        self.input_ids.gpu.fill_(-1)


class Engine:
    """Requests of chunks and decode steps, with rejected drafts, preemption and ends, for two drafters at once."""

    def __init__(self, seed: int, most: int) -> None:
        self.random = random.Random(seed)
        self.plain, self.lazy = Drafter(), Drafter()
        self.plain_runner, self.lazy_runner = Runner(self.plain), Runner(self.lazy)
        self.resting = RestingDrafter(self.lazy_runner, most)
        self.texts: dict[str, list[int]] = {}
        self.computed: dict[str, int] = {}
        self.drafts: dict[str, int] = {}
        self.free = list(range(12))
        self.place: dict[str, int] = {}
        self.born = 0

    def step(self, k: int) -> None:
        r = self.random
        while len(self.texts) < 6 and r.random() < 0.4:
            name, self.born = f"r{self.born}", self.born + 1
            self.texts[name] = [r.randrange(1000) for _ in range(r.randint(2, 12))]
            self.computed[name], self.drafts[name] = 0, 0
            self.place[name] = self.free.pop(0)
        for name in [n for n in self.texts if r.random() < 0.05 or len(self.texts[n]) > 50]:
            for table in (self.texts, self.computed, self.drafts):
                del table[name]
            self.free.append(self.place.pop(name))
        if self.texts and r.random() < 0.05:
            name = r.choice(list(self.texts))
            self.computed[name] = self.drafts[name] = 0
            self.free.append(self.place[name])
            self.place[name] = self.free.pop(0)
        names = list(self.texts)
        r.shuffle(names)
        if names:
            self._run(names, k)

    def _run(self, names: list[str], k: int) -> None:
        r = self.random
        ids, positions, lengths, last, after, inside = [], [], [], [], [], []
        for name in names:
            text, at, drafts = self.texts[name], self.computed[name], self.drafts[name]
            # A chunk of what is known, or the newest token and its drafts.
            known = text[at : at + r.choice([1, 5])]
            refused = r.randint(0, drafts)
            tokens = known + [r.randrange(1000) for _ in range(drafts)]
            if drafts:
                text += tokens[1 : 1 + drafts - refused]
            inside.append(at + len(known) < len(text) and not drafts)
            if not inside[-1]:
                text.append(r.randrange(1000))
            lengths.append(len(tokens))
            last.append(sum(lengths) - 1 - refused)
            self.computed[name] = at + len(tokens) - refused
            after.append(text[self.computed[name]])
            ids += tokens
            positions += range(at, at + len(tokens))
        starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
        blocks = torch.tensor([[self.place[n] * BLOCKS_EACH + b for b in range(BLOCKS_EACH)] for n in names])
        row = torch.arange(len(names)).repeat_interleave(torch.tensor(lengths))
        where = torch.tensor(positions)
        drafted = any(self.drafts[n] for n in names)
        call = {
            "num_speculative_tokens": k,
            "target_token_ids": torch.tensor(ids, dtype=torch.int32),
            "target_positions": where,
            "target_hidden_states": torch.rand(len(ids), 3),
            "next_token_ids": torch.tensor(after),
            "token_indices_to_sample": torch.tensor(last, dtype=torch.int32) if drafted else None,
            "sampling_metadata": None,
            "common_attn_metadata": Metadata(
                starts, starts.clone(), torch.tensor([self.computed[n] for n in names], dtype=torch.int32),
                len(names), len(ids), max(lengths), 64, blocks,
                blocks[row, where // BLOCK] * BLOCK + where % BLOCK,
            ),
            "mm_embed_inputs": None, "num_rejected_tokens_gpu": None, "slot_mappings": None,
        }  # fmt: skip
        for one in (self.plain_runner, self.lazy_runner):
            assert one.step(list(names), call, inside).shape == (len(names), k)
            one.forget()
        whole = [n for n in names if self.computed[n] >= len(self.texts[n]) - 1]
        for name in names:
            self.drafts[name] = k if name in whole else 0

    def known(self, drafter: Drafter) -> dict[tuple[str, int], object]:
        """What the cache holds of the requests that run, by position."""
        return {
            (n, p): drafter.cache.get(self.place[n] * BLOCKS_EACH * BLOCK + p)
            for n in self.texts
            for p in range(self.computed[n])
        }


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("most", [24, 512])
def test_whoever_drafts_finds_a_whole_cache(seed, most):
    engine = Engine(seed, most)
    k = 0
    for _ in range(300):
        if engine.random.random() < 0.1:
            k = engine.random.choice([0, 0, 1, 3])
        engine.step(k)
        assert not engine.resting.error
        if k:
            assert engine.known(engine.lazy) == engine.known(engine.plain)
    assert engine.resting.rested > 50
    assert 0 < engine.resting.passes < engine.resting.rested / 2
    assert engine.lazy_runner.laid < engine.plain_runner.laid - 20, "steps of decoding alone are not laid out"


def test_what_waits_is_bounded():
    engine = Engine(0, 24)
    for _ in range(100):
        engine.step(0)
        assert sum(len(s.after) for s in engine.resting._steps) <= 24
    assert engine.resting.passes


def test_a_failure_of_its_own_is_told_and_the_drafter_works_on():
    engine = Engine(0, 512)
    engine.step(0)
    while not engine.resting.rested:
        engine.step(0)
    engine.lazy.block_size = None  # the late pass cannot be laid out
    while engine.resting.error == "":
        engine.step(3)
    engine.step(0)
    assert "TypeError" in engine.resting.error
    assert engine.lazy.calls[-1] == 0


@pytest.mark.parametrize(
    ("changed", "may"),
    [
        ({}, True),
        ({"additional_config": {RESTS_KEY: False}}, False),
        ({"speculative_config": None}, False),
        ({"speculative_config": SimpleNamespace(method="ngram")}, False),
        ({"cache_config": SimpleNamespace(enable_prefix_caching=True)}, False),
        ({"model_config": SimpleNamespace(uses_mrope=True, is_hybrid=False)}, False),
        ({"model_config": SimpleNamespace(uses_mrope=False, is_hybrid=True)}, False),
    ],
)
def test_a_drafter_rests_only_where_nobody_reads_its_cache_later(changed: dict, may: bool) -> None:
    """Prefix caching hands the cache to another request, a recurrent state counts every pass."""
    config = {
        "additional_config": {},
        "speculative_config": SimpleNamespace(method="eagle3"),
        "cache_config": SimpleNamespace(enable_prefix_caching=False),
        "model_config": SimpleNamespace(uses_mrope=False, is_hybrid=False),
    }
    runner = SimpleNamespace(device=torch.device("cpu"))
    assert rests(runner, SimpleNamespace(**config | changed)) is may
    assert not rests(SimpleNamespace(device=torch.device("cuda")), SimpleNamespace(**config))
