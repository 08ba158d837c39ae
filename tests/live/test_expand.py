"""The mended kernel, in closed form; that vLLM then samples right is in test_end_to_end.py."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
import torch

from harness.live.expand import expand


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.int64])
def test_each_request_s_value_is_at_its_tokens_and_one_is_replaced(dtype):
    values = torch.tensor([3, 0, 5, 7]).to(dtype)
    ends = torch.tensor([2, 3, 3, 6], dtype=torch.int32)  # the third has no tokens
    output = torch.full((6,), -9).to(dtype)
    expand(output, values, ends, 0, 1, MAX_NUM_TOKENS=32)
    assert output.tolist() == [3, 3, 1, 7, 7, 7]
    assert values.tolist() == [3, 0, 5, 7]
