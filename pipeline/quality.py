"""Warnings about a series and its result, for a radiologist: known failures of the method that can be seen in data.

Every sentence says what was seen and what may be wrong with the figures. ASCII: the text goes into DICOM objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from scipy import ndimage

from pipeline.accuracy import Healthy
from pipeline.arrays import CtVolume, LesionMasks, LungMask, MaskArray
from pipeline.kernel import Sharpness, sharpness
from pipeline.lung_view import find_padding
from pipeline.notation import percent
from pipeline.types import Flag, Region, RegionScores, Scores

TOUCH_MM2 = 200.0  # of lung in the first or last slice
CUT_SHARE = 0.25  # of the largest cross-section: more than a tip or a recess is missing
MAX_SPACING_MM = 5.0
GAP_SHARE = 0.5  # thickness less than this share of the distance: most of the lung was not scanned
EDGE_MM2 = 50.0
SMALL_LUNGS_ML = 1500.0
SIDE_RATIO = 0.6  # smaller by larger lung; about 0.85 in health
RAISED_HU = -700.0
LOW_SEVERITY = 0.05
DENSE_HU = -400.0  # halfway between lung and soft tissue: on average denser, most of it is no aerated lung
REST_SHARE = 0.25  # of a lung without opacity, below which that is the rim of the opacity
DOUBTFUL_TIMES = 2.0  # what the model finds in healthy lungs; these differ from each other
THIN_MM = 3.0  # half the thickness that consolidation has at least, and septa and vessels have not
THIN_SHARE = 0.5
MIN_CONSOLIDATION_ML = 2.0
FLUID_HU = (-10.0, 30.0)
MIN_FLUID_ML = 30.0
FLUID_GRID_MM = (5.0, 2.5, 2.5)
SMOOTH_MM = 2.0
DEPENDENT_SHARE = 0.3  # of the lungs' depth, from the side that lies on the table
OBLIQUE_DEG = 10.0
# Axis of the canonical array that points up or down, and whether its end is on the table.
TABLE_SIDES = {"S": (1, True), "P": (1, False), "DR": (2, False), "DL": (2, True)}
NO_CONTRAST = frozenset({"", "NO", "NONE", "N", "NEIN", "WITHOUT", "NATIVE", "NATIV", "OHNE", "NON", "0"})


def flags(
    volume: CtVolume, lungs: LungMask, lesions: LesionMasks, scores: Scores, healthy: Healthy | None = None
) -> tuple[Flag, ...]:
    """All warnings, those about the series before those about the result; first, a lung that was not found.

    `healthy`: what the model finds in lungs without opacity.
    """
    header = volume.headers[0]
    of_header: tuple[Callable[[Dataset], Flag | None], ...] = (_kernel, _contrast, _derived)
    found = [
        _not_found(scores),
        *(check(header) for check in of_header),
        _lossy(volume),
        _spacing(volume),
        _gaps(volume),
        _oblique(volume),
        *_ends(volume, lungs),
        _image_edge(volume, lungs),
        _small(scores),
        _sides(scores),
        _dense_rest(scores),
        _doubtful(scores, healthy),
        _raised_density(volume, lungs, lesions, scores),
        _thin_consolidation(volume, lesions),
        _effusion(volume, lungs),
    ]
    return tuple(flag for flag in found if flag is not None)


def _text(header: Dataset, keyword: str) -> str:
    """First value of an attribute as ASCII text; empty where it is absent."""
    value = header.get(keyword)
    first = (
        value if isinstance(value, str) or not hasattr(value, "__getitem__") else (value[0] if len(value) else "")
    )
    return "" if first is None else str(first).strip().encode("ascii", "replace").decode()


def _number(header: Dataset, keyword: str) -> float:
    """The value; 0.0 where there is none that is a number."""
    try:
        number = float(_text(header, keyword) or 0.0)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0


def _kernel(header: Dataset) -> Flag | None:
    name = _text(header, "ConvolutionKernel")
    found = sharpness(name)
    if found is Sharpness.SHARP:
        return Flag(
            "sharp-kernel", f"Sharp kernel {name}: noise and edges may be read as opacity or consolidation."
        )
    if found is Sharpness.UNKNOWN:
        named = f"Kernel {name} is not known" if name else "The kernel is not stated"
        return Flag("unknown-kernel", f"{named}: if it is a sharp one, noise may be read as opacity.")
    return None


def _contrast(header: Dataset) -> Flag | None:
    agent = _text(header, "ContrastBolusAgent")
    if agent.upper() in NO_CONTRAST and _number(header, "ContrastBolusVolume") <= 0:
        return None
    return Flag("contrast", "Contrast medium was given: vessels may be read as consolidation, mean HU is raised.")


def _lossy(volume: CtVolume) -> Flag | None:
    """Of any slice: some may come from the scanner, and others from an archive that keeps them so."""
    if all(_text(header, "LossyImageCompression") != "01" for header in volume.headers):
        return None
    return Flag("lossy", "The images were compressed with loss: HU and fine opacities may be changed.")


def _derived(header: Dataset) -> Flag | None:
    if _text(header, "ImageType").upper() != "DERIVED":
        return None
    return Flag(
        "derived", "The series is marked DERIVED: it was changed after reconstruction, HU may not be original."
    )


def _spacing(volume: CtVolume) -> Flag | None:
    spacing, thickness = volume.spacing_mm[0], _number(volume.headers[0], "SliceThickness")
    widest = max(spacing, thickness)
    if widest <= MAX_SPACING_MM + 0.01:
        return None
    return Flag("thick-slices", f"Slices are {widest:.1f} mm thick or apart: small lesions are missed or blurred.")


def _gaps(volume: CtVolume) -> Flag | None:
    spacing, thickness = volume.spacing_mm[0], _number(volume.headers[0], "SliceThickness")
    if not 0 < thickness < GAP_SHARE * spacing:
        return None
    text = f"Slices of {thickness:.1f} mm lie {spacing:.1f} mm apart: lung between them was not scanned."
    return Flag("not-contiguous", f"{text} Volumes are estimates.")


def _oblique(volume: CtVolume) -> Flag | None:
    step = volume.affine[:3, 2]
    angle = float(np.degrees(np.arccos(np.clip(abs(step[2]) / np.linalg.norm(step), 0, 1))))
    if angle <= OBLIQUE_DEG:
        return None
    return Flag("oblique", f"Slices are {angle:.0f} degrees from axial; the networks know axial slices.")


def _ends(volume: CtVolume, lungs: LungMask) -> list[Flag]:
    """Lung in the first or last slice; as cut off where it is more than a tip."""
    areas = np.count_nonzero(lungs.labels, axis=(1, 2)) * volume.spacing_mm[1] * volume.spacing_mm[2]
    found = []
    for end, area in (("lowest", areas[0]), ("highest", areas[-1])):
        if area > CUT_SHARE * areas.max() > 0:
            text = f"The lungs are cut off at the {end} slice: volumes and scores are those of a part of the lungs."
            found.append(Flag(f"truncated-{end}", text))
        elif area > TOUCH_MM2:
            text = f"Lung touches the {end} slice: a small part of the lungs may not have been scanned."
            found.append(Flag(f"lung-in-{end}-slice", text))
    return found


def _image_edge(volume: CtVolume, lungs: LungMask) -> Flag | None:
    """Lung that reaches the edge of the images, or what was reconstructed in them: a circle, often."""
    edge = np.ones(volume.hu.shape[1:], dtype=bool)
    edge[1:-1, 1:-1] = False
    edge |= ndimage.binary_dilation(find_padding(volume.hu))
    touching = sum(int(np.count_nonzero(plane[edge])) for plane in lungs.labels)
    if touching * volume.spacing_mm[0] * min(volume.spacing_mm[1:]) <= EDGE_MM2:
        return None
    return Flag("field-of-view", "Lung touches the edge of the images: a part lies outside the field of view.")


def _small(scores: Scores) -> Flag | None:
    volume_ml = scores.regions[Region.BOTH].lung_volume_ml
    if volume_ml >= SMALL_LUNGS_ML:
        return None
    text = f"Only {volume_ml:.0f} ml of lung were found: a child, deep expiration, or dense lung that was left out."
    return Flag("small-lungs", text)


def _not_found(scores: Scores) -> Flag | None:
    """A side without scores. What is opaque there is outside the mask, so it is missing from the score of both."""
    missing = [side for side in (Region.RIGHT, Region.LEFT) if scores.regions[side].severity_score is None]
    if not missing:
        return None
    found_ml = sum(scores.regions[side].lung_volume_ml for side in missing)
    text = f"The {' and '.join(missing)} lung was not found ({found_ml:.0f} ml) and not measured: unless it was"
    return Flag(
        "lung-not-found", f"{text} removed, it may be all opaque, and the score of both lungs is then too low."
    )


def _sides(scores: Scores) -> Flag | None:
    right, left = (scores.regions[region].lung_volume_ml for region in (Region.RIGHT, Region.LEFT))
    if min(right, left) >= SIDE_RATIO * max(right, left) or _not_found(scores):
        return None
    side = "right" if right < left else "left"
    text = f"The {side} lung is much smaller (right {right:.0f} ml, left {left:.0f} ml):"
    return Flag("side-mismatch", f"{text} dense lung or effusion may have been left out, and scores be too low.")


def _dense_rest(scores: Scores) -> Flag | None:
    """A lung that the networks left without outline though it is not aerated: all of it may be opaque."""
    means = {side: _rest_mean_hu(scores.regions[side]) for side in (Region.RIGHT, Region.LEFT)}
    dense = [f"{side} {mean:.0f} HU" for side, mean in means.items() if mean is not None and mean > DENSE_HU]
    if not dense:
        return None
    text = f"Lung that is not outlined is dense (mean: {', '.join(dense)}): it may be opaque, fluid or no lung,"
    return Flag("dense-lung", f"{text} and scores may be far too low.")


def _rest_mean_hu(scores: RegionScores) -> float | None:
    """Mean HU of a lung without its opacity; None where that is little, or the lung was not measured."""
    rest_ml = scores.lung_volume_ml - scores.infection_volume_ml
    if scores.severity_score is None or scores.lung_mean_hu is None:
        return None
    if rest_ml < REST_SHARE * scores.lung_volume_ml:
        return None
    opaque = (scores.infection_mean_hu or 0.0) * scores.infection_volume_ml
    return (scores.lung_mean_hu * scores.lung_volume_ml - opaque) / rest_ml


def _doubtful(scores: Scores, healthy: Healthy | None) -> Flag | None:
    """So little opacity that it may be what the model finds where there is none: domes, vessels, dependent lung.

    Not where a lung is missing, or dense without being outlined: that one may be all opaque.
    """
    severity = scores.regions[Region.BOTH].severity_score
    if not severity or healthy is None or severity > DOUBTFUL_TIMES * healthy.fraction:
        return None
    if _not_found(scores) or _dense_rest(scores):
        return None
    text = f"Only {percent(severity, 2)} of opacity; in {healthy.where} this model finds"
    return Flag("doubtful-opacity", f"{text} {percent(healthy.fraction, 2)}: what is outlined may be none.")


def _raised_density(volume: CtVolume, lungs: LungMask, lesions: LesionMasks, scores: Scores) -> Flag | None:
    """Diffuse ground glass that the networks do not see leaves the rest of the lung denser than it should be."""
    severity = scores.regions[Region.BOTH].severity_score
    if severity is None or severity >= LOW_SEVERITY or _dense_rest(scores):
        return None
    total, voxels = 0.0, 0
    for hu, lung, infected in zip(volume.hu, lungs.labels, lesions.infection, strict=True):
        clear = hu[(lung > 0) & ~infected]
        total, voxels = total + float(clear.sum(dtype=np.int64)), voxels + clear.size
    mean = total / voxels if voxels else 0.0
    if not voxels or mean <= RAISED_HU:
        return None
    text = f"Mean density of lung without opacity is raised ({mean:.0f} HU) though little opacity was found:"
    return Flag("raised-density", f"{text} diffuse ground glass may be missed, or it is expiration.")


def _thin_consolidation(volume: CtVolume, lesions: LesionMasks) -> Flag | None:
    """Crazy paving and vessels: consolidation of which little is left by an opening with a disc of `THIN_MM`."""
    voxels = compact = 0
    for plane in lesions.consolidation:
        voxels += int(plane.sum())
        compact += _compact(plane, volume.spacing_mm[1:])
    if voxels * volume.voxel_volume_ml < MIN_CONSOLIDATION_ML or compact >= THIN_SHARE * voxels:
        return None
    text = f"Only {100 * compact / voxels:.0f} % of the consolidation is compact: septa of crazy paving or vessels"
    return Flag("thin-consolidation", f"{text} may have been read as consolidation.")


def _compact(plane: MaskArray, spacing_mm: tuple[float, float]) -> int:
    """Pixels of a 2D mask that an opening leaves."""
    boxes = ndimage.find_objects(plane.astype(np.uint8))
    if not boxes:
        return 0
    mask = np.pad(plane[boxes[0]], 1)
    core = ndimage.distance_transform_edt(mask, sampling=spacing_mm) > THIN_MM
    near = ndimage.distance_transform_edt(~core, sampling=spacing_mm) <= THIN_MM
    return int((mask & near).sum()) if core.any() else 0


def _effusion(volume: CtVolume, lungs: LungMask) -> Flag | None:
    """Fluid density on the side that lies down, in one piece that is wider than vessels and septa."""
    steps = [max(1, int(wanted / length)) for wanted, length in zip(FLUID_GRID_MM, volume.spacing_mm, strict=True)]
    inside = lungs.labels[:: steps[0], :: steps[1], :: steps[2]] > 0
    labels, count = ndimage.label(_fluid(volume, inside, steps))
    if count == 0:
        return None
    sizes_ml = np.bincount(labels.ravel()) * volume.voxel_volume_ml * float(np.prod(steps))
    height = _height_above_table(_text(volume.headers[0], "PatientPosition"), inside)
    for label in np.flatnonzero(sizes_ml[1:] >= MIN_FLUID_ML) + 1:
        if float(height[labels == label].mean()) <= DEPENDENT_SHARE:
            text = f"{sizes_ml[label]:.0f} ml in the dependent part of the lungs have the density of fluid:"
            return Flag("effusion", f"{text} pleural effusion may be counted as lung and as consolidation.")
    return None


def _fluid(volume: CtVolume, inside: MaskArray, steps: Sequence[int]) -> MaskArray:
    """Every so many voxels, whether there is fluid in the lung mask; thin structures taken out."""
    sigma = [SMOOTH_MM / length for length in volume.spacing_mm[1:]]
    fluid = np.zeros_like(inside)
    for index, lung in enumerate(inside):
        if lung.any():
            smooth = ndimage.gaussian_filter(volume.hu[index * steps[0]].astype(np.float32), sigma)
            hu = smooth[:: steps[1], :: steps[2]]
            fluid[index] = lung & (hu >= FLUID_HU[0]) & (hu <= FLUID_HU[1])
    return np.asarray(ndimage.binary_opening(fluid, np.ones((1, 3, 3))))


def _height_above_table(position: str, lung: MaskArray) -> npt.NDArray[np.float64]:
    """How high voxels lie within the extent of the lungs, 0 to 1, by Patient Position (PS3.3 C.7.3.1.1.2)."""
    axis, lies_low_at_end = TABLE_SIDES.get(position[2:], TABLE_SIDES["S"])
    extent = np.flatnonzero(lung.any(axis=tuple({0, 1, 2} - {axis})))
    height = (np.arange(lung.shape[axis]) - extent[0]) / max(1, extent[-1] - extent[0])
    shape = [1, 1, 1]
    shape[axis] = -1
    return np.broadcast_to((1 - height if lies_low_at_end else height).reshape(shape), lung.shape)
