from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.errors import InputError, MissingPart
from harness.latency import LatencyModel, StepShape, decode_shape, load, specs
from harness.latency import grid as grids
from harness.latency.heldout import heldout_error, main
from tests.latency.folders import CONFIG, LAYERS, REAL, attention_us, dense_us, write_folder

real = pytest.mark.parametrize(
    "folder",
    [
        pytest.param(p, id=p.name, marks=pytest.mark.skipif(not p.is_dir(), reason="shared data absent"))
        for p in REAL
    ],
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "tables", hardware="unlisted")


def own_layers(model: LatencyModel, shape: StepShape) -> float:
    """Attention of one layer, microseconds."""
    return model.explain(shape).parts["attention"] / CONFIG["num_hidden_layers"] * 1e6


def test_a_step_is_the_sum_of_its_kernels(folder):
    model = load(str(folder))
    parts = model.explain(decode_shape(8, 0, 1024, drafter_loaded=False)).parts
    layers = CONFIG["num_hidden_layers"]
    dense = sum(dense_us(name, 8) * (2 if name == "layernorm" else 1) for name in LAYERS)
    gaps = 0.5 * (layers * (1 + len(LAYERS) + 1) + 2)
    once = 2 * dense_us("embedding", 8)
    assert parts["tokens"] * 1e6 == pytest.approx(layers * dense + once + gaps)
    assert parts["attention"] * 1e6 == pytest.approx(layers * attention_us(0, 0, 8, 1024))
    assert parts["head"] * 1e6 == pytest.approx(2 * 20.8)


@pytest.mark.parametrize(
    ("chunk", "prefix", "seqs", "context"),
    [(0, 0, 1, 16), (0, 0, 64, 16384), (256, 256, 8, 1024), (16, 4096, 0, 0), (2048, 0, 1, 16384)],
)
def test_grid_points_come_back(folder, chunk, prefix, seqs, context):
    shape = StepShape(
        decode_seqs=seqs,
        kv_sum=seqs * context,
        kv_max=context,
        prefill_seqs=int(chunk > 0),
        prefill_tokens=chunk,
        prefill_kv=prefix,
        prefill_pairs=chunk * prefix + chunk * (chunk + 1) / 2,
    )
    assert own_layers(load(str(folder)), shape) == pytest.approx(attention_us(chunk, prefix, seqs, context))


def test_decode_is_linear_between_and_beyond_its_grid(folder):
    model = load(str(folder))
    for seqs, context in ((4, 500), (40, 9000), (100, 1000), (64, 30000)):
        shape = StepShape(decode_seqs=seqs, kv_sum=seqs * context, kv_max=context)
        assert own_layers(model, shape) == pytest.approx(attention_us(0, 0, seqs, context), rel=1e-6)


def test_two_short_prompts_cost_less_than_one_of_both(folder):
    model = load(str(folder))
    one = StepShape(prefill_seqs=1, prefill_tokens=2000, prefill_pairs=2000 * 2001 / 2)
    two = replace(one, prefill_seqs=2, prefill_pairs=2 * 1000 * 1001 / 2)
    assert own_layers(model, two) < own_layers(model, one)
    assert model.explain(two).parts["tokens"] == model.explain(one).parts["tokens"]


def test_skew_lies_where_it_was_measured(folder):
    """Half short, half long: a tenth of the way to a level batch of long ones; a quarter beside a prompt."""
    model = load(str(folder))
    short, long = 512, 1536
    for chunk, alpha in ((0, 0.1), (256, 0.25)):
        skewed = StepShape(
            decode_seqs=8,
            kv_sum=4 * (short + long),
            kv_sq=4 * (short**2 + long**2),
            kv_max=long,
            prefill_tokens=chunk,
            prefill_pairs=chunk * (chunk + 1) / 2,
        )
        low = own_layers(model, replace(skewed, kv_sq=8 * 1024**2, kv_max=1024))
        high = own_layers(model, replace(skewed, kv_sum=8 * long, kv_sq=8 * long**2))
        assert own_layers(model, skewed) == pytest.approx(low + alpha * (high - low))


def test_one_long_context_skews_less_than_many(folder):
    """Same mean and same longest: what counts is the spread."""
    model = load(str(folder))
    one = [900] * 7 + [1892]
    many = [156] * 4 + [1892] * 4
    shapes = [
        StepShape(decode_seqs=8, kv_sum=sum(c), kv_sq=sum(x * x for x in c), kv_max=max(c))
        for c in (one, many)
    ]
    assert own_layers(model, shapes[0]) < own_layers(model, shapes[1])


