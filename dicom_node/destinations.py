"""[[destinations]] of config.toml: where results go, by C-STORE, DICOMweb or HL7, and what all of them have."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol
from urllib.parse import urlsplit

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from dicom_node.config_base import AbsolutePath, PositiveSeconds, SecretFile, Section, ShortName, host_name
from dicom_node.config_security import PeerTable, TcpPeer, identity_of
from dicom_node.pacing import Rate, Window
from dicom_node.tls import ClientTls
from pipeline.types import ResultKind

DEFAULT_PROFILE = "default"


def _window(value: str) -> str:
    if value:
        Window.parse(value)
    return value


def web_address(value: str) -> str:
    """A URL that can be called, without user and password. Its errors, `ValueError`, hold nothing of it."""
    try:
        parts = urlsplit(value)
        known = parts.scheme in {"http", "https"} and bool(host_name(parts.hostname or "")) and parts.port != 0
    except ValueError:
        known = False
    if not known or not value.isascii() or not value.isprintable():
        raise PydanticCustomError("url", "a URL as https://HOST:PORT/PATH is needed")
    if parts.username is not None or parts.password is not None:
        raise PydanticCustomError("url", "no user or password in the URL: set user and password_file")
    return value


def _url(value: str) -> str:
    """A service root (PS3.18 8.2) without anything secret in it; without the slash at its end."""
    parts = urlsplit(web_address(value))
    if parts.query or parts.fragment:
        raise PydanticCustomError("url", "only the service root: nothing after ? or #")
    return value.rstrip("/")


Url = Annotated[str, AfterValidator(_url)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Outlet(Section):
    """What every destination has."""

    name: ShortName
    profile: str = DEFAULT_PROFILE
    timeout_s: PositiveSeconds = 30.0
    window: Annotated[str, AfterValidator(_window)] = ""
    max_objects_per_minute: NotNegative = 0.0
    max_kb_per_s: NotNegative = 0.0

    @property
    def opening(self) -> Window | None:
        """When it may be sent to; None at any time."""
        return Window.parse(self.window) if self.window else None

    @property
    def rate(self) -> Rate:
        """How fast it may be sent to."""
        return Rate(self.max_objects_per_minute, self.max_kb_per_s)

    @property
    def kinds(self) -> frozenset[ResultKind]:
        """Of the objects of its profile, those that it is sent."""
        return frozenset(ResultKind)

    @property
    def takes_images(self) -> bool:
        """Whether it is an archive."""
        return ResultKind.PICTURE in self.kinds


class ObjectOutlet(Outlet):
    """One that takes DICOM objects."""

    not_analysed: Literal["nothing", "report", "picture"] = "nothing"


class Destination(PeerTable, ObjectOutlet):
    """One that takes C-STORE."""

    protocol: Literal["dimse"] = "dimse"
    verify: Literal["commitment", "find", "none"] = "commitment"


class WebDestination(ObjectOutlet):
    """One that takes STOW-RS (PS3.18 10.5). Secrets lie in files, which are read anew for every transaction."""

    protocol: Literal["dicomweb"] = "dicomweb"
    url: Url
    user: Annotated[str, Field(pattern=r"^[^:\x00-\x1f\x7f]*$")] = ""  # RFC 7617: no colon
    password_file: SecretFile | None = None
    token_file: SecretFile | None = None
    tls_ca: AbsolutePath | None = None
    tls_certificate: AbsolutePath | None = None
    tls_key: SecretFile | None = None
    tls_key_password_file: SecretFile | None = None
    verify: Literal["find", "none"] = "find"

    @model_validator(mode="after")
    def _secrets_are_safe(self) -> WebDestination:
        if fault := web_fault(self):
            raise ValueError(fault)
        return self

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return self.url

    @property
    def client_tls(self) -> ClientTls | None:
        """How the service is called; None: without TLS."""
        return web_tls(self)


def _hl7_name(value: str) -> str:
    """An HD (HL7 2.5.1, 2.A.33) as its first component, which lists of systems are made of."""
    if not re.fullmatch(r"[\w .:/-]{0,64}", value):
        raise ValueError("at most 64 letters, digits and . : / - _")
    return value


Hl7Name = Annotated[str, AfterValidator(_hl7_name)]


class Hl7Destination(TcpPeer, Outlet):
    """A RIS, or the interface engine before it, that takes ORU^R01 by MLLP: the scores of the SR, and no object."""

    protocol: Literal["hl7"] = "hl7"
    sending_application: Hl7Name = "DICOMNODE"
    sending_facility: Hl7Name = ""
    receiving_application: Hl7Name = ""
    receiving_facility: Hl7Name = ""
    assigning_authority: Hl7Name = ""
    processing_id: Literal["P", "T", "D"] = "P"
    result_status: Literal["F", "P"] = "F"
    verify: Literal["none"] = "none"

    @property
    def kinds(self) -> frozenset[ResultKind]:
        """The report alone: a message is made of it."""
        return frozenset({ResultKind.SR})


class WebTable(Protocol):
    """What tables of web services have in common."""

    url: str
    user: str
    password_file: Path | None
    token_file: Path | None
    tls_ca: Path | None
    tls_certificate: Path | None
    tls_key: Path | None
    tls_key_password_file: Path | None


def web_fault(table: WebTable) -> str:
    """What is wrong with secrets and TLS of a web service; empty where nothing is."""
    parts = urlsplit(table.url)
    plain = parts.scheme == "http"
    if bool(table.user) != bool(table.password_file):
        return "user and password_file belong together"
    if table.token_file and table.user:
        return "either user and password_file, or token_file"
    if (table.tls_certificate is None) != (table.tls_key is None):
        return "tls_certificate and tls_key belong together"
    if plain and (table.tls_ca or table.tls_key):
        return "tls_ca and tls_key are of no use with http://, correct url to https://"
    if plain and (table.user or table.token_file) and not is_loopback(parts.hostname or ""):
        return "anybody on the network can read credentials that go over http://: use https://"
    return ""


def web_tls(table: WebTable) -> ClientTls | None:
    """How a web service is called; None: without TLS."""
    parts = urlsplit(table.url)
    if parts.scheme == "http":
        return None
    identity = identity_of(table.tls_certificate, table.tls_key, table.tls_key_password_file)
    return ClientTls(parts.hostname or "", table.tls_ca, identity)


def is_loopback(host: str) -> bool:
    """Whether what is said to this host stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _protocol(value: Any) -> Any:
    return value.get("protocol", "dimse") if isinstance(value, Mapping) else getattr(value, "protocol", None)


AnyDestination = Annotated[
    Annotated[Destination, Tag("dimse")]
    | Annotated[WebDestination, Tag("dicomweb")]
    | Annotated[Hl7Destination, Tag("hl7")],
    Discriminator(
        _protocol,
        custom_error_type="protocol",
        custom_error_message='protocol is "dimse" (C-STORE), "dicomweb" (STOW-RS) or "hl7" (ORU^R01 by MLLP)',
    ),
]
