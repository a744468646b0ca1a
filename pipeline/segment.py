"""Infection by UNet-1, consolidation by UNet-2 inside it (method: p₁ > ½ gives m; m·p₂ > ½ gives consolidation)."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import device as devices
from pipeline import preprocess, specks
from pipeline.arrays import CtVolume, LesionMasks, LungMask, MaskArray
from pipeline.errors import ModelError, PipelineError
from pipeline.package import ModelPackage
from pipeline.preprocess import SlicePlan
from pipeline.types import PipelineSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Room:
    """Where a network runs, and how many slices at a time."""

    device: torch.device
    batch: int

    def smaller(self, wanted: int) -> Room | None:
        """What to try after memory ran out: half the batch, then the CPU with the wanted batch, then nothing."""
        if self.batch > 1:
            return Room(self.device, self.batch // 2)
        if self.device.type != "cpu":
            return Room(torch.device("cpu"), wanted)
        return None


@dataclass(frozen=True)
class Probabilities:
    """What the networks say on the network grid, float32 [slice, row, column], 0 outside the lungs.

    Attributes:
        where: how the network's slices lie among the source's.
        infected: p₁ of UNet-1.
        consolidated: p₂ of UNet-2 inside the region that UNet-1 found, 0 elsewhere.
        pixel_mm2: area of a pixel.
    """

    where: SlicePlan
    infected: Tensor
    consolidated: Tensor
    pixel_mm2: float


def segment(volume: CtVolume, lungs: LungMask, package: ModelPackage, settings: PipelineSettings) -> LesionMasks:
    """Lesion masks on the grid of the volume, both inside the lungs. Raises as `probabilities` does."""
    return masks(probabilities(volume, lungs, package, settings), lungs, package)


def probabilities(
    volume: CtVolume, lungs: LungMask, package: ModelPackage, settings: PipelineSettings
) -> Probabilities:
    """Run UNet-1, and UNet-2 where UNet-1 found something.

    Raises ModelError when a network gives values that are not numbers or the device is absent, PipelineError when
    there is no memory for a single slice.
    """
    room = Room(devices.choose(settings.device), settings.batch_slices)
    manifest = package.manifest
    wanted = manifest.preprocessing
    where = preprocess.plan(len(volume.hu), volume.spacing_mm[0], wanted)
    inside = preprocess.labels(lungs.both, where, wanted)
    slices = preprocess.values(volume.hu, where, wanted) * inside
    order = wanted.slice_order

    stacks = preprocess.neighbours(range(where.count), where.count, package.unet1.arch.slices)
    infected = predict(package.unet1, slices, stacks, order, room) * inside
    region = infected > manifest.thresholds.infection
    found = region.any(dim=2).any(dim=1).nonzero()[:, 0].tolist()
    consolidated = torch.zeros_like(infected)
    if found:
        stacks = preprocess.neighbours(found, where.count, package.unet2.arch.slices)
        consolidated[found] = predict(package.unet2, slices, stacks, order, room) * region[found]
    return Probabilities(where, infected, consolidated, wanted.pixel_mm2(volume.hu.shape, volume.spacing_mm))


def masks(found: Probabilities, lungs: LungMask, package: ModelPackage) -> LesionMasks:
    """The package's thresholds on the grid of the volume; consolidation inside infection inside the lungs."""
    limits = package.manifest.thresholds
    infection = binary(found.infected, found.where, lungs.both, limits.infection)
    wide = specks.without(found.consolidated, limits.consolidation, found.pixel_mm2, limits.consolidation_mm2)
    return LesionMasks(
        infection=infection, consolidation=binary(wide, found.where, infection, limits.consolidation)
    )


def binary(probability: Tensor, where: SlicePlan, inside: MaskArray, threshold: float) -> MaskArray:
    """Where the probability, interpolated to the source grid, exceeds the threshold `inside` the mask given."""
    mask = np.empty(inside.shape, dtype=np.bool_)
    for block, planes in preprocess.to_source(probability, where, *inside.shape[1:]):
        np.logical_and((planes > threshold).numpy(), inside[block], out=mask[block])
    return mask


def predict(net: nn.Module, slices: Tensor, stacks: Tensor, order: str, room: Room) -> Tensor:
    """Probabilities float32 [stack, row, column] on the CPU.

    Args:
        slices: [slice, row, column] normalised values, 0 outside the lungs.
        stacks: [stack, width] indices of slices, caudal to cranial (`preprocess.neighbours`).

    When memory runs out the rest is done in a smaller room (`Room.smaller`); what is done stays done.
    """
    made = torch.empty(len(stacks), *slices.shape[1:])
    wanted, now, done = room.batch, room, 0
    while done < len(stacks):
        rows = slice(done, done + now.batch)
        try:
            net.to(now.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            made[rows] = _forward(net, preprocess.gather(slices, stacks[rows], order), now.device)
        except (RuntimeError, MemoryError) as error:
            if not devices.out_of_memory(error):
                raise
            smaller = now.smaller(wanted)
            if smaller is None:
                raise PipelineError("there is not enough memory to run the network on a single slice") from error
            log.warning(
                "no memory left for %d slices on %s: %d on %s", now.batch, now.device, smaller.batch, smaller.device
            )
            now = smaller
        else:
            done += now.batch
    if not bool(torch.isfinite(made).all()):
        raise ModelError("the network gave values that are not numbers; its weights or the device are faulty")
    return made


@torch.inference_mode()
def _forward(net: nn.Module, stacks: Tensor, device: torch.device) -> Tensor:
    stacks = stacks.to(device).contiguous(memory_format=torch.channels_last)
    with devices.autocast(device):
        probability: Tensor = net.probability(stacks)  # type: ignore[operator]
    return probability.cpu()
