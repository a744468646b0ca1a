"""What is said about the certificates of a config.toml, with the path of the setting to change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dicom_node import certificates, config
from dicom_node.config import Config
from tests.fixtures.certificates import Authority

NOW = datetime.now(UTC)


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def configured(authority: Authority, own: str = "node", peer: dict[str, Any] | None = None, **more: Any) -> Config:
    folder = authority.certificate.parent
    files = {"certificate": folder / f"{own}.pem", "key": folder / f"{own}.key", "ca": authority.certificate}
    section = {**files, **more}
    tls = {key: str(value) if isinstance(value, Path) else value for key, value in section.items()}
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "pacs.example.org", "port": 2762, "tls": True}
    return config.parse({"tls": tls, "destinations": [{**pacs, **(peer or {})}]})


def test_good_ones_are_passed_over_in_silence(ca: Authority) -> None:
    ca.issue("node")
    settings = configured(ca, port=2762)
    assert certificates.faults(settings, NOW) == [] == certificates.expiring(settings, NOW)
    assert certificates.faults(config.parse({}), NOW) == []


def test_the_end_is_warned_of_and_then_a_fault(ca: Authority) -> None:
    node = ca.issue("node", days=90)
    settings = configured(ca, port=2762, warn_days=30)
    end = node.x509.not_valid_after_utc
    assert certificates.expiring(settings, end - timedelta(days=31)) == []
    (warning,) = certificates.expiring(settings, end - timedelta(days=29, hours=1))
    assert warning == (
        f"tls.certificate: the certificate CN=node in {node.certificate} expires in 29 days, on {end:%Y-%m-%d}"
    )
    assert certificates.faults(settings, end - timedelta(seconds=1)) == []
    (fault,) = certificates.faults(settings, end)
    assert fault == (
        f"tls.certificate: the certificate CN=node in {node.certificate} has expired, on {end:%Y-%m-%d}: renew it"
    )
    early = certificates.faults(settings, node.x509.not_valid_before_utc - timedelta(minutes=1))
    assert [fault.split(":")[0] for fault in early if "clock" in fault] == ["tls.certificate", "tls.ca"]


def test_of_several_trusted_cas_one_valid_one_will_do(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    old = Authority(tmp_path / "old", begin=NOW - timedelta(days=400), days=365)
    new = Authority(tmp_path)
    new.issue("node")
    both = tmp_path / "both.pem"
    both.write_bytes(old.certificate.read_bytes() + new.certificate.read_bytes())
    assert certificates.faults(configured(new, ca=both), NOW) == []
    (fault,) = certificates.faults(configured(new, ca=old.certificate), NOW)
    assert fault.startswith("tls.ca: the certificate CN=ca") and "has expired" in fault


def test_every_fault_has_its_toml_path(ca: Authority, tmp_path: Path) -> None:
    ca.issue("node")
    ca.issue("other")
    absent = str(tmp_path / "absent.pem")
    mismatch = configured(ca, key=tmp_path / "other.key")
    assert [fault.split(":")[0] for fault in certificates.faults(mismatch, NOW)] == ["tls", "destinations[0].tls"]
    elsewhere = configured(ca, peer={"tls_ca": absent})
    assert certificates.faults(elsewhere, NOW) == [
        f"destinations[0].tls: {absent} cannot be read: No such file or directory"
    ]
    credential = configured(ca, key="credential:node")
    assert "LoadCredential=node" in certificates.faults(credential, NOW)[0]


def test_a_key_that_everybody_can_read_is_a_fault(ca: Authority) -> None:
    key = ca.issue("node").key
    key.chmod(0o644)
    (fault,) = certificates.faults(configured(ca), NOW)
    assert fault.startswith(f"tls.key: everybody can read {key}")
    key.chmod(0o640)
    assert certificates.faults(configured(ca), NOW) == []


def test_a_revocation_list_that_is_over_is_a_fault_since_nobody_can_call(ca: Authority) -> None:
    ca.issue("node")
    path = ca.revoke(days=7)
    settings = configured(ca, port=2762, crl=path)
    assert certificates.faults(settings, NOW) == [] == certificates.expiring(settings, NOW)  # a week is enough
    late = NOW + timedelta(days=7)
    (warning,) = certificates.expiring(settings, late)
    assert warning.startswith(f"tls.crl: the revocation list of CN=ca in {path} is over since ")
    assert certificates.faults(settings, late) == [f"{warning}: have a newer one put there"]


def test_of_several_revocation_lists_each_counts(ca: Authority, tmp_path: Path) -> None:
    ca.issue("node")
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "other")
    path = tmp_path / "both.pem"
    path.write_bytes(ca.revoke(days=30).read_bytes() + other.revoke(days=7).read_bytes())
    (fault,) = certificates.faults(configured(ca, port=2762, crl=path), NOW + timedelta(days=8))
    assert fault.startswith(f"tls.crl: the revocation list of CN=other in {path} is over")


def test_who_vouches_for_whom(ca: Authority, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "other")
    node, stranger = ca.issue("node"), other.issue("stranger")
    both, chain = tmp_path / "both.pem", tmp_path / "chain.pem"
    both.write_bytes(other.certificate.read_bytes() + ca.certificate.read_bytes())
    chain.write_bytes(stranger.certificate.read_bytes() + node.certificate.read_bytes())
    assert certificates.is_of(node.certificate, ca.certificate)
    assert certificates.is_of(node.certificate, both)
    assert certificates.is_of(node.certificate, node.certificate)
    assert certificates.is_of(chain, ca.certificate)
    assert not certificates.is_of(node.certificate, other.certificate)
    assert not certificates.is_of(tmp_path / "absent.pem", ca.certificate)


def test_a_certificate_is_no_revocation_list(ca: Authority) -> None:
    ca.issue("node")
    (fault,) = certificates.faults(configured(ca, port=2762, crl=ca.certificate), NOW)
    assert fault == f"tls: {ca.certificate} holds no revocation list in PEM format"