def test_graph_padding_up_to_512_tokens(folder):
    model = load(str(folder))
    tokens = [model.explain(StepShape(decode_seqs=n)).parts["tokens"] for n in (249, 256, 257)]
    assert tokens[0] == tokens[1] < tokens[2]
    beyond = [model.explain(StepShape(prefill_tokens=n)).parts["tokens"] for n in (601, 602)]
    assert beyond[0] < beyond[1]


def test_explain_says_what_was_measured(folder):
    model = load(str(folder))
    at = model.explain(decode_shape(8, 0, 1024, drafter_loaded=False)).basis
    assert (at["tokens"], at["attention"], at["head"]) == ("measured",) * 3
    between = model.explain(decode_shape(9, 0, 1000, drafter_loaded=False)).basis
    assert (between["tokens"], between["attention"]) == ("interpolated", "interpolated")
    beyond = model.explain(decode_shape(2500, 0, 20000, drafter_loaded=False)).basis
    assert (beyond["tokens"], beyond["attention"], beyond["head"]) == ("extrapolated",) * 3
    assert at["gap"] == "assumed"
    assert at["experts"] == at["draft"] == "none"


def test_no_kernel_under_its_floor(tmp_path):
    """The synthetic kernels are far too fast for a real card's vocabulary-sized matrix."""
    folder = write_folder(tmp_path / "fast", hardware="RTX4090")
    config = CONFIG | {"vocab_size": 10_000_000}
    (folder / "model_config.json").write_text(json.dumps(config))
    head = load(str(folder)).explain(decode_shape(1, 0, 16, drafter_loaded=False)).parts["head"]
    floor = 10_000_000 * 512 * 2 / specs.gpu("rtx4090").bytes_s
    assert head == pytest.approx(floor + 20.1e-6)


def test_experts_wake_and_spread(tmp_path):
    folder = write_folder(tmp_path / "moe", moe=True)
    alone, spread = load(str(folder)), load(str(folder), ep=2)
    one = alone.explain(decode_shape(1, 0, 16, drafter_loaded=False)).parts["experts"]
    assert one * 1e6 / 4 == pytest.approx(5 + 2 * 2 + 0.05)
    shape = replace(decode_shape(64, 0, 16, drafter_loaded=False), expert_tokens=128)
    full = alone.explain(decode_shape(64, 0, 16, drafter_loaded=False)).parts["experts"]
    exchange = 4 * (2 * 20e-6 + 128 * 0.5 * 2 * (2 * 512 + 16) / 16e9)
    assert full * 1e6 / 4 == pytest.approx(5 + 2 * 16 + 0.05 * 64, rel=1e-3)
    half = spread.explain(shape).parts["experts"] - exchange
    assert half * 1e6 / 4 == pytest.approx(5 + 2 * 8 + 0.05 * 64, rel=1e-3)


def test_gap_and_draft_are_the_callers(folder, tmp_path):
    shape = decode_shape(4, 3, 100)
    with pytest.raises(InputError, match=r"K = 3 exceeds .* no price for draft passes"):
        load(str(folder)).predict(shape)
    with pytest.raises(InputError, match="has no drafter"):
        load(str(folder)).predict(decode_shape(4, 0, 100))
    known = str(write_folder(tmp_path / "known"))
    model = load(known, draft="roofline", gap=0.25)
    told = model.explain(shape)
    assert told.parts["gap"] == 0.25
    assert told.basis["draft"] == "analytic roofline"
    assert "analytic" in model.note
    with pytest.raises(InputError, match="draft is 'magic'"):
        load(known, draft="magic")
    with pytest.raises(MissingPart, match="no card"):
        load(str(folder), draft="roofline")


def test_configuration_beside_the_folder(folder):
    config = (folder / "model_config.json").rename(folder.parent / "model_config_tiny.json")
    assert load(str(folder)).predict(decode_shape(1, 0, 16, drafter_loaded=False)) > 0
    config.unlink()
    with pytest.raises(MissingPart, match=r"lack model_config\.json"):
        load(str(folder))


@pytest.mark.parametrize("name", ["dense.csv", "attention.csv", "per_sequence.csv.gz"])
def test_a_missing_table_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(MissingPart, match=name.split(".")[0]):
        load(str(folder))


def test_a_missing_folder_is_named():
    with pytest.raises(InputError, match="'no/such/folder' is not a folder"):
        load("no/such/folder")


def spoil(path: Path, column: str, value: object) -> None:
    frame = pd.read_csv(path).astype({column: object})
    frame.loc[3, column] = value
    frame.to_csv(path, index=False)


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("attention.csv", "time_us", float("nan")),
        ("attention.csv", "kv_decode", -16),
        ("dense.csv", "time_us", 0),
        ("dense.csv", "tokens", "many"),
        ("skew.csv", "t_skew_us", float("inf")),
    ],
)
def test_bad_values_name_their_row(folder, name, column, value):
    spoil(folder / name, column, value)
    with pytest.raises(InputError, match=rf"{name} row 5: {column} is"):
        load(str(folder))


