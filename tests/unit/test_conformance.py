"""docs/conformance.md says what the code does: its tables are made from it, and the rest is tried here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context

from dicom_node import query, retrieve, scu
from dicom_node.config import Destination, Source
from dicom_node.errors import NodeError
from dicom_node.upper_layer import InstanceMemory
from pipeline import produced
from pipeline.types import ObjectReference, Profile
from scripts import conformance
from scripts.conformance_objects import examples
from tests.fixtures.part10 import write_object
from tests.fixtures.results import build_set, make_analysis, make_context


def test_the_tables_are_those_of_the_code() -> None:
    page = conformance.PAGE.read_text(encoding="utf-8")
    made, changed = conformance.rendered(page)
    assert not changed, f"run python -m scripts.conformance: {changed}"
    assert made == page
    assert all(f"<!-- begin {name} -->" in page for name in conformance.TABLES)


def test_a_changed_table_is_noticed() -> None:
    page = "<!-- begin failures -->\n| old |\n<!-- end failures -->"
    made, changed = conformance.rendered(page)
    assert changed == ["failures"]
    assert "no such object instance" in made
    assert conformance.rendered(made) == (made, [])


@pytest.mark.parametrize(
    "profile",
    [
        Profile(),
        Profile(seg="LABELMAP", lungs_seg=True),
        Profile(lungs_seg=True, picture=False),
        Profile(seg="NONE", lungs_seg=True),
    ],
)
def test_what_is_said_to_be_sent_is_what_is_made(profile: Profile) -> None:
    made = build_set(make_analysis(), make_context(profile=profile))
    assert {kind: ds.SOPClassUID for kind, ds in made.items()} == produced.sop_classes(profile)
    assert {ds.file_meta.TransferSyntaxUID for ds in made.values()} == {produced.TRANSFER_SYNTAX}


def test_the_examples_differ_in_what_is_the_patients() -> None:
    one, two = examples()
    for keyword in ("PatientName", "PatientID", "AccessionNumber", "StudyInstanceUID"):
        assert one.source[keyword].value != two.source[keyword].value


class Recorder:
    """A peer that takes everything and remembers what was proposed to it."""

    def __init__(self) -> None:
        self.proposed: set[str] = set()
        entity = AE("PEER")
        for uid in conformance.SERVICES:
            entity.add_supported_context(uid)
        for uid in (CTImageStorage, *produced.sop_classes(Profile()).values()):
            entity.add_supported_context(uid, scu_role=True, scp_role=True)
        self._server = entity.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[
                (evt.EVT_REQUESTED, self._note),
                (evt.EVT_C_STORE, lambda event: 0x0000),
                (evt.EVT_C_FIND, lambda event: iter(())),
            ],
        )
        self.port = int(self._server.socket.getsockname()[1])

    def _note(self, event: evt.Event) -> None:
        request = event.assoc.requestor.primitive
        self.proposed |= {str(cx.abstract_syntax) for cx in request.presentation_context_definition_list}

    def stop(self) -> None:
        self._server.shutdown()


@pytest.fixture
def peer() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.stop()


def test_the_services_in_the_table_are_those_that_are_proposed(peer: Recorder, tmp_path: Path) -> None:
    address = {"name": "peer", "ae_title": "PEER", "host": "127.0.0.1", "port": peer.port, "timeout_s": 5.0}
    destination, source = Destination.model_validate(address), Source.model_validate(address)
    nothing = ObjectReference(*(generate_uid() for _ in range(2)), str(CTImageStorage), generate_uid())
    wanted = retrieve.identifiers(nothing.study_uid)
    storage = [build_context(CTImageStorage, ExplicitVRLittleEndian)]
    answered = Event()
    answered.set()
    calls: list[Callable[[], object]] = [
        lambda: scu.echo(destination, "NODE"),
        lambda: scu.request_commitment(destination, [nothing], "1.2.3", "NODE", lambda _: None, answered, 0.0),
        lambda: query.find_instances(destination, [nothing], "NODE"),
        lambda: retrieve.move(source, wanted, "NODE", "NODE", 2.0),
        lambda: retrieve.get(source, wanted, "NODE", storage, lambda *_: None, InstanceMemory(1, 1), 2.0),  # type: ignore[arg-type, return-value]
    ]
    for call in calls:
        try:
            call()
        except NodeError:
            continue  # the recorder has nothing to give; what was proposed is what counts
    assert peer.proposed - {str(CTImageStorage)} == set(map(str, conformance.SERVICES))
    sent = write_object(tmp_path)
    peer.proposed.clear()
    scu.store(destination, [sent], "NODE")
    assert len(peer.proposed) == 1
