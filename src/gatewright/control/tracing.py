"""The tracer and the exporter that a configuration asks for, from one configuration to the next.

It owns when they begin and end, and the count of lost spans over all of them. The composition root holds one.
"""

import asyncio
from typing import TYPE_CHECKING

from gatewright.control.models import GatewayConfig
from gatewright.control.tracing_models import TracingConfig
from gatewright.core.clock import Clock
from gatewright.core.tasks import background
from gatewright.telemetry.otlp import Encoder
from gatewright.telemetry.tracing import Tracer

if TYPE_CHECKING:
    from gatewright.telemetry.span_exporter import SpanExporter  # else a gateway without tracing would load http.client


class Tracing:
    """`tracer` is None while tracing is off."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._config = TracingConfig.model_construct()
        self._exporter: SpanExporter | None = None
        self._lost = 0  # by exporters before
        self.tracer: Tracer | None = None

    @property
    def dropped(self) -> int:
        """How many spans were lost."""
        return self._lost + (self._exporter.dropped if self._exporter is not None else 0)

    def use(self, whole: GatewayConfig) -> bool:
        """Go over to another configuration; tell whether `tracer` is another one now. Cannot fail."""
        config, routes = whole.tracing, {route.name: str(route.match.path) for route in whole.routes}
        if config == self._config:
            if self._exporter is not None:
                self._exporter.set_routes(routes)
            return False
        before, self._config = self._exporter, config
        self.tracer = self._exporter = None
        if config.endpoint:
            from gatewright.telemetry.span_exporter import FLUSH_SECONDS, SpanExporter

            encoder = Encoder(config.service_name, routes)
            self._exporter = SpanExporter(config.endpoint, config.headers, encoder, self._clock, FLUSH_SECONDS)
            self.tracer = Tracer(self._exporter.put, self._clock.now, config.sample, config.propagate, config.parents)
        if before is not None:
            background(self._end(before))
        return True

    async def close(self) -> None:
        """Send what is left, for two seconds at most."""
        exporter, self._exporter = self._exporter, None
        self.tracer, self._config = None, TracingConfig.model_construct()
        if exporter is not None:
            await self._end(exporter)

    async def _end(self, exporter: "SpanExporter") -> None:
        await asyncio.to_thread(exporter.close)
        self._lost += exporter.dropped
