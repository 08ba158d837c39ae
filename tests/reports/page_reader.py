"""Reads a report back: a strict well-formedness check, its tables, and everything it refers to."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "input", "link", "col", "wbr"}


@dataclass
class Cell:
    """One td or th."""

    tag: str
    attributes: dict[str, str]
    text: str = ""


@dataclass
class TableRead:
    """One table: caption and rows of cells."""

    caption: str = ""
    rows: list[list[Cell]] = field(default_factory=list)

    def row(self, label: str) -> list[str]:
        """Texts behind the row header `label`."""
        (found,) = [r for r in self.rows if r and r[0].tag == "th" and r[0].text == label]
        return [c.text for c in found[1:]]


class PageReader(HTMLParser):
    """Raises AssertionError at the first tag that does not match."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.tables: list[TableRead] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> repeats an attribute: {attrs}"
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        if tag in VOID:
            return
        self._open.append(tag)
        if tag == "table":
            self.tables.append(TableRead())
        elif tag == "tr":
            self.tables[-1].rows.append([])
        elif tag in ("td", "th"):
            self.tables[-1].rows[-1].append(Cell(tag, attributes))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1] == tag, f"</{tag}> closes <{self._open[-1]}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text.append(data)
        if "caption" in self._open:
            self.tables[-1].caption += data
        elif self._open and {"td", "th"} & set(self._open) and self.tables[-1].rows:
            self.tables[-1].rows[-1][-1].text += data

    def table(self, caption: str) -> TableRead:
        """The one table whose caption begins with `caption`."""
        (found,) = [t for t in self.tables if t.caption.startswith(caption)]
        return found

    def values(self, name: str) -> list[str]:
        """Every value of an attribute on the page."""
        return [attributes[name] for _, attributes in self.tags if name in attributes]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())
