"""`gatewright token`: print a token for development. `minting` knows what it is made of, `cli.main` adds it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from gatewright.cli.loading import DEFAULT, load_or_exit


def token(
    config: Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")] = DEFAULT,
    sub: Annotated[str, typer.Option(help="Whom the token names.")] = "developer",
    claim: Annotated[list[str] | None, typer.Option(help="A claim, NAME=VALUE; VALUE may be JSON. Repeatable.")] = None,
    expires: Annotated[str, typer.Option(help="How long it is good, such as 30m.")] = "1h",
    route: Annotated[str | None, typer.Option(help="The route that it is for, where routes differ.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file with the private key to sign with.")] = None,
    alg: Annotated[str | None, typer.Option(help="The algorithm; by default the first that fits.")] = None,
) -> None:
    """Print a token that the gateway's jwt plugin takes, for development."""
    from gatewright.cli.minting import MintError, mint, settings_for  # cryptography is not loaded for other commands
    from gatewright.core.units import parse_positive_duration

    checked, base_dir = load_or_exit(config)
    try:
        settings = settings_for(checked, route)
        secret = key.read_bytes() if key is not None else None
        print(mint(settings, base_dir, secret, alg, sub, claim or (), parse_positive_duration(expires)))
    except OSError as failure:
        print(f"gatewright: {key} cannot be read: {(failure.strerror or str(failure)).lower()}", file=sys.stderr)
        raise typer.Exit(1) from None
    except (MintError, ValueError) as failure:
        print(f"gatewright: {failure}", file=sys.stderr)
        raise typer.Exit(1) from None