def test_a_wrong_column_is_named(folder):
    path = folder / "dense.csv"
    pd.read_csv(path).rename(columns={"time_us": "time_ms"}).to_csv(path, index=False)
    with pytest.raises(InputError, match="lacks column 'time_us'"):
        load(str(folder))


def test_a_missing_layer_is_named(folder):
    path = folder / "dense.csv"
    frame = pd.read_csv(path)
    frame[frame["layer"] != "o_proj"].to_csv(path, index=False)
    with pytest.raises(MissingPart, match="'o_proj'"):
        load(str(folder))


def test_a_config_without_sizes_is_named(folder):
    (folder / "model_config.json").write_text("{}")
    with pytest.raises(InputError, match="num_attention_heads = None"):
        load(str(folder))


def test_ep_must_divide_the_experts(tmp_path):
    folder = str(write_folder(tmp_path / "moe", moe=True))
    with pytest.raises(InputError, match="ep is 3"):
        load(folder, ep=3)


def test_isotonic_keeps_monotone_values_and_mends_others():
    rng = np.random.default_rng(1)
    rising = np.cumsum(np.cumsum(rng.random((5, 6)), axis=0), axis=1)
    assert grids.isotonic(rising) == pytest.approx(rising)
    noisy = rising * rng.uniform(0.5, 2, rising.shape)
    mended = grids.isotonic(noisy)
    assert all((np.diff(mended, axis=a) >= -1e-12).all() for a in (0, 1))
    off = np.abs(np.log(mended / noisy)).max()
    worst = max(
        np.log(noisy[i, j] / noisy[k, m]) / 2
        for i in range(5) for j in range(6) for k in range(i, 5) for m in range(j, 6)
    )  # fmt: skip
    assert off == pytest.approx(worst)


def test_complete_recovers_missing_cells_of_a_linear_grid():
    axes = [
        np.array([0.0, 16, 64]),
        np.array([0.0, 64, 128]),
        np.array([0.0, 1, 2, 4]),
        np.array([16.0, 64, 256]),
    ]
    mesh = np.meshgrid(*axes, indexing="ij")
    full = 1 + mesh[0] + 0.5 * mesh[1] + 2 * mesh[2] + 0.1 * mesh[3]
    holed = np.where(np.random.default_rng(2).random(full.shape) < 0.2, np.nan, full)
    holed[:2], holed[:, :2] = full[:2], full[:, :2]
    assert grids.complete(holed, axes) == pytest.approx(full)


def test_heldout_error_is_small_on_smooth_tables(folder, capsys):
    assert heldout_error(folder)["dense"] < 1e-9
    main([str(folder)])
    assert "attention_decode" in capsys.readouterr().out


@real
def test_real_tables_come_back_at_their_own_rows(folder):
    """Before smoothing exactly, after it within a few percent on average (the noise of 3 iterations)."""
    rows = pd.read_csv(folder / "attention.csv.gz")
    scattered, axes = grids.scatter(rows)
    grid = grids.complete(scattered, axes)
    columns = [rows[name].to_numpy(float) for name in grids.AXES]
    columns[3] = np.where(columns[2] == 0, axes[3][0], columns[3])
    at = tuple(np.searchsorted(axis, c) for axis, c in zip(axes, columns, strict=True))
    seconds = rows["time_us"].to_numpy() * 1e-6
    assert grid[at] == pytest.approx(seconds)
    assert np.abs(grids.monotone(grid)[at] / seconds - 1).mean() < 0.02


@real
def test_real_tables_are_as_good_as_the_docs_say(folder):
    errors = heldout_error(folder)
    assert errors["dense_total"] < 0.03
    assert errors["attention"] < 0.035
    assert errors["attention_decode"] < 0.04
    assert errors.get("moe", 0.0) < 0.055


@real
def test_real_steps_are_close_to_the_roofline_of_the_same_card(folder):
    """A decode step at batch 32 reads weights and KV: the independent analytic model must agree roughly."""
    card = "rtx4090" if folder.name == "RTX4090" else "rtxpro6000"
    name = "qwen3-30b-a3b" if "A3B" in folder.name else "llama3-8b"
    shape = decode_shape(32, 0, 1024, drafter_loaded=False)
    ratio = load(str(folder)).predict(shape) / load(f"roofline:{card}:{name}").predict(shape)
    assert 0.85 < ratio < 1.25
