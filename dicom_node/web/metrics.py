"""GET /metrics: the figures of the node in the text format of Prometheus. No login: none of them names anybody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from dicom_node.web.places import NoPlaceError, Places

ANSWER_S = 10.0  # Prometheus itself waits no longer, unless it is told to


class Measured(Protocol):
    """A node; `node.Node` is one."""

    def exposition(self) -> bytes:
        """See `metrics.Metrics`. May wait for the database."""


def endpoint(node: Measured, answer_s: float = ANSWER_S) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of one node."""
    places = Places(1, answer_s)  # one look at a time: a database that hangs costs one thread

    async def metrics(_request: Request) -> Response:
        try:
            return Response(await places.run(node.exposition), media_type=CONTENT_TYPE_LATEST)
        except (TimeoutError, NoPlaceError):
            return PlainTextResponse("The database does not answer.\n", 503)

    return metrics
