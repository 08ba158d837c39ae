"""The examples of docs/workloads.md run, and its tables name what exists."""

import re
from pathlib import Path

import pytest

from workloads.generate import generate
from workloads.scenario import load_scenario, parse_scenario, scenario_names
from workloads.traces import FORMATS

TEXT = (Path(__file__).parents[2] / "docs" / "workloads.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_toml_example_is_a_whole_scenario():
    (example,) = blocks("toml")
    scenario = parse_scenario(example, "docs/workloads.md")
    assert {r.tenant for r in generate(scenario, 0)} == {"chat", "batch"}


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_examples_run(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/workloads.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_every_scenario_and_format_has_its_row():
    for name in scenario_names():
        row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |"))
        assert f"| {load_scenario(name).requests:,} |" in row
    for name in FORMATS:
        assert f"\n| `{name}` | " in TEXT


def test_every_key_of_a_scenario_is_mentioned():
    schema = type(load_scenario("steady")).model_json_schema()
    for entry in (schema, *schema["$defs"].values()):
        for key in entry.get("properties", {}):
            assert re.search(rf"\b{key}\b", TEXT), key
