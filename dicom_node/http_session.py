"""HTTP requests that end, with errors that say what to do: the ground under `dicomweb`.

httpx bounds each single read and write, not a request as a whole; a peer that trickles would hold it for ever. Here
a request is cut off from outside when its time is over. Redirects are not followed (credentials would go along),
and neither proxies nor .netrc of the environment count: config.toml says all there is to say.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx

from dicom_node import tls
from dicom_node.config_base import read_secret
from dicom_node.errors import ConfigError, NodeError, PermanentError, TransientError
from dicom_node.tls import ClientTls

MAX_ANSWER_BYTES = 16 * 1024 * 1024
_MAY_PASS = {408, 421, 423, 425, 429, 500, 502, 503, 504, 507}  # RFC 9110 15, RFC 6585, RFC 4918
_MARGIN_S = 1.0  # by how much the cut from outside comes after the time limits of httpx


class BrokenOff(TransientError):
    """The service was reached, and did not answer a request to its end."""


class WebPeer(Protocol):
    """A service that we call; `config.WebDestination` is one."""

    @property
    def url(self) -> str:
        """Service root, without a slash at its end."""

    @property
    def label(self) -> str:
        """What it is called in messages: the URL, where nothing of it is secret."""

    @property
    def timeout_s(self) -> float:
        """Longest wait for the connection, and for each answer."""

    @property
    def user(self) -> str:
        """Of HTTP Basic authentication; empty for none."""

    @property
    def password_file(self) -> Path | None:
        """Holds the password of `user`."""

    @property
    def token_file(self) -> Path | None:
        """Holds a bearer token."""

    @property
    def client_tls(self) -> ClientTls | None:
        """How it is called; None: without TLS."""


@dataclass(frozen=True)
class Answer:
    """Status and body of a response; `body` is None where it is not JSON."""

    status: int
    body: Any


class Session:
    """Requests to one peer on one kept connection; made by `session`."""

    def __init__(self, peer: WebPeer, client: httpx.Client) -> None:
        self._peer = peer
        self._client = client
        self._socket: socket.socket | None = None

    def request(
        self,
        method: str,
        path: str,
        *,
        content: Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        limit_s: float | None = None,
    ) -> Answer:
        """One request below the service root; the answer whatever its status is.

        Raises:
            TransientError: no connection; `BrokenOff`: no answer in time, or an answer without end.
        """
        limit_s = limit_s or self._peer.timeout_s
        begin = time.monotonic()
        cut = threading.Timer(limit_s + _MARGIN_S, self._cut)
        cut.daemon = True
        cut.start()
        try:
            with self._client.stream(
                method,
                self._peer.url + path,
                content=content,
                params=params,
                headers={"Accept": "application/dicom+json", **(headers or {})},
                extensions={"trace": self._trace},
            ) as response:
                return Answer(response.status_code, _json(_read(response, self._peer)))
        except httpx.HTTPError as error:
            raise _connection_error(error, self._peer, limit_s, late=time.monotonic() - begin >= limit_s) from error
        finally:
            cut.cancel()

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
            self._socket = info["return_value"].get_extra_info("socket")

    def _cut(self) -> None:
        """End whatever waits for the peer; not `close`, which another thread would not notice."""
        if self._socket is not None:
            try:
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # below TLS, which would wait for the peer
            except OSError:
                return


@contextmanager
def session(peer: WebPeer) -> Iterator[Session]:
    """A connection to the peer, made with the first request.

    Raises:
        TransientError: a file with a secret or a certificate cannot be used at present; it may just be replaced.
    """
    try:
        auth = _auth(peer)
        verify = False if peer.client_tls is None else tls.client_context(peer.client_tls)
    except ConfigError as error:
        raise TransientError(f"{peer.label} is not called: {error}.") from error
    with httpx.Client(
        auth=auth,
        verify=verify,
        timeout=peer.timeout_s,
        limits=httpx.Limits(max_connections=1),
        follow_redirects=False,
        trust_env=False,
    ) as client:
        yield Session(peer, client)


def _auth(peer: WebPeer) -> httpx.Auth | None:
    if peer.token_file is not None:
        return _Bearer(_printable(peer.token_file))
    if peer.password_file is not None:
        return httpx.BasicAuth(peer.user, _printable(peer.password_file))
    return None


def _printable(path: Path) -> str:
    """A secret that can go into a header."""
    secret = read_secret(path)
    if not secret.isprintable():
        raise ConfigError(f"{path} must hold one line with the secret and nothing else")
    return secret


class _Bearer(httpx.Auth):
    """RFC 6750 2.1."""

    def __init__(self, token: str) -> None:
        if not token.isascii():
            raise ConfigError("a bearer token has only ASCII characters")
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Any:
        """One request with the token."""
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


def refusal(peer: WebPeer, what: str, status: int) -> NodeError:
    """The error for an HTTP status that is no success; the class says whether it may pass."""
    text = f"{peer.label} refused {what} with HTTP status {status}"
    if 300 <= status < 400:
        return PermanentError(f"{text}, a redirection: correct url in the configuration.")
    if status == 401 and peer.token_file is not None:
        return TransientError(f"{text}: is the token in {peer.token_file} still valid?")
    if status in {401, 407}:
        return PermanentError(f"{text}: check user and password_file, or ask the PACS administrator for access.")
    if status == 403:
        return PermanentError(f"{text}: ask the PACS administrator to allow it.")
    if status in {404, 405}:
        return PermanentError(f"{text}: is url the root of its DICOMweb service?")
    if status == 413:
        return PermanentError(f"{text}: ask the PACS administrator to allow larger requests.")
    if status in _MAY_PASS:
        return TransientError(f"{text}.")
    return PermanentError(f"{text}.")


def _read(response: httpx.Response, peer: WebPeer) -> bytes:
    body = bytearray()
    for part in response.iter_bytes():
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            raise BrokenOff(f"{peer.label} answers with more than {MAX_ANSWER_BYTES >> 20} MB.")
    return bytes(body)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _connection_error(error: httpx.HTTPError, peer: WebPeer, limit_s: float, late: bool) -> TransientError:
    """What a failed connection means; all of it may pass by itself."""
    reason = _root(error)
    if isinstance(error, httpx.TimeoutException) or late:
        kind = TransientError if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError) else BrokenOff
        return kind(
            f"{peer.label} did not answer within {limit_s:.3g} s: check that it is up and no firewall lies between."
        )
    if isinstance(reason, ssl.SSLError):
        return TransientError(f"No TLS connection to {peer.label}: {tls.reason(reason)}. Check url and tls_ca.")
    if isinstance(reason, socket.gaierror):
        return TransientError(
            f"The host name in {peer.label} cannot be resolved: correct it, or ask for its DNS entry."
        )
    if isinstance(reason, ConnectionRefusedError):
        return TransientError(
            f"{peer.label} refuses the connection: nothing listens there. Check url and the service."
        )
    if isinstance(error, httpx.ConnectError):
        return TransientError(f"No connection to {peer.label}: {reason}.")
    return BrokenOff(f"{peer.label} broke the connection off.")


def _root(error: BaseException) -> BaseException:
    """The error that began a chain."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
