"""The commands that talk to a running gateway: status, targets, drain, enable, weight, purge, reload.

They ask its admin API through `remote` and print what it says: tables for people, JSON for machines. `main` adds them.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatewright.cli import variables
from gatewright.cli.loading import DEFAULT
from gatewright.core.text import printable

if TYPE_CHECKING:
    from gatewright.cli.remote import Remote
    from gatewright.cli.tables import Cells

AdminUrl = Annotated[
    str | None,
    typer.Option(
        "--admin",
        metavar="URL",
        envvar=variables.ADMIN,
        help="Where the admin API is; by default what the configuration says.",
    ),
]
AdminToken = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        envvar=variables.TOKEN,
        show_envvar=False,
        help=f"Its token. Every user of this machine can read a command line: better set {variables.TOKEN}.",
    ),
]
Config = Annotated[Path, typer.Option("--config", metavar="FILE", help="The configuration that says where and token.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Service = Annotated[str, typer.Argument(help="Name of the service.")]
TargetName = Annotated[str, typer.Argument(metavar="TARGET", help="The target, as host:port.")]


def status(admin: AdminUrl = None, token: AdminToken = None, config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Show a running gateway's condition."""
    with _remote(admin, token, config, as_json) as remote:
        _print(remote.ask("GET", "/status"), as_json, _print_status)


def targets(
    admin: AdminUrl = None, token: AdminToken = None, config: Config = DEFAULT, as_json: AsJson = False
) -> None:
    """List the targets of a running gateway, and their condition."""
    with _remote(admin, token, config, as_json) as remote:
        _print(remote.ask("GET", "/targets"), as_json, _print_targets)


