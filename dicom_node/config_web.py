"""The table of config.toml about the status page: [web]."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from dicom_node.config_base import AbsolutePath, IpAddress, Port, SecretFile, Section
from dicom_node.config_security import identity_of
from dicom_node.tls import Identity


def _host_name(value: str) -> str:
    """A name that browsers may call the page by (RFC 1123)."""
    name = value.lower()
    if not re.fullmatch(r"(?!-)[a-z0-9-]{1,63}(\.(?!-)[a-z0-9-]{1,63})*", name):
        raise ValueError("a host name is needed, without https:// and without a port")
    return name


class WebSection(Section):
    """[web]"""

    enabled: bool = True
    bind: IpAddress = "127.0.0.1"
    port: Port = 8104
    hosts: tuple[Annotated[str, AfterValidator(_host_name)], ...] = ()
    tls: bool = False
    tls_certificate: AbsolutePath | None = None
    tls_key: SecretFile | None = None
    tls_key_password_file: SecretFile | None = None
    users_file: SecretFile | None = None
    login: Literal["actions", "always"] = "actions"
    session_minutes: Annotated[int, Field(ge=1, le=1440)] = 30
    mask_names: bool = True

    @model_validator(mode="after")
    def _safe(self) -> WebSection:
        missing = []
        if (self.tls_certificate is None) != (self.tls_key is None):
            missing.append("tls_certificate and tls_key belong together")
        if self.tls and self.tls_certificate is None:
            missing.append("tls = true needs tls_certificate and tls_key here, or certificate and key in [tls]")
        if self.login == "always" and self.users_file is None:
            missing.append('login = "always" needs a users_file: `dicomnode web-password NAME` makes its lines')
        if self.enabled and not self.is_local:
            if not self.tls:
                missing.append(f"beyond this machine (bind = {self.bind}) it needs tls = true")
            if self.users_file is None or self.login != "always":
                missing.append(
                    f'beyond this machine (bind = {self.bind}) it needs login = "always" and a users_file'
                )
        if missing:
            raise ValueError("; ".join(missing))
        return self

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.bind).is_loopback

    @property
    def identity(self) -> Identity | None:
        """Certificate and key of the page; None: it is served without TLS."""
        return identity_of(self.tls_certificate, self.tls_key, self.tls_key_password_file) if self.tls else None
