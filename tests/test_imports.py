"""Who may import whom: the rules of DESIGN section 2, held over every file by its syntax tree.

A file that does not exist yet comes under its rule as soon as it does.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("harness", "workloads", "kernels", "reports")
HEAVY = {
    "torch": ("kernels", "harness.speculator", "harness.live", "harness.sim.ppo", "harness.sim.model"),
    "triton": ("kernels",),
    "vllm": ("harness.live",),
    "matplotlib": ("reports",),
}
"""Packages that cost seconds or a GPU, and the only parts that may import them at module level."""

FACE = ("harness.cli", "harness.commands", "harness.__main__")


@dataclass(frozen=True)
class Import:
    """One import: of `target` (dotted), by `module`; `lazy` when inside a function."""

    module: str
    target: str
    lazy: bool

    def __str__(self) -> str:
        return f"{self.module} imports {self.target}"


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, root: Path) -> Iterator[Import]:
    """Every import of a file, relative ones resolved; those under TYPE_CHECKING never run: left out."""
    module = module_name(path, root)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                yield from visit(child, lazy)
            return
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from _from(module, package, node, lazy)
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse(path.read_text(encoding="utf-8"), str(path)), False)


def _from(module: str, package: str, node: ast.ImportFrom, lazy: bool) -> Iterator[Import]:
    base = node.module or ""
    if node.level:
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*above, *([node.module] if node.module else [])])
    # `from a import b` may name a module a.b: both are what is imported.
    yield from (Import(module, f"{base}.{alias.name}", lazy) for alias in node.names)


def under(name: str, *parts: str) -> bool:
    return any(name == part or name.startswith(part + ".") for part in parts)


def violations(root: Path) -> list[str]:
    """Every broken rule below `root`, as sentences."""
    found = []
    for package in OURS:
        for path in sorted((root / package).rglob("*.py")):
            for item in imports_of(path, root):
                found += [f"{item}: {rule}" for rule in broken_rules(item)]
    return found


def broken_rules(i: Import) -> Iterator[str]:
    ours = under(i.target, *OURS)
    if i.module == "harness.contract" and not _standard_or_numpy(i.target):
        yield "the contract imports the standard library and NumPy only"
    if (
        under(i.module, "workloads")
        and ours
        and not under(i.target, "workloads", *_of("contract", "errors", "rng"))
    ):
        yield "workloads imports only contract, errors and rng of ours"
    if under(i.module, "harness.sim") and under(i.target, "harness.live"):
        yield "sim never imports live"
    if under(i.module, "harness.live") and under(i.target, "harness.sim"):
        yield "live never imports sim"
    if under(i.module, "harness.policy", "harness.speculator") and under(i.target, "simpy", "vllm"):
        yield "policy and speculator know neither simpy nor vllm"
    if under(i.module, "harness.policy", "harness.speculator") and under(i.target, *_of("sim", "live")):
        yield "policy and speculator know neither world"
    if under(i.module, "harness.policy") and under(i.target, "torch"):
        yield "policies need no torch, so they can sit inside a server process"
    if under(i.module, "harness") and under(i.target, "kernels") and not i.lazy:
        yield "harness never imports kernels at module level"
    if (
        under(i.module, "harness.compare")
        and ours
        and not under(i.target, *_of("compare", "runlog", "errors"))
    ):
        yield "compare reads run logs and nothing else"
    if under(i.module, "reports") and ours and not under(i.target, "reports", *_of("runlog", "errors")):
        yield "reports draw what the run log holds and compute nothing"
    if under(i.module, "harness") and under(i.target, "reports") and not i.lazy:
        yield "drawing is loaded when a report is drawn"
    if not under(i.module, *FACE) and under(i.target, *FACE):
        yield "nothing imports the face"
    for package, parts in HEAVY.items():
        if under(i.target, package) and not under(i.module, *parts) and not i.lazy:
            yield f"{package} is imported only inside the packages that need it"


def _of(*names: str) -> tuple[str, ...]:
    return tuple(f"harness.{name}" for name in names)


def _standard_or_numpy(target: str) -> bool:
    top = target.partition(".")[0]
    return top in sys.stdlib_module_names or top == "numpy"


def test_every_file_keeps_the_rules() -> None:
    assert violations(ROOT) == []


def test_the_walk_sees_the_tree() -> None:
    seen = {i.module for p in OURS for f in (ROOT / p).rglob("*.py") for i in imports_of(f, ROOT)}
    assert {"harness.contract", "harness.runlog", "harness.compare.summary", "harness.gate"} <= seen


def graph(root: Path) -> dict[str, set[str]]:
    """Module -> modules of ours that it names, lazily or not. A package's face only hands names on: left out."""
    files = {module_name(p, root): p for o in OURS for p in sorted((root / o).rglob("*.py"))}
    modules = {name for name, path in files.items() if path.name != "__init__.py"}
    found: dict[str, set[str]] = {}
    for name in modules:
        named = {i.target for i in imports_of(files[name], root)}
        found[name] = {t if t in modules else t.rpartition(".")[0] for t in named} & modules
    return found


