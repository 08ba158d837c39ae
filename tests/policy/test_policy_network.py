"""The file of a learned policy, and what is drawn from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from policy_world import context
from safetensors.numpy import save_file

from harness.errors import InputError
from harness.policy import check_policy, make
from harness.policy.network import Network, load, save
from harness.policy.ppo import SHIPPED
from harness.policy.steered import FEATURES, MOST_K

SIZE = len(FEATURES)


def layers(width: int = 5, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    draw = np.random.default_rng(seed)
    shapes = [(width, SIZE), (width, width), (MOST_K + 1, width + SIZE)]
    return [
        (draw.normal(size=s).astype(np.float32), draw.normal(size=s[0]).astype(np.float32)) for s in shapes
    ]


def test_a_file_holds_the_network_and_where_it_was_learned(tmp_path: Path) -> None:
    given = layers()
    save(tmp_path / "p.safetensors", given, {"scenarios": ["steady"]})
    found = load(tmp_path / "p.safetensors")
    assert found.learned == {"scenarios": ["steady"]}
    x = np.linspace(-1, 1, SIZE, dtype=np.float32)
    (w0, b0), (w1, b1), (w2, b2) = given
    hidden = np.tanh(w1 @ np.tanh(w0 @ x + b0) + b1)
    expected = w2 @ np.concatenate([hidden, x]) + b2
    assert np.allclose(found.logits(x), expected)


def test_k_comes_as_often_as_its_propensity_says() -> None:
    """5,000 draws; each frequency within 4 standard errors, and none deeper than the engine allows."""
    network = Network(tuple((w * 0.05, b) for w, b in layers()), {})
    x, rng, n = np.zeros(SIZE, dtype=np.float32), np.random.default_rng(3), 5000
    drawn = [network.draw(x, 4, rng) for _ in range(n)]
    told = dict(drawn)
    assert max(told) <= 4
    assert sum(told.values()) == pytest.approx(1.0)
    for k, p in told.items():
        share = sum(other == k for other, _ in drawn) / n
        assert abs(share - p) < 4 * np.sqrt(p * (1 - p) / n)


def test_a_file_learned_elsewhere_runs_as_a_policy(tmp_path: Path) -> None:
    save(tmp_path / "p.safetensors", layers(seed=1), {})
    check_policy(lambda: make(f"ppo:{tmp_path / 'p.safetensors'}"), context(trainer=True))


def test_the_shipped_policy_says_where_it_was_learned() -> None:
    learned = load(SHIPPED).learned
    assert learned["ticks"] > 0
    assert learned["scenarios"]
    assert learned["provenance"]["packages"]


def broken(path: Path, which: str) -> None:
    """Write a file that is nearly a policy."""
    given = layers()
    if which == "missing":
        return
    if which == "no safetensors":
        path.write_bytes(b"x" * 100)
    elif which == "other features":
        save_file(
            {"0.weight": given[0][0]},
            path,
            {"format": "specdrift-policy-1", "features": "[]", "learned": "{}"},
        )
    elif which == "a tensor short":
        told = {"format": "specdrift-policy-1", "features": json.dumps(FEATURES), "learned": "{}"}
        save_file({"0.weight": given[0][0], "1.bias": given[1][1]}, path, told)
    elif which == "something else":
        save_file({"a": given[0][0]}, path)
    elif which == "not finite":
        given[1][0][0, 0] = np.nan
        save(path, given, {})
    elif which == "shapes":
        given[1] = (np.zeros((5, 4), dtype=np.float32), given[1][1])
        save(path, given, {})


@pytest.mark.parametrize(
    "which",
    [
        "missing",
        "no safetensors",
        "other features",
        "a tensor short",
        "something else",
        "not finite",
        "shapes",
    ],
)
def test_what_is_no_policy_is_refused_in_one_sentence(tmp_path: Path, which: str) -> None:
    path = tmp_path / "p.safetensors"
    broken(path, which)
    with pytest.raises(InputError) as error:
        make(f"ppo:{path}")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
