"""[web]: beyond this machine only with TLS and a login; the certificate is that of [tls] where none is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dicom_node import config
from dicom_node.errors import ConfigError

TLS = {"certificate": "/tls/node.pem", "key": "/tls/node.key", "ca": "/tls/ca.pem", "key_password_file": "/tls/p"}
OUTSIDE = {"bind": "0.0.0.0", "tls": True, "login": "always", "users_file": "/users"}


def web(**section: Any) -> config.WebSection:
    return config.parse({"tls": TLS, "web": section}).web


def test_by_default_it_is_served_to_this_machine_alone_and_masked() -> None:
    section = config.parse({}).web
    assert (section.enabled, section.bind, section.mask_names, section.identity) == (True, "127.0.0.1", True, None)


def test_the_certificate_is_that_of_the_node_unless_it_has_its_own() -> None:
    identity = web(**OUTSIDE).identity
    assert identity is not None
    assert (identity.certificate, identity.key_password_file) == (Path("/tls/node.pem"), Path("/tls/p"))
    own = web(**OUTSIDE, tls_certificate="/own.pem", tls_key="credential:own").identity
    assert own is not None
    assert (own.certificate, own.key, own.key_password_file) == (Path("/own.pem"), Path("credential:own"), None)
    assert web().identity is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tls": False}, "it needs tls = true"),
        ({"login": "actions"}, 'it needs login = "always" and a users_file'),
        ({"users_file": None}, 'it needs login = "always" and a users_file'),
        ({"bind": "::", "tls": False}, "bind = ::"),
        ({"bind": "nowhere"}, "web.bind:"),
        ({"hosts": ["https://page.example.org"]}, "web.hosts[0]: a host name is needed"),
        ({"users_file": "relative"}, "web.users_file: an absolute path"),
        ({"tls_certificate": "/own.pem"}, "tls_certificate and tls_key belong together"),
    ],
)
def test_what_would_be_unsafe_is_refused(changes: dict[str, Any], says: str) -> None:
    web(**OUTSIDE)
    with pytest.raises(ConfigError) as caught:
        web(**{**OUTSIDE, **changes})
    assert says in str(caught.value)
    if changes.get("bind") != "nowhere" and "hosts" not in changes and changes.get("users_file") != "relative":
        assert "web: " in str(caught.value)


def test_tls_without_any_certificate_is_refused() -> None:
    with pytest.raises(ConfigError, match="web: tls = true needs"):
        config.parse({"web": {"tls": True}})
