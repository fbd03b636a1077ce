"""`simserve`: every error is one line on stderr, never a traceback; exit code 2 if it is the user's, 1 if ours."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from simserve.asked.unexpected import in_words
from simserve.cli import (
    calibrate,
    capacity,
    check,
    compare,
    doctor,
    explain,
    hw,
    init,
    launch,
    models,
    perfdb,
    reproduce,
    schema,
    search,
    sensitivity,
    simulate,
    ui,
    validate,
)
from simserve.cli.app import App, help_of
from simserve.errors import LawBroken, SimserveError
from simserve.version import __version__

USER_ERROR, BUG, INTERRUPTED = 2, 1, 130
NAME = "simserve"

HELP = """Which deployment to run for serving an LLM, found by simulation on measured kernel times.

Examples:
  # ask a few questions and write a study
  simserve init
  # find the best deployment for the study that comes with simserve
  simserve search quickstart
  # without one
  simserve search --model Qwen/Qwen3-32B --gpu h100_sxm --rate 4 --isl 2000 --osl 300 --ttft 500 --tpot 30
  # is everything there?
  simserve doctor
"""

app = App(pretty_exceptions_enable=False, help=HELP)
app.command("init")(init.init)
app.command("ui")(ui.ui)
app.command("search")(search.search)
app.command("simulate")(simulate.simulate)
app.command("check")(check.check)
app.command("capacity")(capacity.capacity)
app.command("compare")(compare.compare)
app.command("sensitivity")(sensitivity.sensitivity)
app.command("reproduce")(reproduce.reproduce)
app.command("validate")(validate.validate)
app.command("calibrate")(calibrate.calibrate)
app.command("explain")(explain.explain)
app.command("launch")(launch.launch)
app.command("schema")(schema.schema)
app.command("doctor")(doctor.doctor)
app.command("help", hidden=True)(help_of)
app.add_typer(models.app, name="models")
app.add_typer(hw.app, name="hw")
app.add_typer(perfdb.app, name="perfdb")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"simserve {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a user error, 130 after Ctrl-C, 1 for our own bug.

    `check` and `reproduce` have 1 for an expectation that does not hold.
    """
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        try:
            # The name that completion scripts call, also of `python -m simserve`.
            code = app(args=None if arguments is None else list(arguments), prog_name=NAME, standalone_mode=False)
        except LawBroken as error:
            return _complain(f"{error} (a bug in simserve; please report it)", BUG)
        except SimserveError as error:
            return _complain(str(error), USER_ERROR)
        except typer.Abort:
            return INTERRUPTED
        except BrokenPipeError:
            # The reader (`| head`) has seen enough; what is left to flush at exit must not complain either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return BUG
        except Exception as error:
            return _unexpected(error)
    return code if isinstance(code, int) else 0


def _unexpected(error: Exception) -> int:
    """The last resort: one line for what no other handler knows; the traceback only on demand."""
    # Usage errors of the parser: their class has moved between versions of typer, their method not.
    if hasattr(error, "format_message"):
        return _complain(error.format_message(), USER_ERROR)
    problem, ours = in_words(error)
    return _complain(problem, BUG, prefix="internal error") if ours else _complain(problem, USER_ERROR)


def _complain(message: str, code: int, *, prefix: str = "error") -> int:
    """One line on stderr, whatever the message holds."""
    sys.stdout.flush()
    print(f"simserve: {prefix}: " + " ".join(message.split()), file=sys.stderr)
    return code
