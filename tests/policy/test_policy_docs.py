"""The example of docs/policies.md is a policy, and its table of names and settings is complete."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from policy_world import context

from harness.policy import Policy, check_policy, names
from harness.policy.bandit import BanditSettings

TEXT = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()


def test_the_example_keeps_the_contract() -> None:
    found = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    scope: dict[str, type[Policy]] = {}
    exec(compile(found[1], "docs/policies.md", "exec"), scope)
    check_policy(lambda: scope["Halving"](), context())
    check_policy(lambda: scope["Halving"](), context(trainer=True))


def test_every_policy_and_setting_is_documented() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    for name in names():
        assert any(re.match(rf"\| `{name}[`:\[]", row) for row in rows), name
    for setting in dataclasses.fields(BanditSettings):
        assert any(f"`{setting.name}`" in row for row in rows), setting.name
