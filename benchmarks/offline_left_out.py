"""How far off is `specdrift evaluate-offline`? Each arm of a run is left out of its record, and evaluated on the rest.

    python benchmarks/offline_left_out.py RUN [--arm ARM]

Arms that train are left out only where another one trains, for they can meet nobody else's drafter. Printed is the
speedup over the first arm that does not draft, measured and evaluated. What the policy was told is what it was told.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from harness.compare import summarise
from harness.compare.metrics import HEADLINE
from harness.compare.pairs import find_pair
from harness.evaluate_offline import evaluate_offline
from harness.latency.store import BELIEVED
from harness.policy import Policy, make
from harness.runlog import Run, read_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--arm", action="append", help="an arm to leave out; default: all that can be")
    given = parser.parse_args()
    run = read_run(given.run)
    policies = {arm: make(arm.partition("+")[0]) for arm in run.arms}
    base = next(arm for arm, policy in policies.items() if not policy.uses_drafter)
    print(f"{given.run}: speedup over {base}")
    for arm in given.arm or [a for a in run.arms if _can_be_left_out(policies, a)]:
        with tempfile.TemporaryDirectory() as folder:
            rest = without(run, arm, Path(folder) / "rest")
            found = evaluate_offline(rest, [arm], None, None, Path(folder) / "out")
        ratio = find_pair(found, arm, base)["ratios"][HEADLINE]["estimate"]
        real = find_pair(run.summary or {}, arm, base)["ratios"][HEADLINE]["estimate"]
        entry = found["offline"]["arms"][arm]
        print(
            f"{arm:14s} measured {real:.3f}  evaluated {ratio:.3f} ({ratio / real - 1:+.1%})  "
            f"drafter of {entry['lender']}, the record knows {entry['known']:.0%} of its verify steps"
        )


def _can_be_left_out(policies: dict[str, Policy], arm: str) -> bool:
    policy = policies[arm]
    others = [p for name, p in policies.items() if name != arm and p.uses_drafter]
    return policy.uses_drafter and bool(others) and (not policy.trains or any(p.trains for p in others))


def without(run: Run, arm: str, out: Path) -> Path:
    """A copy of the run in which the arm never was."""
    out.mkdir()
    info = json.loads((run.path / "run.json").read_text())
    info["arms"] = {name: settings for name, settings in info["arms"].items() if name != arm}
    (out / "run.json").write_text(json.dumps(info))
    if (run.path / BELIEVED).exists():
        shutil.copy(run.path / BELIEVED, out / BELIEVED)
    for path in run.path.glob("*.parquet"):
        table = pq.ParquetFile(path)
        with pq.ParquetWriter(out / path.name, table.schema_arrow) as writer:
            for cell in range(table.num_row_groups):
                rows = table.read_row_group(cell)
                if len(rows) and rows["arm"][0].as_py() != arm:
                    writer.write_table(rows)
    summarise(out)
    return out


if __name__ == "__main__":
    main()
