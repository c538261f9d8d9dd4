"""`gatewright`: run, check, routes, schema, token, version; and for a gateway that runs, what `running` has.

Exit codes: 0 fine, 1 what failed (a configuration, a start, a request, writing the output), 2 usage.
"""

import errno
import io
import json
import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer

from gatewright.cli import running
from gatewright.cli.loading import DEFAULT, load_or_exit
from gatewright.cli.token import token

# Commands import what they need when they run: `run` has started a worker before the rest is loaded.
app = typer.Typer(
    name="gatewright",
    help="An API gateway, configured in YAML and scripted in Python.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

ConfigFile = Annotated[Path, typer.Argument(help="The configuration file.", show_default=True)]


@app.callback()
def _say_somewhere(context: typer.Context) -> None:
    if sys.stdout is None and context.invoked_subcommand != "run":
        print("gatewright: standard output is closed", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def run(config: ConfigFile = DEFAULT) -> None:
    """Run the gateway until it is told to stop (Ctrl-C or SIGTERM: it finishes what it has begun)."""
    from gatewright.cli.serve import serve

    raise typer.Exit(serve(config))


@app.command()
def check(config: ConfigFile = DEFAULT) -> None:
    """Check a configuration, and say everything that is wrong with it."""
    checked, base_dir = load_or_exit(config)
    from gatewright.control.snapshot import SnapshotError, try_build

    try:
        try_build(checked, base_dir)
    except SnapshotError as error:
        print(f"{config}: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{config}: good ({len(checked.routes)} routes, {len(checked.services)} services)")


@app.command()
def routes(
    config: ConfigFile = DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """List the routes, and what happens to what they match."""
    from gatewright.cli.routes import print_routes

    checked, _ = load_or_exit(config)
    print_routes(checked, as_json)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from gatewright.control.schema import json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command()
def version() -> None:
    """Print the version."""
    print(f"gatewright {installed_version('gatewright')} (Python {sys.version.split()[0]})")


for command in (token, *running.COMMANDS):
    app.command()(command)


def main() -> None:
    """Run the command line."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may hold what the terminal's encoding has not
    if os.environ.get("COLUMNS") == "0":  # a terminal that does not know; rich would print nothing
        del os.environ["COLUMNS"]
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:  # `gatewright schema | head`
        sys.stderr.close()
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in _NOT_WRITTEN:
            raise
        print(f"gatewright: standard output cannot be written: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is left of it, which Python writes at its end
        raise SystemExit(1) from None
