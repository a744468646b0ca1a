"""[tls], peers that are called with TLS, and secrets: what is refused, inherited, and never shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicom_node import config
from dicom_node.errors import ConfigError

PACS = {"name": "pacs", "ae_title": "PACS", "host": "pacs.example.org", "port": 2762}
FILES = {"certificate": "/etc/node.pem", "key": "/etc/node.key", "ca": "/etc/ca.pem"}


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ({"port": 2762}, "tls: a port needs certificate and key"),
        ({"only": True}, "tls: only = true needs a port"),
        ({"certificate": "/c"}, "tls: certificate and key belong together"),
        ({"port": 0, "certificate": "/c", "key": "/k"}, "tls: ca is needed"),
        ({"peers": {"CT1": ["ct1"]}}, "tls: peers can call with a certificate only where there is a port"),
        ({"key": "relative"}, "tls.key: an absolute path is needed"),
        ({"key": "credential:../x"}, "tls.key: an absolute path is needed"),
        ({"peers": {"A\\B": ["x"]}}, "tls.peers"),
        ({"peers": {"CT1": ["sha256:12"]}}, "a SHA-256 fingerprint has 64 hexadecimal digits"),
        ({"peers": {"CT1": [""]}}, "a name of a certificate is needed"),
        ({"handshake_timeout_s": 0}, "tls.handshake_timeout_s"),
    ],
)
def test_what_does_not_fit_together_is_refused(section: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint.replace("[", r"\[")):
        config.parse({"tls": section})


def test_without_client_certificates_no_ca_is_needed() -> None:
    section = {"port": 0, "certificate": "/c", "key": "/k", "require_client_certificate": False}
    assert config.parse({"tls": section}).tls.identity is not None


def test_fingerprints_may_be_written_as_openssl_prints_them() -> None:
    digits = "AB:" * 31 + "CD"
    parsed = config.parse({"tls": {**FILES, "port": 1, "peers": {"CT1": [f"SHA256:{digits}", "CT1.Example.org"]}}})
    assert parsed.tls.peers == {"CT1": ("sha256:" + "ab" * 31 + "cd", "ct1.example.org")}


def test_peers_inherit_what_they_do_not_say_themselves() -> None:
    plain, short, own = config.parse(
        {
            "tls": FILES,
            "destinations": [
                PACS,
                {**PACS, "name": "b", "tls": True},
                {
                    **PACS,
                    "name": "c",
                    "tls": True,
                    "tls_name": "other",
                    "tls_ca": "/x.pem",
                    "tls_certificate": "/y.pem",
                    "tls_key": "credential:y",
                },
            ],
        }
    ).destinations
    assert plain.client_tls is None
    assert short.client_tls is not None and short.client_tls.identity is not None
    assert (short.client_tls.name, str(short.client_tls.ca)) == ("pacs.example.org", "/etc/ca.pem")
    assert str(short.client_tls.identity.key) == "/etc/node.key"
    assert own.client_tls is not None and own.client_tls.identity is not None
    assert (own.client_tls.name, str(own.client_tls.ca)) == ("other", "/x.pem")
    assert str(own.client_tls.identity.certificate) == "/y.pem"


def test_a_peer_called_with_tls_must_be_believed_by_something() -> None:
    with pytest.raises(ConfigError, match=r"destinations\[0\]: tls = true needs tls_ca here, or ca in \[tls\]"):
        config.parse({"destinations": [{**PACS, "tls": True}]})
    with pytest.raises(ConfigError, match=r"sources\[0\]: tls = true needs tls_ca here, or ca in \[tls\]"):
        config.parse({"sources": [{**PACS, "tls": True}]})
    (source,) = config.parse({"tls": FILES, "sources": [{**PACS, "tls": True}]}).sources
    assert source.client_tls is not None
    with pytest.raises(ConfigError, match=r"destinations\[0\]: tls_certificate and tls_key belong together"):
        config.parse({"destinations": [{**PACS, "tls": True, "tls_ca": "/x", "tls_key": "/k"}]})


URL = "postgresql+psycopg://node@db.example.org/dicomnode"


def test_the_password_of_the_database_comes_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("s%sa:m/e@\n")
    settings = config.parse({"node": {"database": URL, "database_password_file": str(secret)}})
    assert settings.database_url == "postgresql+psycopg://node:s%25sa%3Am%2Fe%40@db.example.org/dicomnode"
    assert "s%sa" not in repr(settings) + settings.model_dump_json()
    secret.unlink()
    with pytest.raises(ConfigError, match=r"node\.database_password_file: .* cannot be read"):
        _ = settings.database_url
    secret.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        _ = settings.database_url


def test_the_password_may_be_a_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config.parse({"node": {"database": URL, "database_password_file": "credential:database"}})
    with pytest.raises(ConfigError, match="LoadCredential=database:FILE .*CREDENTIALS_DIRECTORY"):
        _ = settings.database_url
    (tmp_path / "database").write_text("sesame")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert ":sesame@" in settings.database_url


@pytest.mark.parametrize(
    "database",
    [
        "postgresql+psycopg://node:sesame@db/dicomnode",
        "postgresql+psycopg://node@db/dicomnode?password=sesame",
        "node:sesame@db",
    ],
)
def test_a_password_in_the_url_is_refused_and_not_repeated(database: str) -> None:
    with pytest.raises(ConfigError, match=r"node\.database: ") as caught:
        config.parse({"node": {"database": database, "port": -1}})
    assert "sesame" not in str(caught.value)
    assert "sesame" not in repr(caught.value.__cause__) or "input_value" in repr(caught.value.__cause__)


RIS = {"name": "ris", "protocol": "hl7", "port": 2575}
MAIL = {"name": "a", "by": "mail", "sender": "a@b", "recipients": ["a@b"]}


@pytest.mark.parametrize("name", ["pacs..example.org", ".example.org", "a" * 64 + ".example.org", "pacs\0"])
@pytest.mark.parametrize(
    ("content", "where"),
    [
        (lambda name: {"destinations": [{**PACS, "host": name}]}, "destinations[0].host"),
        (lambda name: {"sources": [{**PACS, "tls_name": name}]}, "sources[0].tls_name"),
        (lambda name: {"destinations": [{**RIS, "host": "ris", "tls_name": name}]}, "destinations[0].tls_name"),
        (lambda name: {"audit": {"syslog": "udp", "host": name}}, "audit.host"),
        (lambda name: {"notifications": [{**MAIL, "host": name}]}, "notifications[0].host"),
        (
            lambda name: {"destinations": [{"name": "w", "protocol": "dicomweb", "url": f"https://{name}/x"}]},
            "destinations[0].url",
        ),
    ],
)
def test_names_that_nobody_can_have_are_refused_before_a_thread_asks_for_them(
    content: Callable[[str], dict[str, Any]], where: str, name: str
) -> None:
    """Looked up, or compared with a certificate, they raise errors that are none of the network: a thread ends."""
    with pytest.raises(ConfigError) as caught:
        config.parse(content(name))
    assert f"  {where}: " in str(caught.value)


@pytest.mark.parametrize("name", ["pacs.example.org.", "PACS_1", "exämple.org", "::1", "fe80::1%eth0", "10.0.0.5"])
def test_names_and_addresses_that_somebody_may_have(name: str) -> None:
    (parsed,) = config.parse({"destinations": [{**PACS, "host": name, "tls_name": ""}]}).destinations
    assert isinstance(parsed, config.Destination)
    assert parsed.host == name
