"""A kernel of vLLM's CPU build that spreads a request's temperature over its drafts, mended where it is broken.

In vLLM 0.32 (CPU) it writes its answer into a copy unless the numbers are int64: temperature, top-p and top-k of
sampled requests come out of memory that nobody has written, and whatever is drafted is judged by another distribution
than the target's. Greedy requests never ask it.
"""

from __future__ import annotations

from typing import Any

import torch

KERNEL = "vllm.v1.sample.rejection_sampler.expand_kernel"


def mend_expand() -> bool:
    """Replace the kernel, through vLLM's own registry, where a probe shows that it is broken; True if so."""
    if _works():
        return False
    from vllm.triton_utils.dispatcher import register_kernels

    register_kernels({KERNEL: expand})
    if not _works():
        raise RuntimeError(f"{KERNEL} is broken in this build of vLLM and could not be replaced")
    return True


def expand(
    output: torch.Tensor,
    input_val: torch.Tensor,
    cu_num_tokens: torch.Tensor,
    replace_from: float,
    replace_to: float,
    MAX_NUM_TOKENS: Any = None,
) -> None:
    """Write x[i] to the tokens of request i, `replace_from` replaced. `cu_num_tokens`: where each one's tokens end."""
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    replaced = input_val.masked_fill(input_val == replace_from, replace_to)
    output.copy_(replaced.repeat_interleave(counts))


def _works() -> bool:
    from vllm.v1.sample.rejection_sampler import expand_batch_to_tokens

    asked = 0.1 + torch.rand(2)  # not what freed memory happens to hold
    found = expand_batch_to_tokens(asked, torch.tensor([1, 3], dtype=torch.int32), 3)
    return torch.equal(found, asked[[0, 1, 1]])
