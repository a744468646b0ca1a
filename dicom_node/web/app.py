"""The page as an ASGI application: routes, and what is around each of them. No queries, no sockets."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from dicom_node.config import Config
from dicom_node.health import Watched
from dicom_node.web import healthz
from dicom_node.web.shield import Shield


def build(config: Config, node: Watched) -> Starlette:
    """The application of one node."""
    routes = [
        Route("/healthz", healthz.endpoint(node)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Shield, hosts=config.web.hosts)])
