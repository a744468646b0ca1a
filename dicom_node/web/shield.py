"""What stands before every page: who may be meant by Host, and the headers of every answer."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Nothing is loaded but our own style sheet and pictures; no scripts, no frames, forms go to us alone.
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # addresses hold UIDs; with "no-referrer" our own forms had no Origin
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
    "X-Robots-Tag": "noindex, nofollow",
}
TRANSPORT = "max-age=31536000"


class Shield:
    """ASGI middleware; see the module's docstring.

    Args:
        app: what is protected.
        hosts: names that browsers may call the page by.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = ()) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if scope["scheme"] == "https":
                    headers["Strict-Transport-Security"] = TRANSPORT
            await send(message)

        app = self._app
        if not known_host(Headers(scope=scope).get("host", ""), self._hosts):
            app = PlainTextResponse("This name is not one of the page's: set web.hosts in config.toml.\n", 421)
        await app(scope, receive, send_with_headers)


def known_host(host: str, names: Collection[str]) -> bool:
    """Whether a Host header names this page: one of `names`, localhost, or any address.

    A page of somebody else whose name was made to lead here ("DNS rebinding") always comes with that name.
    """
    if host.startswith("[") and not re.fullmatch(r"\[[^]]*\](:\d+)?", host):
        return False
    name = host.rsplit("]", 1)[0].lstrip("[") if host.startswith("[") else host.rsplit(":", 1)[0]
    if name.lower().rstrip(".") in {"localhost", *names}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
