"""What each of several workers holds of a weight: together all of it, cut where vLLM cuts it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from harness.errors import InputError  # noqa: E402
from harness.live.shards import part_of  # noqa: E402
from harness.live.swap import prepare  # noqa: E402

RANKS, HIDDEN, HEAD = 4, 8, 2


def numbered(rows: int, columns: int = HIDDEN) -> torch.Tensor:
    return torch.arange(float(rows * columns)).reshape(rows, columns)


def layer(rank: int, outputs: int, inputs: int, cut: str, **more: object) -> SimpleNamespace:
    """The attributes of vLLM's parallel linear layers."""
    return SimpleNamespace(
        tp_size=RANKS,
        tp_rank=rank,
        output_size=outputs,
        input_size=inputs,
        output_size_per_partition=outputs // (RANKS if cut == "outputs" else 1),
        input_size_per_partition=inputs // (RANKS if cut == "inputs" else 1),
        **more,
    )


def test_outputs_of_a_fused_layer_are_cut_piece_by_piece():
    gate, up = numbered(12), 100 + numbered(12)
    parts = [part_of(layer(r, 24, HIDDEN, "outputs"), [gate, up]) for r in range(RANKS)]
    assert all(p.shape == (6, HIDDEN) for p in parts)
    assert torch.equal(torch.cat([p[:3] for p in parts]), gate)
    assert torch.equal(torch.cat([p[3:] for p in parts]), up)


@pytest.mark.parametrize(("kv_heads", "copies"), [(4, 1), (2, 2), (1, 4)])
def test_keys_and_values_of_few_heads_are_held_more_than_once(kv_heads: int, copies: int):
    q, k, v = numbered(8 * HEAD), 100 + numbered(kv_heads * HEAD), 200 + numbered(kv_heads * HEAD)
    size = (8 + 2 * kv_heads * copies) * HEAD
    for rank in range(RANKS):
        part = part_of(layer(rank, size, HIDDEN, "outputs", num_kv_head_replicas=copies), [q, k, v])
        mine, head = part.split([2 * HEAD, HEAD, HEAD]), rank // copies
        assert torch.equal(mine[0], q[rank * 2 * HEAD : (rank + 1) * 2 * HEAD])
        assert torch.equal(mine[1], k[head * HEAD : (head + 1) * HEAD])
        assert torch.equal(mine[2], v[head * HEAD : (head + 1) * HEAD])


def test_inputs_of_a_row_parallel_layer_are_cut():
    whole = numbered(HIDDEN, 16)
    parts = [part_of(layer(r, HIDDEN, 16, "inputs"), [whole]) for r in range(RANKS)]
    assert torch.equal(torch.cat(parts, 1), whole)


def test_tokens_are_cut_and_padded():
    """Ten tokens, padded to sixteen, four a worker: the third has two, the last none."""
    table, starts = numbered(10), [0, 4, 8, 10]
    parts = [
        part_of(
            SimpleNamespace(
                tp_size=RANKS,
                tp_rank=rank,
                org_vocab_size=10,
                num_embeddings_per_partition=4,
                shard_indices=SimpleNamespace(
                    org_vocab_start_index=start, org_vocab_end_index=min(start + 4, 10)
                ),
            ),
            [table],
        )
        for rank, start in enumerate(starts)
    ]
    assert torch.equal(torch.cat(parts)[:10], table)
    assert not torch.cat(parts)[10:].any()
    assert all(p.shape == (4, HIDDEN) for p in parts)


def test_what_is_not_cut_is_held_whole():
    whole = numbered(6)
    assert part_of(layer(2, 6, HIDDEN, "nothing"), [whole]) is whole
    assert part_of(nn.LayerNorm(6), [whole]) is whole


def test_a_weight_that_cannot_be_cut_evenly_is_refused():
    class Row(nn.Module):
        tp_size, tp_rank, input_size, input_size_per_partition = 4, 1, 8, 2
        output_size = output_size_per_partition = 3

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 2))

    model = nn.Module()
    model.down = Row()
    with pytest.raises(InputError, match=r"'down' has shape \(3, 1\); it must be \(3, 2\)"):
        prepare(model, {"down.weight": torch.zeros(3, 7)})
    prepare(model, {"down.weight": numbered(3)}).apply()
    assert torch.equal(model.down.weight.data, numbered(3)[:, 2:4])
