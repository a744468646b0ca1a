"""The users file, what is masked, and who has to wait."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicom_node.errors import ConfigError
from dicom_node.ledger import SeriesIdentity
from dicom_node.web.masking import Mask, mask_identifier, mask_name
from dicom_node.web.passwords import fits, line, read_users
from dicom_node.web.sessions import MAX_FAILURES, MAX_SESSIONS, Attempts, Sessions

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_line_fits_its_password_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(line("ada", "correct horse battery \u00e4") + "\n")
    users = read_users(path)
    assert fits("correct horse battery \u00e4", users["ada"])
    assert not fits("correct horse battery", users["ada"])
    assert "correct" not in path.read_text()
    assert line("ada", "correct horse battery") != line("ada", "correct horse battery")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "names no user"),
        ("# nobody\n", "names no user"),
        ("ada:secret\n", "line 1 is not one that `dicomnode web-password NAME` has made"),
        ("\nada\n", "line 2 is not one"),
        ("a:b:$argon2id$v=19$m=8,t=1,p=1$MTIzNDU2Nzg5MDEyMzQ1Ng$M1JhBtaAwMxbVIxw6Fd3kA\n", "line 1 is not one"),
        ("ada:$argon2id$v=19$m=9999999,t=1,p=1$MTIzNDU2Nzg5MDEyMzQ1Ng$M1JhBtaAwMxbVIxw6Fd3kA", "line 1 is not one"),
    ],
)
def test_a_users_file_that_is_none_is_refused_without_what_it_holds(
    tmp_path: Path, content: str, says: str
) -> None:
    path = tmp_path / "users"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_users(path)
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


def test_short_passwords_and_odd_names_are_refused(tmp_path: Path) -> None:
    for name, password in (("ada", "short"), ("a:b", "long enough password"), ("", "long enough password")):
        with pytest.raises(ConfigError):
            line(name, password)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_users(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "masked"),
    [
        ("Doe^John", "D*** J***"),
        ("Doe^John^Q^Dr.", "D*** J***"),
        ("doe", "d***"),
        ("", ""),
        ("^^", ""),
        ("\uae40^\ubbfc\uc11c", "*** ***"),
        ("Kim^Minseo=\u91d1^\u654f\u745e=\uae40^\ubbfc\uc11c", "K*** M***"),
        ("=\u91d1^\u654f\u745e", "*** ***"),
        ("\u0397\u03bb\u03b9\u03b1\u03c2", "\u0397***"),
        ("<script>", "***"),
    ],
)
def test_names_are_masked(name: str, masked: str) -> None:
    assert mask_name(name) == masked


@pytest.mark.parametrize(
    ("value", "masked"), [("", ""), (" ", ""), ("1", "***"), ("12345", "***"), ("123456", "***56")]
)
def test_identifiers_are_masked(value: str, masked: str) -> None:
    assert mask_identifier(value) == masked


def test_texts_lose_what_tells_whose_they_are() -> None:
    who = SeriesIdentity("1", "2", patient_id="4711", patient_name="Doe^Jo^X", accession_number="A-1")
    text = "4711 Doe^Jo^X, A-1, Doe; Jo X 471"
    assert Mask(True).text(text, who) == "*** ***, ***, ***; *** X 471"
    assert Mask(False).text(text, who) == text


def test_texts_lose_it_in_upper_and_lower_case_and_keep_words_that_hold_a_short_name() -> None:
    who = SeriesIdentity("1", "2", patient_id="PAT123456", patient_name="DOE^JOHN=LI^ANN")
    text = "Thorax Doe pat123456xy, doe_john, Li Ann; xDOEx DOEL John's scanner is alive, ann"
    masked = "Thorax *** ***xy, ***_***, *** ***; x***x ***L ***'s scanner is alive, ***"
    assert Mask(True).text(text, who) == masked


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("Yamada^Tarou=\u5c71\u7530^\u592a\u90ce", "\u5c71\u7530\u592a\u90ce\u80f8\u90e8", "***\u80f8\u90e8"),
        ("\u5c71\u7530^\u592a\u90ce", "\u80f8\u90e8\u592a\u90ce\u69d8", "\u80f8\u90e8***\u69d8"),
        ("\uae40^\ubbfc\uc11c", "\uae40\ubbfc\uc11c \ud749\ubd80", "*** \ud749\ubd80"),
        ("\u91d1^\u4e09", "\u91d1\u4e09\u80f8\u90e8 \u4e09\u671f", "***\u80f8\u90e8 \u4e09\u671f"),
        ("Li^Na", "Lina Li Na", "Lina *** ***"),
        ("An^d", "lung and liver, An", "lung and liver, ***"),
        ("\uff93\uff98^\uff84\uff93", "\uff93\uff98\uff84\uff93\u80f8", "***\u80f8"),
        ("Al^Bo", "Alveolar Boost", "Alveolar Boost"),
    ],
)
def test_names_that_are_written_without_spaces_are_found(name: str, text: str, shown: str) -> None:
    assert Mask(True).text(text, SeriesIdentity("1", "1", patient_name=name)) == shown


def test_sessions_are_few_and_the_oldest_ends_first() -> None:
    sessions = Sessions(timedelta(hours=1), lambda: NOW)
    keys = [sessions.begin("ada", "x") for _ in range(MAX_SESSIONS + 1)]
    assert sessions.find(keys[0]) is None
    assert all(sessions.find(key) for key in keys[1:])
    assert sessions.find("") is None
    assert sessions.is_token(keys[1], sessions.token(keys[1]))
    assert not sessions.is_token(keys[1], sessions.token(keys[2]))
    assert not sessions.is_token("", sessions.token(""))
    assert keys[1] not in repr(sessions.find(keys[1]))


def test_who_fails_too_often_waits_and_nobody_else_does() -> None:
    attempts = Attempts(lambda: NOW)
    for _ in range(MAX_FAILURES):
        assert attempts.wait_s("2001:db8::1") == 0
        attempts.failed("2001:db8::1")
    assert attempts.wait_s("2001:db8::2") > 0  # the same network: one machine has all of it
    assert attempts.wait_s("2001:db8:1::1") == 0
    assert attempts.wait_s("192.0.2.1") == 0
    attempts.succeeded("2001:db8::1")
    assert attempts.wait_s("2001:db8::1") == 0


def test_at_a_listener_on_all_addresses_ipv4_machines_are_not_one() -> None:
    attempts = Attempts(lambda: NOW)
    with socket.socket(socket.AF_INET6) as listening:
        listening.bind(("::", 0))
        listening.listen()
        seen = []
        for own in ("127.0.0.2", "127.0.0.3"):
            with socket.create_connection(("127.0.0.1", listening.getsockname()[1]), source_address=(own, 0)):
                connection, address = listening.accept()
                connection.close()
                seen.append(address[0])
    for _ in range(MAX_FAILURES):
        attempts.failed(seen[0])
    assert attempts.wait_s(seen[0]) > 0
    assert attempts.wait_s(seen[1]) == 0
    assert attempts.wait_s("127.0.0.2") == attempts.wait_s(seen[0])
