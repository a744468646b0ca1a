"""STOW-RS and QIDO-RS over real sockets: what each answer means, and that every request ends."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.sop_class import SegmentationStorage  # type: ignore[attr-defined]

from dicom_node import dicomweb
from dicom_node.config import WebDestination
from dicom_node.errors import PermanentError, TransientError
from dicom_node.scu import StoreResult
from tests.fixtures import stow, wire
from tests.fixtures.certificates import Authority, Owner
from tests.fixtures.part10 import reference, sha256, write_object
from tests.fixtures.stow import Part, Reply, StowServer


@pytest.fixture
def server() -> Iterator[StowServer]:
    with stow.serve(StowServer()) as running:
        yield running


def at(server: StowServer | str, **changes: Any) -> WebDestination:
    url = server if isinstance(server, str) else server.url
    return WebDestination(
        name="web", protocol="dicomweb", url=url, timeout_s=changes.pop("timeout_s", 5), **changes
    )


def store_one(server: StowServer, path: Path) -> StoreResult:
    (result,) = dicomweb.store(at(server), [path])
    return result


def test_bytes_arrive_as_they_are_on_one_connection(server: StowServer, tmp_path: Path) -> None:
    paths = [write_object(tmp_path, rows=rows, columns=1001) for rows in (1, 701, 2)]
    seen: list[StoreResult] = []
    results = dicomweb.store(at(server), paths, seen.append)
    assert results == seen
    assert [(result.path, result.error, result.warning) for result in results] == [
        (path, None, "") for path in paths
    ]
    assert server.kept == {reference(path).sop_instance_uid: sha256(path) for path in paths}
    assert len(server.connections) == 1
    assert server.requests == [("POST", "/studies")] * 3


@pytest.mark.parametrize(
    ("code", "transient"),
    [
        (0x0110, True),  # processing failure
        (0x0122, False),  # SOP class not supported
        (0x0124, False),  # not authorised
        (0xA700, True),  # out of resources
        (0xA7FF, True),
        (0xA900, False),  # does not match its SOP class
        (0xC000, False),  # cannot understand
        (0xC122, False),
    ],
)
@pytest.mark.parametrize(("http", "listed"), [(200, False), (202, False), (400, False), (409, False), (200, True)])
def test_failure_reasons_are_judged_as_the_status_of_c_store(
    server: StowServer, tmp_path: Path, code: int, transient: bool, http: int, listed: bool
) -> None:
    server.answer = lambda part: (http, [stow.refused(part, code)] if listed else stow.refused(part, code))
    error = store_one(server, write_object(tmp_path)).error
    assert isinstance(error, TransientError if transient else PermanentError)
    assert f"0x{code:04X}" in str(error)


@pytest.mark.parametrize("code", [0xB000, 0xB006, 0xB007, 0x0107])
def test_warnings_count_as_stored_and_are_told(server: StowServer, tmp_path: Path, code: int) -> None:
    server.answer = lambda part: (202, stow.stored(part, code))
    result = store_one(server, write_object(tmp_path))
    assert result.error is None
    assert f"0x{code:04X}" in result.warning


def test_a_duplicate_counts_as_stored(server: StowServer, tmp_path: Path) -> None:
    server.answer = lambda part: (409, stow.refused(part, 0x0111))
    result = store_one(server, write_object(tmp_path))
    assert result.error is None
    assert "0x0111" in result.warning


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507])
def test_statuses_that_may_pass(server: StowServer, tmp_path: Path, status: int) -> None:
    server.answer = lambda part: (status, None)
    assert isinstance(store_one(server, write_object(tmp_path)).error, TransientError)


@pytest.mark.parametrize("status", [301, 307, 400, 401, 403, 404, 405, 406, 409, 410, 413, 415, 422, 501, 505])
def test_statuses_that_need_a_person(server: StowServer, tmp_path: Path, status: int) -> None:
    server.answer = lambda part: (status, b"<html>not for us</html>")
    error = store_one(server, write_object(tmp_path)).error
    assert isinstance(error, PermanentError)
    assert str(status) in str(error)
    assert "html" not in str(error)


def test_a_fault_of_one_object_does_not_stop_the_next_a_fault_of_the_service_does(
    server: StowServer, tmp_path: Path
) -> None:
    paths = [write_object(tmp_path, SegmentationStorage), write_object(tmp_path)]
    for status, arrived in ((409, 1), (500, 1), (503, 0), (401, 0)):
        server.kept.clear()
        server.answer = lambda part, status=status: (  # type: ignore[misc]
            (status, None) if part.sop_class_uid == SegmentationStorage else None
        )
        results = dicomweb.store(at(server), paths)
        assert (results[0].error is None, results[1].error is None) == (False, bool(arrived)), status
        assert len(server.kept) == arrived


@pytest.mark.parametrize(("indigestible", "asked"), [({1}, 4), ({0, 1}, 4), ({0, 1, 2}, 3)])
def test_an_object_at_which_the_connection_breaks_holds_up_no_other(
    server: StowServer, tmp_path: Path, indigestible: set[int], asked: int
) -> None:
    """As by a proxy that does not let it through; three in a row say that it is not the object."""
    paths = [write_object(tmp_path) for _ in range(4)]
    uids = [reference(path).sop_instance_uid for path in paths]

    def break_off(part: Part) -> None:
        if uids.index(part.sop_instance_uid) in indigestible:
            raise ConnectionError

    server.answer = break_off
    results = dicomweb.store(at(server), paths)
    arrived = set(range(asked)) - indigestible
    assert {number for number, result in enumerate(results) if result.error is None} == arrived
    assert set(server.kept) == {uids[number] for number in arrived}
    assert len(server.requests) == asked
    assert all(isinstance(result.error, TransientError) for result in results if result.error is not None)


UNREADABLE: list[Any] = [
    None,
    b"",
    b"not json",
    b"[" * 100_000,
    [],
    7,
    {},
    {"00081199": 3},
    {"00081199": {"Value": 3}},
    {"00081198": {"Value": []}, "00081199": {"vr": "SQ"}},
]


@pytest.mark.parametrize("body", UNREADABLE)
def test_success_without_a_readable_answer_is_told(server: StowServer, tmp_path: Path, body: Any) -> None:
    server.answer = lambda part: (200, body)
    result = store_one(server, write_object(tmp_path))
    assert (result.error, result.warning) == (None, "answered success without saying what was stored")
    server.answer = lambda part: (202, body)
    assert store_one(server, write_object(tmp_path)).error is not None
    server.answer = lambda part: (409, body)
    assert isinstance(store_one(server, write_object(tmp_path)).error, PermanentError)


def test_an_answer_about_other_objects_is_no_success(server: StowServer, tmp_path: Path) -> None:
    other = stow.stored(Part("1.2.840", "1.2.3", b""))
    for body in (other, {"00081199": {"Value": [None, 3, [], {}]}}):
        server.answer = lambda part, body=body: (200, body)  # type: ignore[misc]
        error = store_one(server, write_object(tmp_path)).error
        assert isinstance(error, PermanentError)
        assert "another UID" in str(error)


def test_what_is_no_dicom_file_is_not_sent(server: StowServer, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not DICOM")
    good = write_object(tmp_path)
    results = dicomweb.store(at(server), [tmp_path / "text", tmp_path / "absent", good])
    assert [type(result.error) for result in results] == [PermanentError, PermanentError, type(None)]
    assert len(server.kept) == 1


# --- queries ----------------------------------------------------------------------------------------------------


def test_finds_what_is_listed(server: StowServer, tmp_path: Path) -> None:
    paths = [write_object(tmp_path) for _ in range(3)]
    dicomweb.store(at(server), paths[:2])
    uids = [reference(path).sop_instance_uid for path in paths]
    assert dicomweb.find_instances(at(server), [reference(path) for path in paths]) == set(uids[:2])
    server.lists = False
    assert dicomweb.find_instances(at(server), [reference(path) for path in paths]) == set()
    dicomweb.check(at(server))


# --- credentials ------------------------------------------------------------------------------------------------


def test_user_and_password_come_from_a_file_that_may_change(server: StowServer, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("geheim:ü\n")
    server.requires = "Basic " + base64.b64encode("node:geheim:ü".encode()).decode()
    dicomweb.check(at(server, user="node", password_file=file))
    file.write_text("wrong\n")
    with pytest.raises(PermanentError, match="check user and password_file") as caught:
        dicomweb.check(at(server, user="node", password_file=file))
    assert "wrong" not in str(caught.value)


def test_a_token_that_is_renewed(server: StowServer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("abc.def\n")
    server.requires = "Bearer xyz"
    with pytest.raises(TransientError, match="still valid"):
        dicomweb.check(at(server, token_file=file))
    file.write_text("xyz\n")
    dicomweb.check(at(server, token_file=file))


@pytest.mark.parametrize("content", [None, b"", b"a\nb", b"\xff"])
def test_a_secret_that_cannot_be_used_is_named(server: StowServer, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TransientError, match=str(file)):
        dicomweb.check(at(server, token_file=file))
    results = dicomweb.store(at(server, token_file=file), [write_object(tmp_path)])
    assert isinstance(results[0].error, TransientError)
    assert server.requests == []


# --- TLS --------------------------------------------------------------------------------------------------------


@pytest.fixture
def hospital(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def server_context(owner: Owner, clients: Authority | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(owner.certificate, owner.key)
    if clients is not None:
        context.load_verify_locations(clients.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_https_with_the_authority_of_the_hospital(hospital: Authority, tmp_path: Path) -> None:
    path = write_object(tmp_path, rows=500, columns=500)
    with stow.serve(StowServer(), server_context(hospital.issue("pacs"))) as server:
        (result,) = dicomweb.store(at(server, tls_ca=hospital.certificate), [path])
        assert (result.error, server.kept) == (None, {reference(path).sop_instance_uid: sha256(path)})
        with pytest.raises(TransientError, match="the certificate is not believed"):  # by the system's
            dicomweb.check(at(server))


@pytest.mark.parametrize("made", [{"names": ("other.example.org",)}, {"days": 0.01}])
def test_a_certificate_of_another_or_from_another_time_is_not_believed(
    hospital: Authority, made: dict[str, Any]
) -> None:
    with stow.serve(StowServer(), server_context(hospital.issue("pacs", **made))) as server:
        with pytest.raises(TransientError, match="the certificate is not believed"):
            dicomweb.check(at(server, tls_ca=hospital.certificate))
        assert server.requests == []


def test_the_node_shows_its_certificate_where_it_is_asked_for(hospital: Authority) -> None:
    node = hospital.issue("node")
    with stow.serve(StowServer(), server_context(hospital.issue("pacs"), hospital)) as server:
        shown = {"tls_certificate": node.certificate, "tls_key": node.key}
        dicomweb.check(at(server, tls_ca=hospital.certificate, **shown))
        with pytest.raises(TransientError):
            dicomweb.check(at(server, tls_ca=hospital.certificate))


def test_https_to_a_port_without_tls(server: StowServer, hospital: Authority) -> None:
    with pytest.raises(TransientError, match="does not speak TLS"):
        dicomweb.check(at(server.url.replace("http:", "https:"), tls_ca=hospital.certificate))


# --- connections ------------------------------------------------------------------------------------------------


def trickle(connection: socket.socket, over: threading.Event) -> None:
    """Never silent for as long as the limit, and never done."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not over.wait(0.05):
        connection.sendall(b" ")