def test_nothing_imports_in_a_circle() -> None:
    """Lazy imports count: data flows one way. CycleError names the circle."""
    TopologicalSorter(graph(ROOT)).prepare()


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness/a.py").write_text("def f():\n    from harness.b import g")
    (tmp_path / "harness/b.py").write_text("from harness import a")
    with pytest.raises(CycleError):
        TopologicalSorter(graph(tmp_path)).prepare()


PLANTED = {
    "harness/contract.py": ("import pandas", "the contract imports"),
    "workloads/readers.py": ("from harness import policy", "workloads imports only"),
    "workloads/scenario.py": ("from harness.sim import engine", "workloads imports only"),
    "harness/sim/engine.py": ("from ..live import launch", "sim never imports live"),
    "harness/live/launch.py": ("import harness.sim.engine", "live never imports sim"),
    "harness/policy/bandit.py": ("def f():\n    import simpy", "neither simpy nor vllm"),
    "harness/speculator/trainer.py": ("from vllm import LLM", "neither simpy nor vllm"),
    "harness/policy/static.py": ("def f():\n    import torch", "policies need no torch"),
    "harness/latency/load.py": ("from kernels import cost", "never imports kernels at module level"),
    "harness/compare/cell.py": ("from harness.sim import world", "compare reads run logs"),
    "reports/figures.py": ("from harness.compare import summarise", "compute nothing"),
    "harness/observe.py": ("try:\n    import torch\nexcept ImportError:\n    pass", "torch is imported only"),
    "kernels/plot.py": ("import matplotlib.pyplot as plt", "matplotlib is imported only"),
    "harness/gate.py": ("from harness.cli import main", "nothing imports the face"),
    "reports/page.py": ("from harness.commands.base import answer", "nothing imports the face"),
}


@pytest.mark.parametrize("path", PLANTED)
def test_a_planted_violation_is_found(tmp_path: Path, path: str) -> None:
    source, rule = PLANTED[path]
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source + "\n")
    found = violations(tmp_path)
    assert any(rule in sentence for sentence in found), found


def test_what_the_rules_allow_passes(tmp_path: Path) -> None:
    allowed = {
        "harness/cli.py": "from harness.commands.simulating import simulate",
        "harness/commands/judging.py": "def f():\n    import torch\n    from kernels import cost\n    import reports",
        "harness/live/worker.py": "import torch\nimport vllm",
        "harness/compare/cell.py": "from harness.runlog import Run\nfrom .pairs import ratio\nimport scipy",
        "workloads/a.py": "from harness.contract import Request\nfrom harness.errors import InputError",
        "harness/sim/a.py": "import typing\nif typing.TYPE_CHECKING:\n    from harness.live import x",
    }
    for path, source in allowed.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(source)
    assert violations(tmp_path) == []


@pytest.mark.parametrize("module", ["harness.policy", "harness.compare", "harness.gate", "harness.runlog"])
def test_light_modules_load_nothing_heavy(module: str) -> None:
    """In a fresh process: what a module imports indirectly counts too."""
    source = f"import sys, {module}; print(*sorted({set(HEAVY) | {'simpy'}} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == []
