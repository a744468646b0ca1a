"""Lungs of a CT volume, right and left: by lungmask where a weights file is given, else by the built-in method."""

from __future__ import annotations

import hashlib
import logging
import pickle
from pathlib import Path

import numpy as np
import torch
from lungmask import LMInferer

from pipeline import device as devices
from pipeline.arrays import CtVolume, LabelArray, LungMask
from pipeline.errors import ModelError, SeriesRejected
from pipeline.lung_builtin import METHOD, NETWORK_METHOD, builtin
from pipeline.lung_network import LungNetwork
from pipeline.types import Lung, PipelineSettings

__all__ = ["builtin", "check_weights", "segment"]

R231_CLASSES = 3
MIN_LUNGS_ML = PipelineSettings.min_lungs_ml
BATCH_SLICES = 20

# What torch.load and load_state_dict raise for a file that is not this state dict.
NOT_A_STATE_DICT = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    pickle.UnpicklingError,
)

log = logging.getLogger(__name__)


def segment(
    volume: CtVolume,
    weights: Path | None,
    device: str,
    network: LungNetwork | None = None,
    least_ml: float = MIN_LUNGS_ML,
) -> LungMask:
    """Right and left lung, without trachea and main bronchi.

    Args:
        volume: in canonical order.
        weights: state dict of lungmask's R231; None is the built-in method. Never a download, never a fallback.
        device: "auto", "cpu" or "cuda:N"; for `weights`.
        network: the model package's, which the built-in method asks where dense lung is; None: it goes by shape.
        least_ml: both lungs together.

    Raises:
        SeriesRejected: no lungs, or so little that the volume cannot show a chest.
        ModelError: the weights file is missing, damaged or of another network.
    """
    if weights is None:
        finds = network.finds if network is not None else None
        mask = LungMask(builtin(volume.hu, volume.spacing_mm, finds), METHOD if finds is None else NETWORK_METHOD)
    else:
        mask = LungMask(
            _by_network(volume, weights, devices.choose(device)), f"lungmask R231 {_short_hash(weights)}"
        )
    found_ml = np.count_nonzero(mask.labels) * volume.voxel_volume_ml
    if found_ml < least_ml:
        raise SeriesRejected(
            f"no lungs found: {found_ml:.0f} ml of aerated lung, at least {least_ml:.0f} are needed"
        )
    return mask


def check_weights(weights: Path) -> None:
    """Raise ModelError unless the file holds weights that `segment` can use."""
    _load(weights)


def _short_hash(weights: Path) -> str:
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _by_network(volume: CtVolume, weights: Path, device: torch.device) -> LabelArray:
    """Labels by R231: 1 right and 2 left as in `Lung`; it wants LPS order, which the canonical one is."""
    inferer = _load(weights)
    try:
        return _apply(inferer, volume, device)
    except (RuntimeError, MemoryError) as error:
        if device.type == "cpu" or not devices.out_of_memory(error):
            raise
        log.warning("no memory left for the lungs on %s; they are found on the CPU", device)
    return _apply(inferer, volume, torch.device("cpu"))


def _apply(inferer: LMInferer, volume: CtVolume, device: torch.device) -> LabelArray:
    inferer.device = device  # the constructor knows "the first GPU" only
    inferer.model.to(device)
    labels = np.asarray(inferer.apply(volume.hu), dtype=np.uint8)
    labels[labels > max(Lung)] = Lung.BACKGROUND
    return labels


def _load(weights: Path) -> LMInferer:
    """The network with these weights, on the CPU.

    Its logger writes to stdout, where `--json` output goes: it is turned to the usual loggers.
    """
    logger = logging.getLogger("lungmask")
    logger.handlers.clear()
    logger.propagate = True
    try:
        # Read once before lungmask does: it leaves to torch's default whether code in the file may run.
        torch.load(weights, map_location="cpu", weights_only=True)
        inferer = LMInferer(modelpath=str(weights), force_cpu=True, batch_size=BATCH_SLICES, tqdm_disable=True)
    except NOT_A_STATE_DICT as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"{weights}: not usable as lungmask R231 weights: {reason}") from error
    classes = inferer.model.last.out_channels
    if classes != R231_CLASSES:
        raise ModelError(f"{weights}: a network with {classes} classes; R231 has background, right and left lung")
    return inferer
