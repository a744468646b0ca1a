"""The authors' published checkpoints (TensorFlow V2, of a TensorFlow 1 graph) → a model package.

Layout of those graphs: skip joined as [skip, up], ReLU, batch norm without scale and shift, stride-2 convolutions
padded at the bottom and right. `pipeline.unet` runs exactly that. Kernels are (row, column, in, out), of transposed
convolutions (row, column, out, in); both turn into torch's order by the same permutation.

The files carry no licence: a package made of them is for the own use of who made it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError

from pipeline import __version__, package
from pipeline.package import Licence, Manifest, ModelPackage, Network, Prior, Thresholds, Training
from pipeline.preprocess import Preprocessing
from pipeline.unet import LEVELS, Architecture, UNet
from training.errors import PublishedError
from training.export import INTENDED_USE

FIRST_KERNEL = "Variable"
INDEX = ".index"
LICENCE = Licence(
    name="none",
    url="https://doi.org/10.1109/JBHI.2020.3030224",
    notice="The authors published these weights without a licence. For your own research; do not share them.",
)


@dataclass(frozen=True)
class Checkpoints:
    """The prefixes (paths without .index) of the two networks."""

    unet1: Path
    unet2: Path

    @property
    def prior(self) -> Prior:
        """φ₂ with b₂ and k₂ as the folder of UNet-2 names them (b_9.0_k_0.5), else the paper's."""
        named = re.fullmatch(r"b_([0-9.]+)_k_([0-9.]+)", self.unet2.parent.name)
        try:
            return Prior(b2=float(named[1]), k2=float(named[2])) if named else Prior()
        except ValueError as error:
            raise PublishedError(f"{self.unet2.parent.name} does not name b2 and k2") from error


def find(checkpoint: Path, unet2: Path | None = None) -> Checkpoints:
    """The two checkpoints of a folder that holds unet1/ and unet2/, or of UNet-1's prefix and `unet2`.

    Beside weights/unet1/199, weights/unet2/…/49 is found without being named. Raises PublishedError.
    """
    if checkpoint.is_dir():
        first = _only(checkpoint / "unet1") if (checkpoint / "unet1").is_dir() else _only(checkpoint)
    else:
        first = _prefix(checkpoint)
    beside = [folder / "unet2" for folder in (checkpoint, *first.parents[:2]) if (folder / "unet2").is_dir()]
    if unet2 is not None:
        return Checkpoints(first, _only(unet2) if unet2.is_dir() else _prefix(unet2))
    if not beside:
        raise PublishedError(
            f"{first} is the checkpoint of one network and a package needs two: give that of UNet-2 with --unet2, "
            "or the folder that holds unet1/ and unet2/"
        )
    return Checkpoints(first, _only(beside[0]))


def _prefix(path: Path) -> Path:
    prefix = Path(re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", str(path)))
    if not Path(f"{prefix}{INDEX}").is_file():
        raise PublishedError(
            f"there is no {prefix}{INDEX}: name a TensorFlow V2 checkpoint by its prefix, the path without {INDEX}"
        )
    return prefix


def _only(folder: Path) -> Path:
    found = sorted(folder.rglob(f"*{INDEX}"))
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found) or "none"
        raise PublishedError(
            f"{folder} must hold one checkpoint (*{INDEX}); it holds {names}. Name one by its prefix"
        )
    return _prefix(found[0])


def names() -> dict[str, str]:
    """Parameter of `UNet` → variable of the published graph."""
    made = {"bottom.conv.weight": _variable(16), "head.weight": _variable(44), "head.bias": _variable(45)}
    norms = {"bottom": "down1_bn4"}
    for level in range(LEVELS):
        step = LEVELS - 1 - level
        made[f"down.{level}.keep.conv.weight"] = _variable(4 * level)
        made[f"down.{level}.halve.conv.weight"] = _variable(4 * level + 1)
        parts = ("enlarge.weight", "enlarge.bias", "first.conv.weight", "second.conv.weight")
        made |= {f"up.{step}.{part}": _variable(20 + 6 * step + offset) for offset, part in enumerate(parts)}
        norms |= {f"down.{level}.keep": f"down1_bn{level}", f"down.{level}.halve": f"down2_bn{level}"}
        norms |= {f"up.{step}.first": f"up1_bn{level}", f"up.{step}.second": f"up2_bn{level}"}
    for ours, theirs in norms.items():
        made[f"{ours}.norm.running_mean"] = f"{theirs}/bnn/moving_mean"
        made[f"{ours}.norm.running_var"] = f"{theirs}/bnn/moving_variance"
    return made


