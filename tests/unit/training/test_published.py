"""Published checkpoints become packages: the reference probabilities, and every wrong file told by name."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pipeline import package
from pipeline.errors import ModelError
from pipeline.preprocess import Preprocessing
from tests.fixtures import published as made
from training import cli, published
from training.errors import PublishedError
from training.published import Checkpoints


@pytest.fixture(scope="module")
def small() -> dict[str, np.ndarray]:
    """Variables of a narrow network, with what else a checkpoint of training holds."""
    variables, _ = made.recipe(made.narrow(made.shapes(), 8))
    extra = {"Variable_17": np.zeros((3, 3, 64, 64), np.float32), "beta1_power": np.float32(0.9)}
    return variables | extra | {"Variable/Adam": variables["Variable"]}


@pytest.fixture(scope="module")
def weights(small: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as the authors' is."""
    folder = tmp_path_factory.mktemp("authors") / "weights"
    made.write(folder / "unet1" / "199", small)
    made.write(folder / "unet2" / "b_8.5_k_1.5" / "49", small)
    return folder


def imported(found: Checkpoints, out: Path) -> package.ModelPackage:
    return published.convert(found, out, Preprocessing(), "published", "1")


def test_the_published_graph_is_reproduced_through_checkpoint_and_package(shared: Path, tmp_path: Path) -> None:
    reference = shared / "reference" / "published-unet"
    shapes = json.loads((reference / "variables.json").read_text())
    variables, x = made.recipe(shapes)
    assert {name: shapes[name] for name in published.names().values()} == made.shapes()
    prefix = made.write(tmp_path / "unet1" / "199", variables)
    loaded = imported(Checkpoints(prefix, prefix), tmp_path / "package")
    expected = np.load(reference / "unet1_probability_seed2020.npz")["prob"][..., 0]
    stacks = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
    for net in (loaded.unet1, loaded.unet2):
        with torch.inference_mode():
            np.testing.assert_allclose(net.probability(stacks).numpy(), expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.05
    arch = loaded.unet1.arch
    assert (arch.features, arch.skip, arch.activation, arch.affine) == (32, "concat", "relu", False)


@pytest.mark.parametrize("named", ["", "unet1/199", "unet1/199.index", "unet1/199.data-00000-of-00001", "unet1"])
def test_the_command_finds_both_checkpoints(weights: Path, tmp_path: Path, named: str) -> None:
    out = tmp_path / "package"
    result = CliRunner().invoke(cli.app, ["import-published", str(weights / named), "--out", str(out)])
    assert result.exit_code == 0, result.output
    manifest = package.load(out).manifest
    assert (manifest.prior.family, manifest.prior.b2, manifest.prior.k2) == ("phi2", 8.5, 1.5)
    assert manifest.unet1.precision == "float32"
    assert "do not share" in manifest.licence.notice


def test_an_imported_package_runs_as_the_node_runs_it(weights: Path, tmp_path: Path) -> None:
    from pipeline import phantom, run
    from pipeline.types import PipelineSettings

    imported(published.find(weights), tmp_path / "package")
    spec = phantom.PhantomSpec(slices=16, rows=64, columns=64, slice_spacing_mm=10.0)
    files = phantom.write_series(phantom.make(spec), tmp_path / "ct")
    analysis = run.analyse(files, PipelineSettings(model=tmp_path / "package", device="cpu"))
    assert analysis.model.name == "published"


def test_one_checkpoint_alone_is_not_a_package(small: dict[str, np.ndarray], tmp_path: Path) -> None:
    prefix = made.write(tmp_path / "alone" / "199", small)
    with pytest.raises(PublishedError, match="--unet2"):
        published.find(prefix)
    assert published.find(prefix, prefix) == Checkpoints(prefix, prefix)


def test_a_folder_with_several_asks_which(small: dict[str, np.ndarray], tmp_path: Path) -> None:
    for epoch in ("49", "99"):
        made.write(tmp_path / "unet1" / epoch, small)
    with pytest.raises(PublishedError, match=r"49\.index, 99\.index"):
        published.find(tmp_path)
    with pytest.raises(PublishedError, match="by its prefix"):
        published.find(tmp_path / "unet1" / "7")


def without(variables: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in variables.items() if key != name}


FAULTS: dict[str, tuple[Any, str]] = {
    "partial": (lambda v: without(v, "down2_bn1/bnn/moving_mean"), "down2_bn1/bnn/moving_mean is missing"),
    "another network": (lambda v: {"dense/kernel": np.zeros((3, 4), np.float32)}, "and .* more"),
    "another shape": (lambda v: v | {"Variable_45": np.zeros(2, np.float32)}, r"Variable_45 has the shape \(2,\)"),
    "another width": (lambda v: v | {"Variable": np.zeros((3, 3, 6, 4), np.float32)}, "is of another network"),
    "a flat first kernel": (lambda v: v | {"Variable": np.zeros(3, np.float32)}, "is of another network"),
    "float64": (lambda v: v | {"Variable_45": np.zeros(1, np.float64)}, "finite float32"),
    "not a number": (lambda v: v | {"Variable_45": np.full(1, np.nan, np.float32)}, "finite float32"),
    "a negative variance": (
        lambda v: v | {"up1_bn0/bnn/moving_variance": -v["up1_bn0/bnn/moving_variance"]},
        "negative variances",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_checkpoints_of_something_else_are_refused(
    small: dict[str, np.ndarray], tmp_path: Path, fault: str
) -> None:
    change, words = FAULTS[fault]
    prefix = made.write(tmp_path / "199", change(small))
    with pytest.raises(PublishedError, match=words):
        imported(Checkpoints(prefix, prefix), tmp_path / "package")
    assert not (tmp_path / "package").exists()


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".index", lambda data: data[: len(data) // 2]),
        (".index", lambda data: b""),
        (".index", lambda data: b"not a checkpoint at all" * 40),
        (".data-00000-of-00001", lambda data: data[: len(data) // 2]),
        (".data-00000-of-00001", lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]),
        (".data-00000-of-00001", None),
    ],
)
def test_damaged_files_are_refused(small: dict[str, np.ndarray], tmp_path: Path, suffix: str, damage: Any) -> None:
    prefix = made.write(tmp_path / "199", without(without(small, "Variable_17"), "Variable/Adam"))
    path = Path(f"{prefix}{suffix}")
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(PublishedError, match="cannot be read as a TensorFlow V2 checkpoint"):
        imported(Checkpoints(prefix, prefix), tmp_path / "package")


def test_without_tensorflow_the_command_says_what_to_install(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "tensorflow":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(PublishedError, match=r"dicomnode\[published\]"):
        imported(published.find(weights), tmp_path / "package")


def test_a_package_is_never_overwritten(weights: Path, tmp_path: Path) -> None:
    imported(published.find(weights), tmp_path / "package")
    with pytest.raises(ModelError, match="is there already"):
        imported(published.find(weights), tmp_path / "package")
