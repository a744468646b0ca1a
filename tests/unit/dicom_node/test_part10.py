"""The head of a Part 10 file, read back by pydicom."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.uid import UID, JPEGLSLossless

from dicom_node.part10 import IMPLEMENTATION_CLASS_UID, FileMeta, presentation_address

CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.mark.parametrize("instance", ["1.2.3", "1.2.34", "1." + "2" * 62])
@pytest.mark.parametrize("calling_ae", ["A", "SIXTEEN CHARS AE"])
def test_pydicom_reads_every_element_back(instance: str, calling_ae: str) -> None:
    head = FileMeta(CT, instance, JPEGLSLossless, calling_ae, "192.0.2.7").encode()
    ds = dcmread(BytesIO(head))
    assert len(ds) == 0
    meta = ds.file_meta
    assert meta.MediaStorageSOPClassUID == CT
    assert meta.MediaStorageSOPInstanceUID == instance
    assert meta.TransferSyntaxUID == JPEGLSLossless
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName.startswith("DICOMNODE")
    assert meta.SourceApplicationEntityTitle == calling_ae
    assert meta.SourcePresentationAddress == "dicom://192.0.2.7"
    # PS3.10 7.1: the group length counts what follows its own element (12 bytes after preamble and prefix)
    assert meta.FileMetaInformationGroupLength == len(head) - 132 - 12


def test_nothing_that_a_sender_chooses_breaks_the_group() -> None:
    head = FileMeta(CT, "1.2.3", JPEGLSLossless, "CTÄÖ", "192.0.2.7").encode()
    assert dcmread(BytesIO(head)).file_meta.SourceApplicationEntityTitle == "CT??"


def test_addresses_are_uris() -> None:
    assert presentation_address("192.0.2.7") == "dicom://192.0.2.7"
    assert presentation_address("2001:db8::1") == "dicom://[2001:db8::1]"


def test_our_implementation_uid_is_one() -> None:
    assert UID(IMPLEMENTATION_CLASS_UID).is_valid
