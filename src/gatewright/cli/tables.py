"""Tables for people and for pipes: one that fits the terminal, or aligned lines that `grep` and `awk` take.

The commands that list something call `print_table`; what the cells hold is theirs.
"""

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gatewright.core.text import printable

Cells = dict[str, str]


def print_table(cells: list[Cells], titles: list[str]) -> None:
    """Print a row for each of `cells`: what stands under each title, in this order. The first column is never broken.

    Where there is no terminal nothing is wrapped or cut: a line a row. What a terminal would obey is shown escaped.
    """
    cells = [{title: printable(text) for title, text in line.items()} for line in cells]
    if sys.stdout.isatty():
        _print_for_terminal(cells, titles)
    else:
        for line in aligned(cells, titles):
            print(line)


def aligned(cells: list[Cells], titles: list[str]) -> list[str]:
    """Return a title and a line a row, columns aligned."""
    shown = [{title: title for title in titles}, *cells]
    widths = {title: max(len(line[title]) for line in shown) for title in titles}
    return ["  ".join((line[title] or "-").ljust(widths[title]) for title in titles).rstrip() for line in shown]


def _print_for_terminal(cells: list[Cells], titles: list[str]) -> None:
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in titles:
        shown.add_column(title, overflow="fold", no_wrap=title == titles[0])
    for line in cells:
        shown.add_row(*(Text(line[title] or "-") for title in titles))
    Console().print(shown)
