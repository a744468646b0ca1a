"""GET /healthz: 200 where the node does its work, 503 with the reasons where not. For monitoring, no login."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from anyio import CapacityLimiter, move_on_after, to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse

from dicom_node.health import Health, Watched, examine

ANSWER_S = 5.0  # the database is not waited for any longer


def endpoint(node: Watched, answer_s: float = ANSWER_S) -> Callable[[Request], Awaitable[JSONResponse]]:
    """The endpoint of one node."""
    limiters: list[CapacityLimiter] = []  # made where the event loop runs

    async def healthz(_request: Request) -> JSONResponse:
        if not limiters:
            limiters.append(CapacityLimiter(1))  # one look at a time: a database that hangs costs one thread
        found = Health({"database": f"has not answered for {answer_s:g} s"})
        with move_on_after(answer_s):
            found = await to_thread.run_sync(partial(examine, node), abandon_on_cancel=True, limiter=limiters[0])
        status = "ok" if found.good else "degraded"
        content = {"status": status, "checks": dict(found.checks), "reasons": found.reasons}
        return JSONResponse(content, 200 if found.good else 503)

    return healthz
