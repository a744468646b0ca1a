"""GET /metrics: the figures of the node in the text format of Prometheus. No login: none of them names anybody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from anyio import CapacityLimiter, move_on_after, to_thread
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

ANSWER_S = 10.0  # Prometheus itself waits no longer, unless it is told to


class Measured(Protocol):
    """A node; `node.Node` is one."""

    def exposition(self) -> bytes:
        """See `metrics.Metrics`. May wait for the database."""


def endpoint(node: Measured, answer_s: float = ANSWER_S) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of one node."""
    limiters: list[CapacityLimiter] = []  # made where the event loop runs

    async def metrics(_request: Request) -> Response:
        if not limiters:
            limiters.append(CapacityLimiter(1))  # one look at a time: a database that hangs costs one thread
        with move_on_after(answer_s):
            content = await to_thread.run_sync(node.exposition, abandon_on_cancel=True, limiter=limiters[0])
            return Response(content, media_type=CONTENT_TYPE_LATEST)
        return PlainTextResponse("The database does not answer.\n", 503)

    return metrics
