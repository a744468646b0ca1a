"""A model package: a folder with `manifest.json` and the weights of both networks as safetensors.

Loading refuses whatever does not match its manifest: a wrong hash, a tensor too many or too few, another shape or
type, a value that is not a number, a field nobody knows. Nothing is ever unpickled. Weights are kept as float16,
or as float32 where they lie beyond its range or were imported, and run as float32.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.preprocess import Preprocessing
from pipeline.types import ModelIdentity
from pipeline.unet import Architecture, UNet

MANIFEST = "manifest.json"
DEMO = "demo"
STORED: Mapping[str, torch.dtype] = {"float16": torch.float16, "float32": torch.float32}
UNUSED = "num_batches_tracked"  # batch norm's counter; inference has no use for it

Slug = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Probability = Annotated[float, Field(gt=0, lt=1)]
Precision = Literal["float16", "float32"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Network(_Strict):
    """One network: its layout, its weights file in the package folder, that file's SHA-256 and precision."""

    architecture: Architecture
    file: Literal["unet1.safetensors", "unet2.safetensors", "lungs.safetensors"]
    sha256: Digest
    precision: Precision = "float16"


class LungFinder(Network):
    """A lung network: it sees one slice at a time, on a grid of its own.

    `mirrored`: its word is the mean of the slice's and of the mirrored slice's; costs twice the time.
    """

    preprocessing: Preprocessing
    mirrored: bool = Field(default=False, exclude_if=operator.not_)  # else earlier versions would refuse it

    @field_validator("architecture")
    @classmethod
    def _one_slice(cls, value: Architecture) -> Architecture:
        if value.slices != 1:
            raise ValueError("a lung network sees one slice at a time")
        return value


class Thresholds(_Strict):
    """From what on a pixel counts: probabilities, ½ in the method, and an area.

    Attributes:
        lungs_if_wide: a lower one, which is enough for lung where it holds over a wide area (`lung_network`); None:
            there is none.
        consolidation_mm2: a piece of consolidation that covers less in every slice stays ground glass (`specks`).

    What is not there is left out of the manifest: earlier versions load a package without it.
    """

    infection: Probability = 0.5
    consolidation: Probability = 0.5
    consolidation_mm2: float = Field(default=0.0, ge=0, le=10_000, exclude_if=operator.not_)
    lungs: Probability = 0.5
    lungs_if_wide: Probability | None = Field(default=None, exclude_if=operator.not_)

    @model_validator(mode="after")
    def _lower_if_wide(self) -> Thresholds:
        if self.lungs_if_wide is not None and self.lungs_if_wide >= self.lungs:
            raise ValueError("lungs_if_wide is to be lower than lungs")
        return self


class Prior(_Strict):
    """The prior UNet-2 was trained with: φ₁ (eq. 12), φ₂ (eq. 13; b₂ and k₂ in normalised units), or the project's
    "split", whose b₂ is each image's own (`training/em.py`)."""

    family: Literal["phi1", "phi2", "split"] = "phi2"
    b1: float = 1.0
    b2: float = 9.0
    k2: float = 0.5


class Licence(_Strict):
    """Under which terms the weights are given."""

    name: str
    url: str
    notice: str


class Training(_Strict):
    """What the weights were trained on and how; `recipes` and `seeds` as the training program wrote them.

    `stories`: for each network its runs, first to last, with recipe, setting, hash of the data and of the code.
    """

    data: tuple[str, ...]
    data_sha256: Digest
    recipes: dict[str, JsonValue]
    seeds: dict[str, int]
    stories: dict[str, list[JsonValue]] = {}


class Manifest(_Strict):
    """`manifest.json`. `metrics` holds measured figures only, by name; `lungs` is None where none was trained."""

    format: Literal["dicomnode-model-1"] = "dicomnode-model-1"
    name: Slug
    version: Slug
    intended_use: str
    unet1: Network
    unet2: Network
    lungs: LungFinder | None = None
    preprocessing: Preprocessing
    thresholds: Thresholds = Thresholds()
    prior: Prior = Prior()
    training: Training
    licence: Licence
    metrics: dict[str, float]
    software: dict[str, str]

    @property
    def networks(self) -> dict[str, Network]:
        """The networks by their names, as in `ModelPackage`."""
        named = {"unet1": self.unet1, "unet2": self.unet2, "lungs": self.lungs}
        return {name: entry for name, entry in named.items() if entry is not None}


@dataclass(frozen=True)
class ModelPackage:
    """A loaded package; the networks are in inference mode, float32, on the CPU."""

    folder: Path
    manifest: Manifest
    identity: ModelIdentity
    unet1: UNet
    unet2: UNet
    lungs: UNet | None = None


def demo_folder() -> Path:
    """The package that comes with the distribution."""
    return Path(str(resources.files("pipeline"))) / "models" / DEMO


