"""`dicomnode-train import-published`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.preprocess import Preprocessing
from training import published as publishing
from training.cli_options import Json, console, identity_of, say_json

SliceOrder = Literal["caudal_to_cranial", "cranial_to_caudal"]


def import_published(
    checkpoint: Annotated[
        Path, typer.Argument(help="Folder with unet1/ and unet2/, or the prefix of UNet-1's checkpoint.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new package.")],
    unet2: Annotated[Path | None, typer.Option(help="UNet-2's checkpoint where it does not lie beside.")] = None,
    name: Annotated[str, typer.Option(help="Name of the package.")] = "published",
    version: Annotated[str, typer.Option(help="Version of the package.")] = "1",
    slice_order: Annotated[
        SliceOrder, typer.Option(help="Direction of the slices in the stacks that the weights were trained on.")
    ] = "caudal_to_cranial",
    json: Json = False,
) -> None:
    """Make a package of the authors' published TensorFlow checkpoints (extra: dicomnode[published]).

    JSON: name, version, sha256, folder.

    Example: dicomnode-train import-published weights --out published
    """
    found = publishing.find(checkpoint, unet2)
    made = publishing.convert(found, out, Preprocessing(slice_order=slice_order), name, version)
    if json:
        say_json(identity_of(made, out))
        return
    console.print(f"{made.identity.name} {made.identity.version} is in {out}, SHA-256 {made.identity.digest}")
    console.print(made.manifest.licence.notice)
