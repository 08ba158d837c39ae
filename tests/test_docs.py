"""Documents that execute: every command they show parses, every file they name is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from harness.cli import app

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = sorted(
    {
        (doc.name, line.split("#")[0].strip())
        for doc in DOCS
        for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", doc.read_text(), re.S)
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip().startswith("specdrift ")
    }
)


@pytest.mark.parametrize(("doc", "line"), COMMANDS)
def test_commands_in_the_documents_parse(doc, line):
    words = shlex.split(line)[1:]
    if words[0].startswith("-"):
        return
    command = typer.main.get_command(app).commands[words[0]]
    command.make_context(words[0], list(words[1:]))


def test_the_documents_show_commands():
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("doc", DOCS, ids=lambda d: d.name)
def test_links_lead_somewhere(doc):
    for target in re.findall(r"\]\((?!http)([^)#]+)", doc.read_text()):
        assert (doc.parent / target).exists(), target


def test_named_tests_exist():
    text = (ROOT / "docs" / "invariants.md").read_text()
    sources = "".join(p.read_text() for p in (ROOT / "tests").rglob("*.py"))
    for name in re.findall(r"(test_\w+?)(?:`|_\.\.\.)", text):
        assert f"def {name}" in sources or name.endswith(("invariants", "acceptance")), name
