"""Model packages: what is written loads again, and everything else is refused with a sentence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydicom.dataset import Dataset
from safetensors.torch import load_file, save

from pipeline import package, phantom, segment
from pipeline.arrays import CtVolume
from pipeline.errors import ModelError
from pipeline.phantom import PhantomSpec
from pipeline.types import PipelineSettings
from tests.fixtures.packages import random_net, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny")


def test_a_package_comes_back(folder: Path) -> None:
    loaded = package.load(folder)
    x = torch.rand(1, 7, 32, 32)
    wanted = random_net(1).half().float()
    torch.testing.assert_close(loaded.unet1.probability(x), wanted.probability(x))
    assert not loaded.unet1.training
    assert all(p.dtype == torch.float32 for p in loaded.unet1.parameters())
    assert (folder / "MODEL_CARD.md").read_text() == "# Tiny\n"


def test_the_identity_covers_manifest_and_weights(folder: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256()
    for name in ("manifest.json", "unet1.safetensors", "unet2.safetensors"):
        digest.update((folder / name).read_bytes())
    found = package.load(folder).identity
    assert (found.name, found.version, found.digest) == ("tiny", "1.0", digest.hexdigest())
    assert package.load(write(tmp_path / "other", seed=5)).identity != found


def change(folder: Path, edit: Callable[[dict[str, object]], None]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def replace_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Edit the tensors and make the hash right again, so that only the content is wrong."""
    path = folder / "unet2.safetensors"
    state = load_file(path)
    edit(state)
    data = save(state)
    path.write_bytes(data)
    change(folder, lambda m: m["unet2"].update(sha256=hashlib.sha256(data).hexdigest()))  # type: ignore[attr-defined]


MANIFEST_FAULTS: dict[str, tuple[Callable[[dict[str, object]], object], str]] = {
    "unknown field": (lambda m: m.update(colour="red"), "colour"),
    "unknown nested field": (lambda m: m["preprocessing"].update(window=3), "window"),
    "other format": (lambda m: m.update(format="dicomnode-model-9"), "format"),
    "missing field": (lambda m: m.pop("licence"), "licence"),
    "path as name": (lambda m: m.update(name="../evil"), "name"),
    "weights elsewhere": (lambda m: m["unet1"].update(file="../unet1.safetensors"), "unet1.file"),
    "weights twice": (lambda m: m["unet2"].update(m["unet1"]), "twice"),
    "threshold of 1": (lambda m: m.update(thresholds={"infection": 1.0}), "thresholds.infection"),
    "metric is no number": (lambda m: m.update(metrics={"dice": float("nan")}), "metrics"),
    "other width": (lambda m: m["unet1"]["architecture"].update(features=8), "shape"),
    "other skip": (lambda m: m["unet1"]["architecture"].update(skip="add"), "shape"),
    "affine norm": (lambda m: m["unet1"]["architecture"].update(affine=True), "missing"),
}


@pytest.mark.parametrize("fault", MANIFEST_FAULTS)
def test_a_manifest_that_does_not_match_is_refused(folder: Path, fault: str) -> None:
    edit, word = MANIFEST_FAULTS[fault]
    change(folder, edit)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=word):
        package.load(folder)


WEIGHT_FAULTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "tensor missing": (lambda s: s.pop("head.bias"), "head.bias is missing"),
    "tensor too many": (lambda s: s.update(extra=torch.zeros(1).half()), "extra is unknown"),
    "other shape": (lambda s: s.update({"head.bias": torch.zeros(2).half()}), "shape"),
    "other type": (lambda s: s.update({"head.bias": torch.zeros(1)}), "float32"),
    "not a number": (lambda s: s.update({"head.bias": torch.full((1,), torch.nan).half()}), "not finite"),
    "infinite": (lambda s: s.update({"head.bias": torch.full((1,), torch.inf).half()}), "not finite"),
}


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_weights_that_do_not_match_are_refused(folder: Path, fault: str) -> None:
    edit, word = WEIGHT_FAULTS[fault]
    replace_weights(folder, edit)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=word):
        package.load(folder)


def test_a_changed_byte_is_noticed(folder: Path) -> None:
    path = folder / "unet1.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="SHA-256 differs"):
        package.load(folder)


def test_a_pickle_is_not_opened(folder: Path) -> None:
    path = folder / "unet1.safetensors"
    torch.save(random_net(1).state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    change(folder, lambda m: m["unet1"].update(sha256=digest))  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="not a safetensors file"):
        package.load(folder)


@pytest.mark.parametrize("name", ["manifest.json", "unet1.safetensors", "unet2.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        package.load(folder)


def test_a_manifest_that_is_no_json(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"\xff{")
    with pytest.raises(ModelError, match="not a valid manifest"):
        package.load(folder)


def test_values_beyond_float16_are_not_written() -> None:
    net = random_net(1)
    net.head.weight.data.fill_(1e6)
    with pytest.raises(ModelError, match=r"head\.weight"):
        package.encode(net)


def test_writing_over_a_package_is_refused(folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(ModelError, match="there already"):
        write(folder, seed=9)
    assert (folder / "manifest.json").read_bytes() == before


def test_install_lists_and_refuses_another_of_the_same_name(folder: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    first = package.install(folder, models)
    assert first.folder == models / "tiny-1.0"
    assert package.install(folder, models).identity == first.identity
    with pytest.raises(ModelError, match="another package"):
        package.install(write(tmp_path / "other", seed=9), models)
    (models / "broken").mkdir()
    listed = dict(package.installed(models))
    assert isinstance(listed[models / "broken"], ModelError)
    found = listed[models / "tiny-1.0"]
    assert isinstance(found, package.ModelPackage)
    assert found.identity == first.identity
    assert sorted(path.name for path in models.iterdir()) == ["broken", "tiny-1.0"]


def test_a_broken_package_is_not_installed(folder: Path, tmp_path: Path) -> None:
    (folder / "unet2.safetensors").write_bytes(b"")
    with pytest.raises(ModelError):
        package.install(folder, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_the_shipped_package_loads_and_says_what_it_is() -> None:
    shipped = package.load(None)
    assert shipped.manifest.licence.name == "CC BY-NC-SA 4.0"
    assert "not for diagnostic use" in shipped.manifest.intended_use
    card = (shipped.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "non-commercial" in card
    assert "creativecommons.org" in (shipped.folder / "LICENSE-MODEL").read_text(encoding="utf-8")
    assert shipped.lungs is not None
    assert all(path.stat().st_size < 3e6 for path in shipped.folder.iterdir())  # three networks and their papers


def test_the_shipped_package_finds_drawn_lesions_and_leaves_healthy_lungs_alone() -> None:
    ill = PhantomSpec(slices=20, slice_spacing_mm=14.0)
    for spec, healthy in ((ill, False), (replace(ill, lesions=()), True)):
        made = phantom.make(spec, seed=11)
        volume = CtVolume(made.hu, made.affine, tuple(Dataset() for _ in made.hu))
        found = segment.segment(volume, made.lungs, package.load(None), PipelineSettings(device="cpu"))
        lung = made.lungs.both.sum()
        assert abs(found.infection.sum() - made.lesions.infection.sum()) < 0.02 * lung
        assert abs(found.consolidation.sum() - made.lesions.consolidation.sum()) < 0.01 * lung
        if not healthy:
            overlap = (found.infection & made.lesions.infection).sum()
            assert 2 * overlap > 0.7 * (found.infection.sum() + made.lesions.infection.sum())
