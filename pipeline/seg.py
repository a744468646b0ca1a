"""Masks as DICOM Segmentation (PS3.3 A.51 BINARY, A.86 LABELMAP): lesions, and lungs where a profile wants them.

highdicom builds the object with one frame. The frames of the series are written here, packed one by one: its own
way needs 2 GB for 600 slices with two segments, this one about the size of the object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.valuerep import DS

from pipeline import header, provenance, uids
from pipeline.arrays import CtVolume, LabelArray, MaskArray
from pipeline.codes import LUNG, SEGMENTATION, SOURCE_IMAGE
from pipeline.header import SourceHeader
from pipeline.subjects import DESCRIPTIONS, Subject, lesion_subjects, mask
from pipeline.types import Analysis, ResultContext, ResultKind


@dataclass(frozen=True)
class _Frame:
    """One frame: its pixels on the source grid, its segment (0: all of a label map), its place among the slices."""

    pixels: MaskArray | LabelArray
    segment: int
    slice_index: int


def build(analysis: Analysis, context: ResultContext) -> Dataset | None:
    """The lesion SEG of the profile, on the grid of the source slices.

    Returns:
        None where the profile wants none and where nothing was found: an empty segment hangs viewers.
    """
    return _build(analysis, context, ResultKind.LESIONS, lesion_subjects(context.profile))


def build_lungs(analysis: Analysis, context: ResultContext) -> Dataset | None:
    """The SEG of right and left lung, or None where the profile does not want it."""
    wanted = context.profile.lungs_seg and context.profile.seg != "NONE"
    return _build(analysis, context, ResultKind.LUNGS, (Subject.RIGHT_LUNG, Subject.LEFT_LUNG) if wanted else ())


def _build(
    analysis: Analysis, context: ResultContext, kind: ResultKind, wanted: Sequence[Subject]
) -> Dataset | None:
    found = {subject: mask(analysis, subject) for subject in wanted}
    subjects = [subject for subject in wanted if found[subject].any()]
    if not subjects:
        return None
    masks = [analysis.volume.to_source(found[subject]) for subject in subjects]
    with_content = np.logical_or.reduce([pixels.any(axis=(1, 2)) for pixels in masks])
    slices = range(len(with_content)) if context.profile.empty_frames else np.flatnonzero(with_content).tolist()
    source = header.of_series(analysis.volume.headers)
    ds = provenance.finish(_skeleton(analysis, context, kind, subjects, source), analysis, context, source)
    _write_references(ds, [analysis.volume.headers[index] for index in slices])
    _write_dimensions(ds, uids.derive("dimensions", str(ds.SOPInstanceUID)))
    if context.profile.seg == "LABELMAP":
        frames = _label_frames(masks, slices)
        ds.PixelData = _even(b"".join(frame.pixels.tobytes() for frame in frames))
    else:
        frames = _binary_frames(masks, slices, context.profile.empty_frames)
        ds.PixelData = _even(pack_bits(frame.pixels for frame in frames))
    ds.SegmentsOverlap = "YES" if Subject.INFECTION in subjects and len(subjects) > 1 else "NO"
    _write_groups(ds, frames, {index: place for place, index in enumerate(slices, start=1)}, analysis.volume)
    return ds


def _skeleton(
    analysis: Analysis, context: ResultContext, kind: ResultKind, subjects: Sequence[Subject], source: SourceHeader
) -> Segmentation:
    """The object with one made-up frame per segment, for all that does not depend on the number of slices."""
    shape = (1, source.ds.Rows, source.ds.Columns, len(subjects))
    pixels = np.zeros(shape, np.uint8)
    pixels[0, 0, np.arange(len(subjects)), np.arange(len(subjects))] = 1  # side by side: they must not overlap
    return Segmentation(
        source_images=[_with_spacing(source, analysis.volume)],
        pixel_array=pixels,
        segmentation_type=context.profile.seg,
        segment_descriptions=[
            _describe(number, subject, analysis, context) for number, subject in enumerate(subjects, start=1)
        ],
        content_label="LUNG_OPACITY" if kind is ResultKind.LESIONS else "LUNGS",
        content_description=provenance.plain("Made by software; research use only, not for diagnostic use"),
        content_creator_name="dicomnode^",
        **provenance.arguments(analysis, context, source, kind),
    )


def _describe(number: int, subject: Subject, analysis: Analysis, context: ResultContext) -> SegmentDescription:
    about, algorithm = DESCRIPTIONS[subject], provenance.algorithm(analysis, subject)
    item = SegmentDescription(
        segment_number=number,
        segment_label=subject.value,
        segmented_property_category=about.category,
        segmented_property_type=about.type,
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=algorithm.name,
            family=algorithm.family,
            version=algorithm.version,
            source=provenance.MANUFACTURER,
            parameters=dict(algorithm.parameters),
        ),
        tracking_uid=uids.tracking(analysis, context, subject),
        tracking_id=subject.value,
        anatomic_regions=None if about.is_lung else [LUNG],
        display_color=CIELabColor.from_rgb(*about.rgb),
    )
    if about.is_lung:
        item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            _code(about.laterality)
        ]
    return item


def _with_spacing(source: SourceHeader, volume: CtVolume) -> Dataset:
    """The first slice, from which highdicom takes the Pixel Measures Sequence.

    SpacingBetweenSlices is the volume's, which gaps between frames would hide; a thickness that is no length
    becomes the spacing.
    """
    image, spacing_mm = provenance.nameless(source), volume.spacing_mm[0]
    thickness = source.ds.get("SliceThickness")
    image.SliceThickness = DS(float(thickness) if thickness and thickness > 0 else spacing_mm, auto_format=True)
    image.SpacingBetweenSlices = DS(spacing_mm, auto_format=True)
    return image


def _binary_frames(masks: Sequence[MaskArray], slices: Iterable[int], empty_frames: bool) -> list[_Frame]:
    """Segment by segment, as ReferencedSegmentNumber is the first dimension; the pixels are views."""
    return [
        _Frame(pixels[index], segment, index)
        for segment, pixels in enumerate(masks, start=1)
        for index in slices
        if empty_frames or pixels[index].any()
    ]


def _label_frames(masks: Sequence[MaskArray], slices: Iterable[int]) -> list[_Frame]:
    """One frame a slice; a pixel holds its segment number."""
    frames = []
    for index in slices:
        labels = np.zeros(masks[0].shape[1:], np.uint8)
        for segment, pixels in enumerate(masks, start=1):
            labels[pixels[index]] = segment
        frames.append(_Frame(labels, 0, index))
    return frames


def pack_bits(frames: Iterable[npt.NDArray[Any]]) -> bytes:
    """Frames of one bit a pixel, one after the other without padding between them (PS3.5 8.1.1)."""
    packed: list[bytes] = []
    carry = np.zeros(0, bool)
    for frame in frames:
        bits = np.concatenate([carry, frame.ravel()])
        whole = bits.size - bits.size % 8
        packed.append(np.packbits(bits[:whole], bitorder="little").tobytes())
        carry = bits[whole:]
    packed.append(np.packbits(carry, bitorder="little").tobytes())
    return b"".join(packed)


def _even(pixel_data: bytes) -> bytes:
    return pixel_data + b"\0" * (len(pixel_data) % 2)


def _write_references(ds: Dataset, headers: Sequence[Dataset]) -> None:
    """Source Image and Referenced Series Sequence (PS3.3 C.12.2): the slices that have frames."""
    references = [_reference(source) for source in headers]
    series = Dataset()
    series.SeriesInstanceUID = headers[0].SeriesInstanceUID
    series.ReferencedInstanceSequence = [_reference(source) for source in headers]
    ds.SourceImageSequence = references
    ds.ReferencedSeriesSequence = [series]


def _reference(source: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = source.SOPClassUID
    item.ReferencedSOPInstanceUID = source.SOPInstanceUID
    return item


def _write_dimensions(ds: Dataset, organization_uid: str) -> None:
    """Multi-frame Dimension Module (PS3.3 C.7.6.17) as highdicom made it, with a derived UID."""
    for item in (*ds.DimensionIndexSequence, *ds.DimensionOrganizationSequence):
        item.DimensionOrganizationUID = organization_uid
    if "DimensionOrganizationType" in ds:  # true of the frame of the skeleton, not of frames with gaps
        del ds.DimensionOrganizationType


def _write_groups(ds: Dataset, frames: Sequence[_Frame], places: Mapping[int, int], volume: CtVolume) -> None:
    """Per-frame Functional Groups Sequence (PS3.3 C.7.6.16.2) instead of the skeleton's."""
    shared = ds.SharedFunctionalGroupsSequence[0]
    if "SegmentIdentificationSequence" in shared:  # highdicom's place for it where there is one segment
        del shared.SegmentIdentificationSequence
    ds.NumberOfFrames = len(frames)
    ds.PerFrameFunctionalGroupsSequence = [
        _functional_groups(frame, places[frame.slice_index], volume.headers[frame.slice_index]) for frame in frames
    ]


def _functional_groups(frame: _Frame, place: int, source: Dataset) -> Dataset:
    content, position, derivation, image, groups = (Dataset() for _ in range(5))
    content.DimensionIndexValues = [frame.segment, place] if frame.segment else [place]
    position.ImagePositionPatient = header.decimals(source.ImagePositionPatient)
    image = _reference(source)
    image.SpatialLocationsPreserved = "YES"
    image.PurposeOfReferenceCodeSequence = [_code(SOURCE_IMAGE)]
    derivation.SourceImageSequence = [image]
    derivation.DerivationCodeSequence = [_code(SEGMENTATION)]
    groups.FrameContentSequence = [content]
    groups.PlanePositionSequence = [position]
    groups.DerivationImageSequence = [derivation]
    if frame.segment:
        identification = Dataset()
        identification.ReferencedSegmentNumber = frame.segment
        groups.SegmentIdentificationSequence = [identification]
    return groups


def _code(code: Code) -> Dataset:
    return CodedConcept.from_code(code)
