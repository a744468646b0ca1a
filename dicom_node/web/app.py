"""The page as an ASGI application: routes, and what is around each of them. No queries, no sockets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from importlib import resources
from typing import Protocol

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dicom_node.config import Config
from dicom_node.health import Watched
from dicom_node.ledger import Ledger
from dicom_node.web import actions, healthz, login, metrics, pages
from dicom_node.web.door import Desk, Door, Endpoint
from dicom_node.web.masking import Mask
from dicom_node.web.metrics import Measured
from dicom_node.web.render import Renderer
from dicom_node.web.sessions import Attempts, Sessions
from dicom_node.web.shield import Shield

UID = "{uid:str}"


class Served(Watched, Measured, Protocol):
    """The node as the page sees it."""


@contextmanager
def serving(config: Config, node: Served, clock: Callable[[], datetime]) -> Iterator[Starlette]:
    """The application of one node, with connections to the ledger of its own: it takes none away from the node.

    Raises:
        NodeError: of the database.
    """
    with closing(Ledger(config.database_url, migrate=False)) as ledger:
        yield build(config, node, ledger, clock)


def desk(config: Config, node: Served, ledger: Ledger, clock: Callable[[], datetime]) -> Desk:
    """What the views of one node work with."""
    return Desk(
        config=config,
        node=node,
        ledger=ledger,
        clock=clock,
        sessions=Sessions(timedelta(minutes=config.web.session_minutes), clock),
        attempts=Attempts(clock),
        mask=Mask(config.web.mask_names),
        render=Renderer(config, pages.written),
    )


def build(config: Config, node: Served, ledger: Ledger, clock: Callable[[], datetime]) -> Starlette:
    """The application of one node."""
    door = Door(desk(config, node, ledger, clock))
    routes = [
        Route("/healthz", healthz.endpoint(node)),
        Route("/metrics", metrics.endpoint(node)),
        Route("/", door.look(pages.today)),
        Route("/destinations", door.look(pages.destinations)),
        Route("/series", door.look(pages.series_list)),
        Route("/search", door.ask(pages.search), methods=["POST"]),
        Route(f"/series/{UID}", door.look(pages.story)),
        Route(f"/series/{UID}/picture-{{number:int}}.png", door.look(pages.picture)),
        Route(f"/series/{UID}/retry", door.act(actions.retry), methods=["POST"]),
        Route(f"/series/{UID}/cancel", door.act(actions.cancel), methods=["POST"]),
        Route("/login", door.enter(login.form), methods=["GET"]),
        Route("/login", door.enter(login.submit), methods=["POST"]),
        Route("/logout", door.act(login.leave), methods=["POST"]),
        Route("/page.css", _file("page.css", "text/css")),
        Route("/icon.svg", _file("icon.svg", "image/svg+xml")),
    ]
    nowhere = door.enter(lambda visit: visit.message(404, "Not here", "There is no such page."))
    return Starlette(
        routes=routes,
        middleware=[Middleware(Shield, hosts=config.web.hosts)],
        exception_handlers={404: _as_handler(nowhere), 405: _as_handler(nowhere)},
    )


def _file(name: str, media_type: str) -> Endpoint:
    content = resources.files("dicom_node.web").joinpath(name).read_bytes()

    async def file(_request: Request) -> Response:
        return Response(content, media_type=media_type)

    return file


def _as_handler(endpoint: Endpoint) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handler(request: Request, _error: Exception) -> Response:
        return await endpoint(request)

    return handler