def load(folder: Path | None) -> ModelPackage:
    """Read and verify a package; None is the shipped one. Raises ModelError, which says what is wrong."""
    folder = demo_folder() if folder is None else folder
    text = _read(folder / MANIFEST)
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise ModelError(f"{folder / MANIFEST} is not a valid manifest: {faults}") from error
    if any(entry.file != f"{name}.safetensors" for name, entry in manifest.networks.items()):
        raise ModelError(f"{folder / MANIFEST} names the weights of one network twice, or for another")
    digest = hashlib.sha256(text)
    nets = {name: _network(folder, entry, digest) for name, entry in manifest.networks.items()}
    identity = ModelIdentity(manifest.name, manifest.version, digest.hexdigest())
    return ModelPackage(folder, manifest, identity, **nets)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"model package file {path} cannot be read: {error.strerror}") from error


def _network(folder: Path, entry: Network, digest: hashlib._Hash) -> UNet:
    path = folder / entry.file
    data = _read(path)
    digest.update(data)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise ModelError(f"{path} is not the file that the manifest describes (SHA-256 differs); install it again")
    try:
        state = load_tensors(data)
    except SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file: {error}") from error
    net = UNet(entry.architecture)
    _check(path, state, stored_state(net, entry.precision))
    net.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    return net.eval().requires_grad_(False)


def _check(path: Path, state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    faults = [f"{name} is missing" for name in sorted(expected.keys() - state.keys())]
    faults += [f"{name} is unknown" for name in sorted(state.keys() - expected.keys())]
    for name in sorted(expected.keys() & state.keys()):
        value, wanted = state[name], expected[name]
        if value.shape != wanted.shape:
            faults.append(f"{name} has the shape {tuple(value.shape)}, not {tuple(wanted.shape)}")
        elif value.dtype != wanted.dtype:
            faults.append(f"{name} is {value.dtype}, not {wanted.dtype}")
        elif not bool(torch.isfinite(value).all()):
            faults.append(f"{name} holds values that are not finite")
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise ModelError(f"{path} does not fit the architecture in its manifest: {shown}")


def stored_state(net: UNet, precision: Precision = "float16") -> dict[str, Tensor]:
    """The tensors of a network as a package keeps them: contiguous, by name."""
    return {
        name: value.detach().to("cpu", STORED[precision]).contiguous()
        for name, value in net.state_dict().items()
        if not name.endswith(UNUSED)
    }


def precision_for(net: UNet) -> Precision:
    """Half precision, unless a value lies beyond its range: the variances of batch norm have no upper limit."""
    half = stored_state(net, "float16").values()
    return "float16" if all(bool(torch.isfinite(value).all()) for value in half) else "float32"


def encode(net: UNet, precision: Precision = "float16") -> tuple[bytes, str]:
    """Weights as the bytes of a safetensors file, and its SHA-256. Raises ModelError beyond its range."""
    state = stored_state(net, precision)
    _check(Path("weights"), state, state)
    data = save_tensors(state)
    return data, hashlib.sha256(data).hexdigest()


def write(folder: Path, manifest: Manifest, weights: dict[str, bytes], papers: dict[str, str]) -> ModelPackage:
    """Write a new package whole or not at all, then load it. `papers`: other texts, e.g. the model card.

    Raises ModelError when the folder is there already or the result does not load.
    """
    if folder.exists():
        raise ModelError(f"{folder} is there already; remove it or choose another name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".draft-") as temporary:
        draft = Path(temporary) / folder.name
        draft.mkdir()
        text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
        files = {MANIFEST: text.encode(), **weights, **{name: paper.encode() for name, paper in papers.items()}}
        for name, data in files.items():
            _write_durably(draft / name, data)
        load(draft)
        draft.replace(folder)
    return load(folder)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def install(source: Path, models: Path) -> ModelPackage:
    """Verify a package and copy it to `models`/NAME-VERSION, whole or not at all. Installing it twice is no error.

    Raises ModelError when it does not load, or another package lies under that name and version.
    """
    package = load(source)
    target = models / f"{package.identity.name}-{package.identity.version}"
    if target.exists():
        if load(target).identity != package.identity:
            raise ModelError(f"{target} holds another package of this name and version; give yours a new version")
        return load(target)
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, prefix=".draft-") as temporary:
        draft = Path(temporary) / target.name
        shutil.copytree(source, draft, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        draft.replace(target)
    return load(target)


def installed(models: Path) -> list[tuple[Path, ModelPackage | ModelError]]:
    """The shipped package and those below `models`, by folder, each loaded or with what is wrong with it."""
    folders = [demo_folder()]
    if models.is_dir():
        folders += sorted(path for path in models.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [(folder, _attempt(folder)) for folder in folders]


def _attempt(folder: Path) -> ModelPackage | ModelError:
    try:
        return load(folder)
    except ModelError as error:
        return error
