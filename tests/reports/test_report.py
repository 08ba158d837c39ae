"""The page as a whole: well formed, self-contained, complete, true to summary.json, the same every time."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.compare import summarise
from harness.errors import InputError
from harness.runlog import CellWriter, RunWriter
from reports import write_report
from tests.factories import request_table, write_run
from tests.reports.page_reader import PageReader

ROOT = Path(__file__).parents[2]
ARMS = {"none": 1.0, "static:3": 1.2, "bandit": 1.5, "oracle": 1.6}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "run"
    question = "Does drawing keep every number?"
    write_run(path, ARMS, configuration={"scenario": {"question": question}}, scenario="shift")
    summarise(path)
    write_report(path)
    return path


@pytest.fixture(scope="module")
def summary(run: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return read


@pytest.fixture(scope="module")
def page(run: Path) -> PageReader:
    return PageReader((run / "report.html").read_text(encoding="utf-8"))


def draw(run: Path) -> tuple[PageReader, dict[str, Any]]:
    summary = summarise(run)
    return PageReader(write_report(run).read_text(encoding="utf-8")), summary


# --- one file that needs nothing else ---


def test_the_page_refers_to_nothing_outside(run: Path, page: PageReader) -> None:
    html = (run / "report.html").read_text(encoding="utf-8")
    assert "://" not in html
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "img", "object", "base"})
    assert all(value.startswith("#") for name in ("href", "src", "xlink:href") for value in page.values(name))


def test_references_within_the_page_have_one_target_each(run: Path, page: PageReader) -> None:
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    clips = re.findall(r"url\(#([^)]*)\)", (run / "report.html").read_text(encoding="utf-8"))
    assert clips
    assert {value[1:] for value in page.values("href")} | set(clips) <= set(ids)


def test_figures_have_both_forms_and_words_for_those_who_cannot_see_them(page: PageReader) -> None:
    figures = [a for tag, a in page.tags if tag == "svg" and a["class"].startswith("figure")]
    assert [a["class"] for a in figures] == ["figure wide", "figure narrow"] * 2
    assert all(a["role"] == "img" and len(a["aria-label"]) > 80 for a in figures)
    assert "bandit" in figures[0]["aria-label"]
    assert "shift code at" in figures[2]["aria-label"]


def test_colours_come_from_the_theme(run: Path) -> None:
    html = (run / "report.html").read_text(encoding="utf-8")
    drawn = "".join(re.findall(r'<svg class="figure.*?</svg>', html, flags=re.DOTALL))
    assert "var(--arm-1)" in drawn
    assert not re.findall(r"#[0-9a-f]{6}", drawn)
    used = set(re.findall(r"var\(--([a-z0-9-]+)\)", html))
    defined = set(re.findall(r"--([a-z0-9-]+):", html))
    assert used <= defined


def test_a_report_of_many_arms_stays_small(tmp_path: Path) -> None:
    arms = {"none": 1.0} | {f"bandit-{i}": 1.0 + i / 20 for i in range(14)}
    run = write_run(tmp_path / "run", arms, requests=300)
    summarise(run)
    assert write_report(run).stat().st_size < 2_000_000


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(run: Path, tmp_path: Path) -> None:
    first = (run / "report.html").read_bytes()
    shutil.copytree(run, tmp_path / ".elsewhere.partial-1")
    assert write_report(tmp_path / ".elsewhere.partial-1", tmp_path / "out.html").read_bytes() == first
    again = f"from reports import write_report; write_report({str(run)!r}, {str(tmp_path / 'b.html')!r})"
    subprocess.run([sys.executable, "-c", again], cwd=ROOT, check=True)
    assert (tmp_path / "b.html").read_bytes() == first


# --- true to summary.json ---


def test_every_interval_is_that_of_the_summary(page: PageReader, summary: dict[str, Any]) -> None:
    pairs = {(p["arm"], p["over"]): p["ratios"] for p in summary["pairs"]}
    shown = set()
    for table in page.tables:
        for cell in (c for row in table.rows for c in row if "data-ratio" in c.attributes):
            arm, over, ratio, part = (cell.attributes[f"data-{x}"] for x in ("arm", "over", "ratio", "part"))
            found = pairs[arm, over][ratio]
            values = [float(text) for text in re.findall(r"\d+\.\d{3}", cell.text)]
            expected = [found["estimate"]] if part == "estimate" else [found["low"], found["high"]]
            assert values == [round(v, 3) for v in expected]
            shown.add((arm, over, ratio, part))
    parts = ("estimate", "interval")
    assert {(*pair, "speedup", part) for pair in pairs for part in parts} <= shown
    best = summary["verdict"]["best_static"]["arm"]
    others = [arm for arm in ARMS if arm != best]
    assert {(a, best, r, part) for a in others for r in summary["ratios"] for part in parts} <= shown


def test_figures_of_an_arm_are_those_of_the_summary(page: PageReader, summary: dict[str, Any]) -> None:
    mean = summary["arms"]["bandit"]["mean"]
    service = [float(text.replace(",", "")) for text in page.table("Service").row("bandit")]
    expected = [mean[n] for n in ("goodput", "goodput_gross", "tokens_per_second", "requests_per_second")]
    assert service[:4] == pytest.approx(expected, rel=1e-3)
    assert service[4] == pytest.approx(mean["slo_attainment"] * 100, abs=0.005)
    assert service[-1] == pytest.approx(mean["acceptance_length"], abs=5e-4)
    latency = [float(text) for text in page.table("Latency").row("bandit")[1:]]
    points = ("mean", "p50", "p90", "p99")
    expected = [mean[n][p] * (1 if n == "e2e" else 1e3) for n in ("ttft", "tpot", "e2e") for p in points]
    assert latency == pytest.approx(expected, rel=1e-3, abs=5.1e-4)
    assert page.table("Swaps").row("bandit")[:3] == ["1.0", "1.0", "0.30"]
    assert page.table("Requests by status").row("bandit") == ["180", "0", "0", "0"]


def test_k_and_domains_are_shown_per_arm(page: PageReader, summary: dict[str, Any]) -> None:
    k = page.table("K: share")
    assert k.row("none") == ["100.0", "0"]
    assert k.row("bandit") == ["0", "100.0"]
    domains = summary["arms"]["bandit"]["mean"]["by_domain"]
    shown = [float(text) for text in page.table("Acceptance length by domain").row("bandit")]
    assert shown == [round(domains[d]["acceptance_length"], 3) for d in ("chat", "code")]
    assert page.table("Acceptance length by domain").row("none") == ["–", "–"]
    assert not [t for t in page.tables if "by tenant" in t.caption], "one tenant is no comparison"


def test_every_arm_stands_in_every_table_of_arms(page: PageReader) -> None:
    tables = [t for t in page.tables if t.rows[-1][0].text in ARMS]
    assert len(tables) == 11
    for table in tables:
        heads = [row[0].text for row in table.rows if row[0].attributes.get("scope") == "row"]
        assert heads == list(ARMS), table.caption


def test_the_head_says_what_the_verdict_says_and_where_numbers_come_from(
    page: PageReader, summary: dict[str, Any]
) -> None:
    words = page.words
    finding = next(f for f in summary["verdict"]["findings"] if f["arm"] == "bandit")
    assert "Does drawing keep every number?" in words
    assert "pass: 5 of 5 checks hold" in words
    assert f"speedup {finding['estimate']:.3f} ({finding['low']:.3f} to {finding['high']:.3f})" in words
    assert "synthetic" in words
    assert "3 (0, 1, 2), paired" in words
    assert "Events are those of seed 0" in words
    for check in summary["verdict"]["checks"]:
        assert check["detail"] in words


def test_events_are_listed_with_their_times(page: PageReader, summary: dict[str, Any]) -> None:
    rows = page.table("Events of seed 0").rows[1:]
    marks = [m for found in summary["series"]["marks"].values() for m in found]
    assert len(rows) == len(marks)
    assert [r[0].text for r in rows] == [f"{t:.2f}" for t in sorted(m["time"] for m in marks)]
    assert any("ok False" in r[3].text for r in rows), "a failed swap is shown"
    assert "failed swap" in page.words


# --- what is missing or failed is shown ---


def test_one_seed_has_no_interval_and_says_so(tmp_path: Path) -> None:
    page, summary = draw(write_run(tmp_path / "run", seeds=(4,)))
    assert "fail: 4 of 5 checks hold" in page.words
    assert "not enough seeds" in page.words
    assert "A dash: one seed gives no interval." in page.words
    ratio = next(p for p in summary["pairs"] if (p["arm"], p["over"]) == ("bandit", "static:3"))
    assert page.table("speedup with").row("bandit")[1:3] == [
        f"{ratio['ratios']['speedup']['estimate']:.3f}",
        "–",
    ]
    assert "Events are those of seed 4" in page.words


def test_failed_checks_are_shown_with_their_reasons(tmp_path: Path) -> None:
    page, _ = draw(write_run(tmp_path / "run", unfinished={"bandit": 2}))
    assert "no number on this page is a finding" in page.words
    (row,) = [r for r in page.table("Can this").rows if r[0].text == "all finished"]
    assert [c.text for c in row[1:]] == [
        "fails",
        "requests did not finish: bandit has 6 unfinished",
    ]
    assert page.table("Requests by status").row("bandit") == ["174", "6", "0", "0"]


def test_an_arm_that_the_summary_lacks_is_shown_as_missing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {**ARMS, "cadence": 1.1})
    without = write_run(tmp_path / "without", ARMS)
    summarise(without)
    shutil.copy(without / "summary.json", run / "summary.json")
    page = PageReader(write_report(run).read_text(encoding="utf-8"))
    assert "summary.json lacks arm cadence, which run.json names" in page.words
    assert [a for _, a in page.tags if a.get("role") == "alert"]
    assert set(page.table("Service").row("cadence")) == {"–"}
    assert "not in the summary" in page.table("speedup with").row("cadence")


def test_a_run_without_steps_says_what_it_did_not_record(tmp_path: Path) -> None:
    info = {"mode": "live", "scenario": "x", "seeds": [0, 1], "arms": {"none": {}, "bandit": {}}}
    with RunWriter(tmp_path / "run", info) as run:
        for arm in info["arms"]:
            for seed in (0, 1):
                with CellWriter(run.parts, arm, seed, steps=False) as cell:
                    cell.requests(request_table(seed, 40, 1.0, drafts=arm == "bandit"))
    page, _ = draw(tmp_path / "run")
    assert re.search(r"Not recorded in this run: K \(mean", page.words)
    (alt,) = {a["aria-label"] for _, a in page.tags if "Over time" in a.get("aria-label", "")}
    assert "acceptance length (tokens per verify step, bonus included, by finish time)" in alt
    assert "measured on a live server" in page.words
    assert "the run does not say where this comes from" in page.words


def test_a_run_of_nothing_is_drawn_as_such(tmp_path: Path) -> None:
    with (
        RunWriter(
            tmp_path / "run", {"mode": "sim", "scenario": "x", "seeds": [0], "arms": {"none": {}}}
        ) as run,
        CellWriter(run.parts, "none", 0),
    ):
        pass
    page, _ = draw(tmp_path / "run")
    assert "Nothing ended in this run" in page.words
    assert "fail:" in page.words


def test_a_run_without_a_static_arm_compares_its_pairs(tmp_path: Path) -> None:
    page, summary = draw(write_run(tmp_path / "run", {"goodput": 1.0, "bandit": 1.3}))
    assert "The run has no static arm" in page.words
    ratio = next(p for p in summary["pairs"] if p["arm"] == "bandit")["ratios"]["speedup"]
    assert f"{ratio['estimate']:.3f}" in page.table("speedup of every pair").row("bandit")


HOSTILE = "<script>alert('x')</script>\"&amp;$\\frac{1}{2}$"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    arms = {"none": 1.0, HOSTILE: 1.5}
    page, _ = draw(
        write_run(
            tmp_path / "run",
            arms,
            scenario="</title><img src=x onerror=y>",
            configuration={"scenario": {"question": "</style><b>?"}},
            settings={HOSTILE: {"policy": "bandit"}},
        )
    )
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "b"})
    assert len(page.table("Service").row(HOSTILE)) == 8
    assert "</title><img src=x onerror=y>" in page.words
    assert "</style><b>?" in page.words


# --- errors, and what they leave behind ---


def test_what_cannot_be_drawn_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run at"):
        write_report(tmp_path / "nowhere")
    run = write_run(tmp_path / "run", requests=10)
    with pytest.raises(InputError, match=r"has no summary\.json"):
        write_report(run)
    assert not list(run.glob("*.html*"))
    summarise(run)
    with pytest.raises(InputError, match="is a directory"):
        write_report(run, tmp_path)
    with pytest.raises(InputError, match="cannot write the report"):
        write_report(run, tmp_path / "none" / "report.html")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"summary_version": 99}))
    with pytest.raises(InputError, match="summary version 99"):
        write_report(run)


def test_a_failure_leaves_the_old_report(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    before = (tmp_path / "run" / "report.html").read_bytes()
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(InputError):
        write_report(tmp_path / "run")
    assert (tmp_path / "run" / "report.html").read_bytes() == before
    assert not list((tmp_path / "run").glob(".report*"))


def test_importing_the_package_loads_nothing_heavy() -> None:
    source = (
        "import sys, reports; print(*sorted({'matplotlib', 'jinja2', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == []
