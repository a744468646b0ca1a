"""[[notifications]] of config.toml: who is told when something needs a person, and of what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Discriminator, Field, Tag, field_serializer, model_validator

from dicom_node.config_base import (
    AbsolutePath,
    HostName,
    PositiveSeconds,
    SecretFile,
    Section,
    ShortName,
    read_secret,
)
from dicom_node.destinations import Url, is_loopback, web_address, web_fault, web_tls
from dicom_node.errors import ConfigError
from dicom_node.tls import ClientTls

Kind = Literal["failures", "backlog", "disk", "certificates", "crash", "clinical"]
Hours = Annotated[float, Field(ge=0, le=8760, allow_inf_nan=False)]


def _address(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+", value):
        raise ValueError("a mail address is needed, as pacs-admin@example.org")
    return value


Address = Annotated[str, AfterValidator(_address)]


class Channel(Section):
    """What both have in common."""

    name: ShortName
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = (
        "failures",
        "backlog",
        "disk",
        "certificates",
        "crash",
    )
    interval_h: Annotated[float, Field(gt=0, le=168, allow_inf_nan=False)] = 1.0
    remind_h: Hours = 24.0
    backlog_h: Annotated[float, Field(gt=0, le=8760, allow_inf_nan=False)] = 2.0
    rise: Annotated[int, Field(ge=1, le=3)] = 1
    identify: bool = False
    timeout_s: PositiveSeconds = 30.0
    user: Annotated[str, Field(pattern=r"^[^:\x00-\x1f\x7f]*$")] = ""
    password_file: SecretFile | None = None
    tls_ca: AbsolutePath | None = None


class Webhook(Channel):
    """POST of JSON. Whoever knows the path of a chat's webhook may write there: it is told to nobody."""

    by: Literal["webhook"]
    url: Url = Field("", repr=False)
    url_file: SecretFile | None = None
    token_file: SecretFile | None = None
    tls_certificate: AbsolutePath | None = None
    tls_key: SecretFile | None = None
    tls_key_password_file: SecretFile | None = None

    @model_validator(mode="after")
    def _safe(self) -> Webhook:
        if bool(self.url) == bool(self.url_file):
            raise ValueError("either url or url_file is needed")
        if fault := web_fault(self):
            raise ValueError(fault)
        return self

    @field_serializer("url", when_used="json")
    def _shown(self, url: str) -> str:
        return f"{self._host}/***" if urlsplit(url).path else url

    @property
    def _host(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return f"{self.name} ({self._host})"

    @property
    def client_tls(self) -> ClientTls | None:
        """How it is called; None: without TLS."""
        return web_tls(self)

    def located(self) -> Webhook:
        """The same with the URL that `url_file` holds.

        Raises:
            ConfigError: it cannot be read, or holds none that can be called; says nothing of what it holds.
        """
        if self.url_file is None:
            return self
        try:
            url = web_address(read_secret(self.url_file))
        except ValueError as error:
            raise ConfigError(f"{self.url_file}: {error}") from None
        found = self.model_copy(update={"url": url, "url_file": None})
        if fault := web_fault(found):
            raise ConfigError(f"{self.url_file}: {fault}")
        return found


class Mail(Channel):
    """SMTP."""

    by: Literal["mail"]
    host: Annotated[HostName, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: Address
    recipients: Annotated[tuple[Address, ...], Field(min_length=1, max_length=50)]

    @model_validator(mode="after")
    def _safe(self) -> Mail:
        if bool(self.user) != bool(self.password_file):
            raise ValueError("user and password_file belong together")
        if self.security == "none" and self.user and not is_loopback(self.host):
            raise ValueError('anybody on the network can read a password that goes out with security = "none"')
        return self

    @property
    def client_tls(self) -> ClientTls | None:
        """How it is called; None: without TLS."""
        return None if self.security == "none" else ClientTls(self.host, self.tls_ca)


def _by(value: Any) -> Any:
    return value.get("by") if isinstance(value, Mapping) else getattr(value, "by", None)


AnyNotification = Annotated[
    Annotated[Mail, Tag("mail")] | Annotated[Webhook, Tag("webhook")],
    Discriminator(_by, custom_error_type="by", custom_error_message='by is "mail" or "webhook"'),
]