def drain(
    service: Service,
    target: TargetName,
    admin: AdminUrl = None,
    token: AdminToken = None,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Give a target nothing new; it finishes what it has. `enable` takes it back."""
    _change(service, target, {"draining": True}, (admin, token, config), as_json)


def enable(
    service: Service,
    target: TargetName,
    admin: AdminUrl = None,
    token: AdminToken = None,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Use a target again that was drained."""
    _change(service, target, {"draining": False}, (admin, token, config), as_json)


def weight(
    service: Service,
    target: TargetName,
    number: Annotated[int, typer.Argument(metavar="WEIGHT", min=0, max=65535, help="Beside the others'; 0: none.")],
    admin: AdminUrl = None,
    token: AdminToken = None,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Set a target's share of the traffic, until the gateway ends."""
    _change(service, target, {"weight": number}, (admin, token, config), as_json)


def purge(
    url: Annotated[str | None, typer.Option("--url", metavar="URL", help="The answers of one URL.")] = None,
    prefix: Annotated[str | None, typer.Option("--prefix", metavar="URL", help="Of all that begin so.")] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Those with a word of Surrogate-Key or Cache-Tag.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All answers.")] = False,
    admin: AdminUrl = None,
    token: AdminToken = None,
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Have a running gateway's caches forget answers."""
    wishes = {"url": url, "prefix": prefix, "tag": tag, "all": everything or None}
    given = {name: value for name, value in wishes.items() if value is not None}
    if len(given) != 1:
        raise typer.BadParameter("say what to forget: one of --url, --prefix, --tag and --all")
    with _remote(admin, token, config, as_json) as remote:
        _print(remote.ask("POST", "/cache/purge", given), as_json, lambda view: print(_purge_words(view)))


def reload(admin: AdminUrl = None, token: AdminToken = None, config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Have a running gateway read its configuration again. One that is not good changes nothing."""
    with _remote(admin, token, config, as_json) as remote:
        answer = remote.ask("POST", "/reload")
        _print(answer, as_json, lambda done: print("reloaded" if done["changed"] else "nothing has changed"))


COMMANDS = (status, targets, drain, enable, weight, purge, reload)


@contextmanager
def _remote(admin: str | None, token: str | None, config: Path, as_json: bool) -> Iterator["Remote"]:
    """Yield the gateway; what goes wrong with it is told, and exits with 1."""
    from gatewright.cli.remote import RemoteError, find

    try:
        yield find(admin, token, config)
    except RemoteError as error:
        if as_json and error.problem is not None:
            print(json.dumps(error.problem, indent=2))
        for line in error.lines:
            print(line, file=sys.stderr)
        print(f"gatewright: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        print("gatewright: the answer is not one of this version's admin API", file=sys.stderr)
        raise typer.Exit(1) from None


def _change(
    service: str, target: str, change: dict[str, Any], where: tuple[str | None, str | None, Path], as_json: bool
) -> None:
    from gatewright.cli.remote import path_of

    with _remote(*where, as_json) as remote:
        answer = remote.ask("PATCH", path_of("services", service, "targets", target), change)
        _print(answer, as_json, lambda view: print(_sentence(view)))


def _print(answer: Any, as_json: bool, in_words: Callable[[Any], None]) -> None:
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        in_words(answer)


def _sentence(view: dict[str, Any]) -> str:
    text = f"{view['service']} {view['name']}: {view['state']}, weight {view['weight']}, {view['in_flight']} in flight"
    return printable(text)


def _purge_words(view: dict[str, Any]) -> str:
    what = f"{view['kind']} {view['value']}".rstrip()
    return printable(f"purged in {view['workers']} worker{'s' if view['workers'] != 1 else ''}: {what}")


def _print_targets(views: list[dict[str, Any]]) -> None:
    if not isinstance(views, list):
        raise TypeError("not a list of targets")
    from gatewright.cli.tables import print_table

    cells = [_target_cells(view) for view in views]
    print_table(cells, ["TARGET", "SERVICE", "STATE", "WEIGHT", "IN FLIGHT", "BREAKER", "EJECTED"])


def _target_cells(view: dict[str, Any]) -> "Cells":
    circuits = [f"{count} {state.replace('_', '-')}" for state, count in view["breaker"].items() if count]
    weight, configured = view["weight"], view["configured_weight"]
    return {
        "TARGET": f"{view['name']}",
        "SERVICE": f"{view['service']}",
        "STATE": f"{view['state']}",
        "WEIGHT": f"{weight}" if weight == configured else f"{weight} (file: {configured})",
        "IN FLIGHT": f"{view['in_flight']}",
        "BREAKER": ", ".join(circuits),
        "EJECTED": f"{view['ejected']}" if view["ejected"] else "",
    }


def _print_status(view: dict[str, Any]) -> None:
    config, last = view["config"], view["last_reload"]
    version = config["version"].strip('"')
    lines = {
        "gateway": f"{view['state']}, version {view['version']}, Python {view['python']}, pid {view['pid']}",
        "up for": f"{timedelta(seconds=int(view['uptime_seconds']))}",
        "listening on": ", ".join(listener["url"] for listener in view["listeners"]),
        "configuration": f"{config['file']}, version {version}{_origin(config)}",
        "last reload": _reload_words(last) if last is not None else "none",
        "requests": f"{view['requests_total']} so far, {view['in_flight']} in flight",
        "connections": f"{view['connections']}",
    }
    titles = ["WORKER", "PID", "STATE", "SINCE", "RESTARTS", "CONNECTIONS", "IN FLIGHT"]
    keys = ["index", "pid", "state", "started_at", "restarts", "connections", "in_flight"]
    rows = [{title: f"{worker[key]}" for title, key in zip(titles, keys, strict=True)} for worker in view["workers"]]
    width = max(map(len, lines))
    for title, text in lines.items():
        print(f"{title:{width}}  {printable(text)}")
    print()
    from gatewright.cli.tables import print_table

    print_table(rows, titles)


def _origin(config: dict[str, Any]) -> str:
    if config["source"] == "file":
        return ""
    return ", set by the admin API" + ("" if config["saved"] else " and not saved to the file")


def _reload_words(last: dict[str, Any]) -> str:
    if last["ok"]:
        return f"{last['at']}, by {last['trigger']}"
    count = len(last["errors"])
    return f"{last['at']}, by {last['trigger']}: refused, {count} error{'s' if count != 1 else ''}"
