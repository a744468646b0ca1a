"""The infected region of cases that nobody has contoured: UNet-1's hard mask in the place of the label (Table I).

Kept on disk beside the run and mapped from there, so that they are made once and cost no memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from pipeline import preprocess, segment
from pipeline.preprocess import Preprocessing
from pipeline.segment import Room
from pipeline.unet import UNet
from training import prepared
from training.dataset import Example

HALF = 0.5


@dataclass(frozen=True)
class Regions:
    """UNet-1, the SHA-256 of its weights, and the folder that its masks are kept in."""

    net: UNet
    sha256: str
    folder: Path
    room: Room

    def of(self, examples: Iterable[Example], settings: Preprocessing) -> list[Example]:
        """The examples with what UNet-1 finds as their label."""
        return [self._one(example, settings) for example in examples]

    def _one(self, example: Example, settings: Preprocessing) -> Example:
        path = self.folder / f"{example.name}.safetensors"
        mark = hashlib.sha256(
            f"{self.sha256} {settings.model_dump_json()} {_content(example)}".encode()
        ).hexdigest()
        if prepared.notes_of(path).get("mark") != mark:
            prepared.write_arrays(path, {"region": self._found(example, settings)}, {"mark": mark})
        return replace(example, label=load_file(path)["region"])

    def _found(self, example: Example, settings: Preprocessing) -> torch.Tensor:
        """uint8 [slice, row, column]: 1 where the probability exceeds ½ inside the lungs."""
        count, width = len(example), self.net.arch.slices
        stacks = preprocess.neighbours(range(count), count, width)
        if count == 1:
            stacks = torch.zeros((1, width), dtype=torch.int64)  # a single slice is repeated
        seen = example.values * example.lung
        probability = segment.predict(self.net, seen, stacks, settings.slice_order, self.room)
        return ((probability > HALF) & example.lung).to(torch.uint8)


def _content(example: Example) -> str:
    values, lung = example.values.contiguous().numpy(), example.lung.contiguous().numpy()
    return hashlib.sha256(values.tobytes() + lung.tobytes()).hexdigest()
