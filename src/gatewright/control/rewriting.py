"""Paths for targets and locations for redirects: templates compiled to functions. Called by the snapshot.

Parameters are put in as they stood in the normalised path, percent-encoded, so nothing is decoded or encoded twice.
"""

import re
from collections.abc import Callable

from gatewright.control.fields import path_pattern
from gatewright.control.references import literal_prefix
from gatewright.control.route_models import RouteConfig

Rewrite = Callable[[dict[str, str], str], str]
_PLACE = re.compile(r"\{([^{}]*)\}")


def compile_rewrite(route: RouteConfig) -> Rewrite | None:
    """Return the function (parameters, path) -> path for the target, or None where the path stays."""
    if route.rewrite is not None:
        return _template(route.rewrite, of_segments=path_pattern(route.match.path).regex is None)
    if route.strip_prefix is None:
        return None
    prefix = literal_prefix(path_pattern(route.match.path)) if route.strip_prefix is True else route.strip_prefix
    length = len(str(prefix))
    return lambda params, path: path[length:] or "/"


def _template(template: str, of_segments: bool) -> Rewrite:
    """Return what fills `template`; `of_segments`: no parameter begins with a slash, as a regex's groups may."""
    before, *rest = _PLACE.split(template)
    if not rest:
        return lambda params, path: template
    if of_segments and len(rest) == 2 and not rest[1]:  # "/{rest}", the usual one
        name = rest[0]
        return lambda params, path: before + params[name]

    def fill(params: dict[str, str], path: str) -> str:
        found = _PLACE.sub(lambda match: params[match.group(1)], template)
        return "/" + found.lstrip("/") if found.startswith("//") else found

    return fill


def compile_location(template: str) -> Callable[[dict[str, str]], str]:
    """Return the function parameters -> Location. A leading "//" cannot come out of it: it would name another host."""
    fill = _template(template, of_segments=False)
    return lambda params: fill(params, "")