def _variable(number: int) -> str:
    return f"Variable_{number}" if number else FIRST_KERNEL


def variables(prefix: Path) -> dict[str, npt.NDArray[Any]]:
    """The variables of a checkpoint that the network needs, checksums verified.

    Raises PublishedError: TensorFlow is not installed, the files are damaged or incomplete, or of another network.
    """
    tensorflow = _tensorflow()
    needed = set(names().values())
    try:
        reader = tensorflow.train.load_checkpoint(str(prefix))
        held = reader.get_variable_to_shape_map()
        if missing := sorted(needed - held.keys()):
            told = _shown([f"{name} is missing" for name in missing])
            raise PublishedError(f"{prefix} is not a checkpoint of the published UNet: {told}")
        return {name: np.asarray(reader.get_tensor(name)) for name in sorted(needed)}
    except (tensorflow.errors.OpError, RuntimeError, IndexError, ValueError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise PublishedError(f"{prefix} cannot be read as a TensorFlow V2 checkpoint: {reason}") from error


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # it speaks of its build on standard error
    try:
        import tensorflow  # seconds to load, and an extra
    except ImportError as error:
        raise PublishedError(
            "reading TensorFlow checkpoints needs TensorFlow: pip install 'dicomnode[published]'"
        ) from error
    return tensorflow


def _shown(faults: Sequence[str]) -> str:
    return "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")


def network(held: Mapping[str, npt.NDArray[Any]], prefix: Path) -> UNet:
    """The network with the variables of a checkpoint. Raises PublishedError where one does not fit."""
    kernel = held[FIRST_KERNEL]
    try:
        arch = Architecture.model_validate({"features": kernel.shape[3], "slices": kernel.shape[2]})
    except (ValidationError, IndexError) as error:
        raise PublishedError(f"{prefix}: a first kernel of shape {kernel.shape} is of another network") from error
    net = UNet(arch)
    state = net.state_dict()
    faults = []
    for ours, theirs in sorted(names().items()):
        value, wanted = held[theirs], tuple(state[ours].shape)
        turned = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
        if turned.shape != wanted:
            faults.append(f"{theirs} has the shape {value.shape}, which gives {turned.shape}, not {wanted}")
        elif value.dtype != np.float32 or not np.isfinite(value).all():
            faults.append(f"{theirs} must hold finite float32 values")
        elif ours.endswith("running_var") and (value < 0).any():
            faults.append(f"{theirs} holds negative variances")
        else:
            state[ours] = torch.from_numpy(np.ascontiguousarray(turned))
    if faults:
        raise PublishedError(f"{prefix} does not fit the published UNet: {_shown(faults)}")
    net.load_state_dict(state)
    return net.eval()


def convert(found: Checkpoints, out: Path, preprocessing: Preprocessing, name: str, version: str) -> ModelPackage:
    """Write the package, whole or not at all; weights stay float32. Raises PublishedError, ModelError."""
    weights, networks = {}, []
    for which, prefix in (("unet1", found.unet1), ("unet2", found.unet2)):
        net = network(variables(prefix), prefix)
        data, sha256 = package.encode(net, "float32")
        weights[f"{which}.safetensors"] = data
        entry = {"architecture": net.arch, "file": f"{which}.safetensors", "sha256": sha256, "precision": "float32"}
        networks.append(Network.model_validate(entry))
    try:
        manifest = Manifest(
            name=name,
            version=version,
            intended_use=INTENDED_USE,
            unet1=networks[0],
            unet2=networks[1],
            preprocessing=preprocessing,
            thresholds=Thresholds(),
            prior=found.prior,
            training=Training(
                data=("as the authors describe in doi 10.1109/JBHI.2020.3030224",),
                data_sha256=_digest(found),  # of the checkpoints; their data are not at hand
                recipes={"published": [found.unet1.name, f"{found.unet2.parent.name}/{found.unet2.name}"]},
                seeds={},
            ),
            licence=LICENCE,
            metrics={},
            software={
                "dicomnode": __version__,
                "torch": torch.__version__,
                "tensorflow": str(_tensorflow().__version__),
                "numpy": metadata.version("numpy"),
                "python": platform.python_version(),
            },
        )
    except ValidationError as error:
        raise PublishedError(f"this does not make a manifest: {error}") from error
    return package.write(out, manifest, weights, {})


def _digest(found: Checkpoints) -> str:
    """SHA-256 (hex) over the files of both checkpoints."""
    total = hashlib.sha256()
    for prefix in (found.unet1, found.unet2):
        for path in sorted(prefix.parent.glob(f"{prefix.name}.*")):
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
