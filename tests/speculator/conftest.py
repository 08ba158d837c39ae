"""Small random stand-ins that drafter tests share: a target, padded batches, traces with verify steps.

Torch is asked for inside the fixtures: skipping while a conftest loads would end the whole run.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

VOCAB, HIDDEN, K = 24, 8, 4


@pytest.fixture
def target() -> Any:
    """A `Target` with random embedding and head; it cannot be run."""
    torch = pytest.importorskip("torch", reason="the kernels or rl extra is not installed")
    from harness.speculator.target import Target

    torch.set_num_threads(1)
    torch.manual_seed(1)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(VOCAB, HIDDEN)
            self.head = torch.nn.Linear(HIDDEN, VOCAB, bias=False)
            self.config = SimpleNamespace(
                vocab_size=VOCAB, hidden_size=HIDDEN, num_attention_heads=2, num_key_value_heads=1,
                intermediate_size=12, rms_norm_eps=1e-5, num_hidden_layers=8, rope_theta=100.0,
            )  # fmt: skip

        def get_input_embeddings(self) -> Any:
            return self.embedding

        def get_output_embeddings(self) -> Any:
            return self.head

    return Target(Model())


@pytest.fixture
def vocabulary() -> Any:
    """Two thirds of the target's tokens."""
    torch = pytest.importorskip("torch", reason="the kernels or rl extra is not installed")
    from harness.speculator.vocabulary import DraftVocabulary

    return DraftVocabulary(torch.tensor([t for t in range(VOCAB) if t % 3]), VOCAB)


@pytest.fixture
def batch() -> Any:
    """Three texts of 17, 9 and 13 tokens; float64, and what pads them is garbage instead of zeros."""
    torch = pytest.importorskip("torch", reason="the kernels or rl extra is not installed")
    from harness.speculator.drafters.base import Sequences

    rng = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, VOCAB, (3, 17), generator=rng)
    fused = torch.randn(3, 17, 3 * HIDDEN, generator=rng, dtype=torch.float64)
    last = torch.randn(3, 17, HIDDEN, generator=rng, dtype=torch.float64)
    return Sequences(tokens, fused, last, torch.tensor([17, 9, 13]))


@pytest.fixture
def traces() -> Any:
    """Six requests of up to 20 tokens, each with three verify steps, one of them branched."""
    torch = pytest.importorskip("torch", reason="the kernels or rl extra is not installed")
    from harness.speculator.traces import Trace

    rng = torch.Generator().manual_seed(3)

    def one(request: int) -> Trace:
        n = 20 - request
        return Trace(
            tokens=torch.randint(0, VOCAB, (n,), generator=rng), prompt_tokens=4,
            fused=torch.randn(n, 3 * HIDDEN, generator=rng), last=torch.randn(n, HIDDEN, generator=rng),
            at=torch.tensor([3, 5, 9]), drafted=torch.randint(0, VOCAB, (3, K), generator=rng),
            accepted=torch.tensor([1, 3, 0]), logq=torch.full((3, K), -2.0), branch=torch.tensor([1]),
            branch_last=torch.randn(1, K, HIDDEN, generator=rng), request_id=request, domain="chat",
        )  # fmt: skip

    return [one(i) for i in range(6)]
