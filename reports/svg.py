"""matplotlib figures as inline SVG: themed by CSS variables, the same bytes every time, self-contained."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.palette import light, tokens

WIDE, NARROW = "wide", "narrow"
STEPS = (1, 2, 2.5, 5, 10)
"""Tick distances, times a power of ten."""
WIDTHS = {WIDE: 9.4, NARROW: 4.0}
"""Inches per form of a figure: the page shows one of the two, by its width."""

_RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": light("muted"),
    "axes.labelcolor": light("ink"),
    "text.color": light("ink"),
    "xtick.color": light("muted"),
    "ytick.color": light("muted"),
    "xtick.labelcolor": light("muted"),
    "ytick.labelcolor": light("muted"),
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.titlesize": 8.0,
    "axes.titlelocation": "left",
    "grid.color": light("grid"),
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.solid_capstyle": "butt",
    "path.simplify_threshold": 0.05,
}
"""Labels stay text, and user text is never read as a formula."""


@contextmanager
def drawing(key: str) -> Iterator[None]:
    """Settings under which a figure is both made and written; `key` must be unique on the page."""
    settings: Any = dict(matplotlib.rcParamsDefault) | _RC | {"svg.hashsalt": key}
    with matplotlib.rc_context(settings):
        yield


def quiet_grid(axes: Axes, axis: Any = "y") -> None:
    axes.grid(axis=axis)
    axes.tick_params(axis="y", length=0)


def inline_svg(figure: Figure, key: str, form: str, alt: str) -> Markup:
    """The figure as an <svg> element with `alt` as its accessible name, to stand in an HTML page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue().decode("utf-8")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], count=1, flags=re.DOTALL)
    view = re.search(r'viewBox="([^"]*)"', text)
    assert view is not None
    body = _compact(text[text.index(">") + 1 :], f"{key}-{form}")
    head = f'<svg class="figure {form}" viewBox="{view[1]}" role="img" aria-label="{escape(alt)}">'
    # Safe: matplotlib escapes the text that it writes, and `alt` is escaped here.
    return Markup(head + body)


def _compact(body: str, prefix: str) -> str:
    """Style colours as variables, ids made unique, two decimals, the page's font."""
    body = re.sub(r"<[^>]+>", lambda tag: _tag(tag[0], prefix), body, flags=re.DOTALL)
    return re.sub(r">\s+<", "><", body).strip()


def _tag(tag: str, prefix: str) -> str:
    if tag.startswith("<style"):
        return tag
    tag = re.sub(r"\s+", " ", tag)
    tag = re.sub(r"(-?\d+\.\d\d)\d+", r"\1", tag)
    tag = re.sub(r'font-family: [^;"]*;? ?', "", tag)
    tag = re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}-', tag)
    tag = tag.replace("url(#", f"url(#{prefix}-")
    # Only what is referred to keeps its id: markers and clip paths.
    keep = tag.startswith(("<path", "<clipPath", "<linearGradient"))
    tag = re.sub(r' id="([^"]*)"', rf' id="{prefix}-\1"' if keep else "", tag)
    return re.sub(r"#[0-9a-f]{6}\b", _variable, tag) if "style=" in tag else tag


_NAMES = {pair[0]: name for name, pair in tokens().items()}


def _variable(colour: re.Match[str]) -> str:
    name = _NAMES.get(colour[0])
    return f"var(--{name})" if name else colour[0]
