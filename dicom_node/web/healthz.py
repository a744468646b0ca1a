"""GET /healthz: 200 where the node does its work, 503 with the reasons where not. For monitoring, no login."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse

from dicom_node.health import Health, Watched, examine
from dicom_node.web.places import NoPlaceError, Places

ANSWER_S = 5.0  # the database is not waited for any longer


def endpoint(node: Watched, answer_s: float = ANSWER_S) -> Callable[[Request], Awaitable[JSONResponse]]:
    """The endpoint of one node."""
    places = Places(1, answer_s)  # one look at a time: a database that hangs costs one thread

    async def healthz(_request: Request) -> JSONResponse:
        try:
            found = await places.run(partial(examine, node))
        except (TimeoutError, NoPlaceError):
            found = Health({"database": f"has not answered for {answer_s:g} s"})
        status = "ok" if found.good else "degraded"
        content = {"status": status, "checks": dict(found.checks), "reasons": found.reasons}
        return JSONResponse(content, 200 if found.good else 503)

    return healthz
