"""Defines the commands: they parse, call, print, and set the exit status. Results go to stdout, messages to stderr.

Exit status: 2 for bad input (one line for each fault), 1 after a fault of the machine, 3 if a sweep ends with missing
cells, 130 after an interrupt (143 after SIGTERM, 129 after SIGHUP).
"""

import io
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

import typer
from typer.exceptions import TyperException

from wdgrid import __version__
from wdgrid.cli import backup, check, compare, convert, doctor, plan, queue, results, serve, studies, sweep
from wdgrid.errors import WdgridError
from wdgrid.printable import printable

app = typer.Typer(
    name="wdgrid",
    help="Train a whole grid of (learning rate, weight decay) cells at once, draw the map, and say in numbers whether "
    "rate and decay can be tuned one at a time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(cls=sweep.WithRay)(sweep.sweep)
app.command()(check.check)
app.command()(studies.studies)
app.command()(studies.fields)
app.command("list")(results.list_studies)
app.command()(results.show)
app.command()(results.report)
app.command()(results.export)
app.command()(compare.compare)
app.command()(convert.convert)
app.command()(plan.plan)
app.command()(doctor.doctor)
app.command()(backup.backup)
app.command()(queue.submit)
app.command()(queue.queue)
app.command()(serve.serve)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wdgrid {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", "-v", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status (the console script exits with it)."""

    def run() -> int:
        try:
            status = app(args=arguments, prog_name="wdgrid", standalone_mode=False)
        except SystemExit as ended:
            status = ended.code
        except TyperException as error:  # its message quotes the command's words, which may hold anything
            text = io.StringIO()
            cast(Any, error).show(file=text)
            print(printable(text.getvalue().rstrip()), file=sys.stderr)
            return error.exit_code
        except typer.Abort:
            return 1
        return status if isinstance(status, int) else 0

    return run_safely(run)


def run_safely(run: Callable[[], int]) -> int:
    """Returns the value of `run`, or the exit status of its exception, whose message goes to stderr."""
    if not sys.warnoptions:
        warnings.showwarning = _show_warning  # one line, as for faults
    try:
        return run()
    except WdgridError as error:
        for line in str(error).split("\n"):
            print(f"wdgrid: {printable(line)}", file=sys.stderr)
        return error.exit_status
    except OSError as error:  # of the machine: a file that cannot be read or written
        print(f"wdgrid: {printable(str(error.filename or 'input or output'))}: {error.strerror}", file=sys.stderr)
        return 1


def _show_warning(message: Warning | str, *_: object) -> None:
    print(f"wdgrid: {printable(str(message))}", file=sys.stderr)
