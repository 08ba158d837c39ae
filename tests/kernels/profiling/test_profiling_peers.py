"""Peers compute the same function: on CPU tensors, against the fp64 references."""

from __future__ import annotations

import pytest
import torch

from kernels.attention import AttentionShape
from kernels.fusion import FusionShape
from kernels.gemm import GemmShape
from kernels.kl import KlShape
from kernels.lm_head import HeadShape
from kernels.profiling import peers

CASES = [
    ("attention", "torch-sdpa", AttentionShape(2, 1, 40, 4, 2, 16)),
    ("attention", "torch-sdpa", AttentionShape(2, 5, 40, 4, 2, 16)),
    ("gemm", "torch-matmul", GemmShape(3, 16, 64)),
    ("lm_head", "torch-matmul", HeadShape(3, 40, 64)),
    ("lm_head", "torch-matmul", HeadShape(3, 40, 64, 4, True)),
    ("fusion", "torch-matmul", FusionShape(3, 64)),
    ("kl_forward", "torch-matmul", KlShape(3, 40, 64, "forward")),
    ("kl_forward", "torch-matmul", KlShape(3, 40, 64, "reverse")),
]


@pytest.mark.parametrize(("op", "impl", "shape"), CASES)
def test_peer_matches_reference(op: str, impl: str, shape: object) -> None:
    peer = peers.variant(op, impl)
    assert peer.check(peer, peer.inputs(shape, "cpu", torch.float32, 0)) < 1e-5


def test_only_what_can_be_imported_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert set(peers.present()) == set(peers._ALWAYS)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: object())
    assert ("attention", "flashinfer") in peers.present()
    assert ("attention", "vllm-flash-attn") in peers.present()


def test_dense_peers_take_equal_lengths_and_no_tree() -> None:
    supports = peers.present()["attention", "torch-sdpa"].supports
    assert supports(AttentionShape(8, 5, 64, 4, 2))
    assert not supports(AttentionShape(8, 5, 64, 4, 2, skew=8))
    assert not supports(AttentionShape(8, 5, 64, 4, 2, tree=True))
