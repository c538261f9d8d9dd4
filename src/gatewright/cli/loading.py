"""The configuration file that a command is about: its usual name, and how it is loaded, or the command ended.

The commands that need a good configuration call `load_or_exit`; what they do with it is theirs.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from gatewright.control.models import GatewayConfig

DEFAULT = Path("gateway.yaml")


def load_or_exit(path: Path) -> "tuple[GatewayConfig, Path]":
    """Return the configuration and its folder; else print everything that is wrong with it and exit with 1."""
    from gatewright.control.loader import load

    loaded = load(path)
    for error in loaded.errors:
        print(error, file=sys.stderr)
    if loaded.config is None:
        count = len(loaded.errors)
        print(f"gatewright: {path}: {count} error{'s' if count != 1 else ''}", file=sys.stderr)
        raise typer.Exit(1)
    return loaded.config, loaded.base_dir
