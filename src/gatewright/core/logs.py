"""The logger that plugins find in an exchange: structlog's, on top of Python's own logging.

What a plugin says goes to the logger `gatewright.plugins` as any record does, with the request's ID and the plugin's
fields as attributes (`request_id`, `fields`), so an application that embeds the gateway gets it in its own log. Loaded
when it is first used: most exchanges say nothing.
"""

import logging
from collections.abc import MutableMapping
from typing import Any

import structlog

FIELDS = "fields"
REQUEST_ID = "request_id"


def _hand_over(logger: Any, method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """Return the arguments for the standard logger. Fields go as one: a name of theirs may be one of a record's own."""
    extra = {REQUEST_ID: event.pop(REQUEST_ID, None), FIELDS: event}
    known = {name: event.pop(name) for name in ("exc_info", "stack_info") if name in event}
    return {"msg": str(event.pop("event", "")), "extra": extra, **known}


_logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
    logging.getLogger("gatewright.plugins"),
    processors=[structlog.stdlib.filter_by_level, structlog.stdlib.PositionalArgumentsFormatter(), _hand_over],
    wrapper_class=structlog.stdlib.BoundLogger,
    context_class=dict,
    cache_logger_on_first_use=False,
)


def logger_for(request_id: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a request."""
    return _logger.bind(**{REQUEST_ID: request_id})
