"""Model geometry and shared helpers."""

from __future__ import annotations

import pytest
import torch

from kernels.common import Cost, nvidia_chip, relative_error
from kernels.models import LLAMA3_8B, LLAMA3_70B, PROFILED, model
from kernels.registry import OPS, op


def test_a_shard_divides_what_tensor_parallelism_divides() -> None:
    shard = LLAMA3_70B.shard(8)
    assert (shard.q_heads, shard.kv_heads, shard.intermediate, shard.vocab) == (8, 1, 3584, 16032)
    assert (shard.hidden, shard.layers, shard.group) == (8192, 80, 8)
    with pytest.raises(ValueError, match="kv_heads of llama3-70b is 8; it must divide by tp=16"):
        LLAMA3_70B.shard(16)


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'llama3-8b'"):
        model("llama-8b")
    with pytest.raises(ValueError, match="did you mean 'attention'"):
        op("atention")


def test_floor_is_the_larger_of_memory_and_matrix_time() -> None:
    assert Cost(0.0, 4e9, 0.0).floor_us(4000, 800) == pytest.approx(1000)
    assert Cost(8e11, 4e9, 0.0).floor_us(4000, 800) == pytest.approx(1000)
    assert Cost(16e11, 4e9, 0.0).floor_us(4000, 800) == pytest.approx(2000)


def test_relative_error_of_nan_is_infinite() -> None:
    one = (torch.ones(3),)
    assert relative_error({}, one, one) == 0.0
    assert relative_error({}, (torch.tensor([1.0, torch.nan, 1.0]),), one) == float("inf")


@pytest.mark.parametrize("geometry", PROFILED, ids=lambda m: m.name)
@pytest.mark.parametrize("name", list(OPS))
def test_every_op_has_shapes_and_costs_for_every_model(name: str, geometry) -> None:
    shapes = OPS[name].shapes(geometry)
    assert len(set(shapes)) == len(shapes) > 0
    for shape in shapes:
        cost = OPS[name].cost(shape)
        assert min(cost.flops, cost.cold_bytes, cost.warm_bytes) >= 0
        assert cost.cold_bytes + cost.warm_bytes > 0


def test_launchers_take_every_specimen_on_meta() -> None:
    from kernels.common import recording

    for name, operation in OPS.items():
        launches: list[str] = []
        with recording(lambda kernel, args, meta, launches=launches: launches.append(kernel.__name__)):
            for shape in operation.specimens():
                operation.run(**operation.inputs(shape, "meta", torch.bfloat16, 0))
        assert launches or operation.composed, name


def test_llama_qkv_width() -> None:
    assert LLAMA3_8B.qkv == (32 + 8 + 8) * 128


@pytest.mark.parametrize(
    ("name", "major", "minor", "tma", "wgmma", "stages"),
    [
        ("A100", 8, 0, False, False, 8),
        ("RTX 4090", 8, 9, False, False, 2),
        ("H200", 9, 0, True, True, 8),
        ("B200", 10, 0, True, True, 8),
        ("RTX PRO 6000", 12, 0, True, False, 2),
    ],
)
def test_chips(name: str, major: int, minor: int, tma: bool, wgmma: bool, stages: int) -> None:
    chip = nvidia_chip(major, minor)
    assert (chip.tma, chip.wgmma, chip.stages) == (tma, wgmma, stages), name