def flood(connection: socket.socket, over: threading.Event) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    while not over.is_set():
        connection.sendall(bytes(1024 * 1024))


def talk_nonsense(connection: socket.socket, over: threading.Event) -> None:
    connection.recv(65536)
    connection.sendall(b"220 smtp.example.org ESMTP\r\n")


@pytest.mark.parametrize(
    ("behave", "says"),
    [
        (wire.closing, "broke the connection off"),
        (wire.silent, "did not answer within"),
        (trickle, "did not answer within"),
        (flood, "more than 16 MB"),
        (talk_nonsense, "broke the connection off"),
    ],
)
def test_every_request_ends_and_may_be_tried_again(tmp_path: Path, behave: wire.Behaviour, says: str) -> None:
    with wire.peer(behave) as port, pytest.raises(TransientError, match=says):
        dicomweb.check(at(f"http://127.0.0.1:{port}", timeout_s=0.5))
    with wire.peer(behave) as port:
        (result,) = dicomweb.store(at(f"http://127.0.0.1:{port}", timeout_s=0.5), [write_object(tmp_path)])
    assert isinstance(result.error, TransientError)


def test_nothing_listens_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(TransientError, match="nothing listens there"):
        dicomweb.check(at(url))
    with pytest.raises(TransientError, match="cannot be resolved"):
        dicomweb.check(at("http://pacs.invalid"))


def test_the_environment_adds_no_proxy(server: StowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    dicomweb.check(at(server))


def refuse_all(part: Part) -> Reply | None:
    return 413, None


def test_a_refusal_before_the_end_of_the_body_is_heard(server: StowServer, tmp_path: Path) -> None:
    server.answer = refuse_all
    error = store_one(server, write_object(tmp_path, rows=2000, columns=2000)).error
    assert "larger requests" in str(error)
