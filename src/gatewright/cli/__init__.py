"""The command line."""

import signal


def main() -> None:
    """Run the command line."""
    by_python = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if by_python:  # Ctrl-C while modules are loaded is the end, and nothing to show a traceback for
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from gatewright.cli.main import main as run

    if by_python:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


__all__ = ["main"]
