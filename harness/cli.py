"""The face: parse, call, print. No logic lives here, nor in `harness/commands`.

Exit codes: 0 good, 1 a gate or check failed, 2 bad input or a missing part.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from harness.commands.checking import calibrate, gate, validate
from harness.commands.learning import sweep, train_policy
from harness.commands.machine import doctor, make_model
from harness.commands.reading import curve, recovery, report
from harness.commands.serving import live, serve
from harness.commands.simulating import evaluate_offline, simulate
from harness.errors import SpecdriftError

app = typer.Typer(
    name="specdrift",
    help="Simulate, run live and judge online-adaptive speculative decoding.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
# In the order in which `specdrift --help` tells them.
for command in (
    simulate,
    live,
    serve,
    sweep,
    train_policy,
    validate,
    calibrate,
    report,
    gate,
    recovery,
    curve,
    evaluate_offline,
    make_model,
    doctor,
):
    app.command()(command)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; errors of the user become one sentence on standard error and exit code 2."""
    try:
        app(args=argv)
    except SpecdriftError as error:
        print(f"specdrift: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
