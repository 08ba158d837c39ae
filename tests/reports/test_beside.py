"""The section that holds a live run against its own simulation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness.compare import side_by_side, summarise
from harness.errors import InputError
from reports import write_report
from tests.factories import write_run
from tests.reports.page_reader import PageReader

ARMS = {"none": 1.0, "static:3": 1.2, "bandit": 1.5}


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """The simulation makes the bandit 10% faster than it was; noise on both sides is another's."""
    for name, mode, bandit in (("live", "live", 1.5), ("sim", "sim", 1.65)):
        write_run(tmp_path / name, ARMS | {"bandit": bandit}, mode=mode, noise=0.0)
        summarise(tmp_path / name)
    side_by_side(tmp_path / "live", tmp_path / "sim")
    return tmp_path / "live"


def draw(run: Path) -> PageReader:
    return PageReader(write_report(run).read_text(encoding="utf-8"))


def edit(run: Path, change: Any) -> None:
    found = json.loads((run / "side-by-side.json").read_text())
    change(found)
    (run / "side-by-side.json").write_text(json.dumps(found))


def test_numbers_and_errors_are_those_of_the_file(live):
    page = draw(live)
    found = json.loads((live / "side-by-side.json").read_text())["arms"]
    assert "not within the bars" in page.words
    table = page.table("Live and simulated")
    for arm, entry in found.items():
        cells = table.row(arm)
        for i, (name, factor) in enumerate(
            {
                "tokens_per_second": 1,
                "tpot": 1e3,
                "ttft_p50": 1e3,
                "acceptance_length": 1,
                "speedup": 1,
            }.items()
        ):
            shown, metric = cells[3 * i : 3 * i + 3], entry["metrics"].get(name)
            if metric is None or metric["live"] is None:
                assert shown == ["–"] * 3
                continue
            values = [float(text.replace(",", "")) for text in shown[:2]]
            assert values == pytest.approx([metric[s] * factor for s in ("live", "simulated")], rel=2e-3)
            assert float(shown[2].rstrip(" *")) == pytest.approx(metric["error"] * 100, abs=0.051)
            assert shown[2].endswith("*") == (metric["within"] is False)
    assert table.row("bandit")[14] == "+10.0 *"
    (row,) = [r for r in table.rows if r[0].text == "bandit"]
    assert row[15].attributes["class"] == "slower"


def test_the_curves_stand_on_one_axis_per_arm_that_drafts(live):
    figures = [
        a for tag, a in draw(live).tags if tag == "svg" and "live and simulated" in a.get("aria-label", "")
    ]
    assert [a["class"] for a in figures] == ["figure wide", "figure narrow"]
    assert "static:3, bandit" in figures[0]["aria-label"]
    assert "none" not in figures[0]["aria-label"]
    html = (live / "report.html").read_text()
    assert "://" not in html
    ids = PageReader(html).values("id")
    assert len(set(ids)) == len(ids)
    assert not re.findall(
        r"#[0-9a-f]{6}", "".join(re.findall(r'<svg class="figure.*?</svg>', html, re.DOTALL))
    )


def test_how_much_of_a_replay_was_known_is_told(live):
    assert not [t for t in draw(live).tables if t.caption.startswith("Verify steps")]

    def tell(found: dict[str, Any]) -> None:
        found["arms"]["bandit"] |= {
            "k_distance": 0.25,
            "replay": {"exact": 1200, "censored": 30, "absent": 4},
        }

    edit(live, tell)
    table = draw(live).table("Verify steps of the simulation")
    assert table.row("bandit") == ["25.0", "1,200", "30", "4"]
    assert table.row("none") == ["0.0", "–", "–", "–"]


def test_a_run_without_the_file_has_no_such_section(live):
    (live / "side-by-side.json").unlink()
    page = draw(live)
    assert "Live and simulated" not in page.words
    assert "beside" not in page.values("id")


def test_missing_curves_and_arms_leave_the_tables(live):
    def strip(found: dict[str, Any]) -> None:
        found["series"]["simulated"] = None
        del found["arms"]["static:3"]

    edit(live, strip)
    page = draw(live)
    assert not [a for tag, a in page.tags if tag == "svg" and "live and simulated" in a.get("aria-label", "")]
    assert page.table("Live and simulated").row("static:3") == ["–"] * 15


def test_another_layout_is_refused(live):
    edit(live, lambda found: found.update(side_by_side_version=9))
    with pytest.raises(InputError, match="version 9"):
        write_report(live)
