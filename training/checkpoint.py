"""What a run folder holds of an unfinished run: whose it is, and its state after the last whole epoch.

Every file is whole or not there: written beside, flushed to the disk, then renamed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import pipeline
import training
from training.errors import RunError

CHECKPOINT = "checkpoint.pt"
RUN = "run.json"
BESIDE = frozenset({"software", "before", "seen"})  # in run.json, but not what makes it this run
CASES = frozenset({"train", "seen"})  # names of cases, which may be those of patients


def code_version() -> dict[str, str]:
    """What a run was made with; `source` is the SHA-256 over the files of pipeline/ and training/."""
    total = hashlib.sha256()
    for package in (pipeline, training):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            total.update(str(path.relative_to(root.parent)).encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return {
        "dicomnode": pipeline.__version__,
        "source": total.hexdigest(),
        "torch": torch.__version__,
        "numpy": metadata.version("numpy"),
        "python": platform.python_version(),
    }


def claim(
    folder: Path,
    identity: dict[str, Any],
    before: list[Any],
    later: Mapping[str, Mapping[str, Any]] | None = None,
    seen: Sequence[str] = (),
) -> None:
    """Make the folder this run's, or raise RunError where it is another's.

    Beside its identity stand the code that began the run, the stories of the runs it goes on from and the names of
    the cases that these have `seen`. `later`: by part of the identity, the values that fields have where a run was
    begun before there was such a field.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RUN
    if not path.is_file():
        write(
            path,
            json.dumps(
                {**identity, "software": code_version(), "before": before, "seen": [*seen]}, indent=1
            ).encode(),
        )
        return
    kept = read(folder)
    kept |= {part: _filled(values, kept[part]) for part, values in (later or {}).items() if part in kept}
    if {key: kept[key] for key in kept if key not in BESIDE} != json.loads(json.dumps(identity)):
        raise RunError(f"{folder} holds another run (see {RUN} there): give another folder, or remove it")


def _filled(values: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    """What was kept, with the values of fields that it lacks, also in the models within it."""
    inner = {
        name: _filled(values[name], one)
        for name, one in kept.items()
        if isinstance(one, dict) and isinstance(values.get(name), dict)
    }
    return {**values, **kept, **inner}


def read(folder: Path) -> dict[str, Any]:
    """The run's identity and what stands beside it. Raises RunError where run.json is damaged."""
    try:
        return dict(json.loads((folder / RUN).read_text()))
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / RUN} cannot be read ({error}): remove the folder and train again") from error


def story(folder: Path) -> list[Any]:
    """What was done to get the weights of a run folder, stage by stage, as a package may tell it.

    Recipe, seed, setting with the hash of the data, code; not the names of cases.
    """
    run = read(folder)
    return [*run.pop("before", []), {key: value for key, value in run.items() if key not in CASES}]


def trained_on(folder: Path) -> list[str]:
    """The names of all cases that the weights of a run folder have learnt from, in this run or in one before it."""
    run = read(folder)
    return sorted({name for key in CASES for name in run.get(key, ())})


def load(folder: Path) -> dict[str, Any] | None:
    """The state that `save` wrote, on the CPU; None before the first. Raises RunError where it cannot be read."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise RunError(f"{path} cannot be read ({error}): remove it, and the run starts again") from error


def save(folder: Path, state: dict[str, Any]) -> None:
    """Replace the state."""
    write(folder / CHECKPOINT, encoded(state))


def encoded(state: dict[str, Any]) -> bytes:
    """The state as it lies in the file."""
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


def decoded(content: bytes) -> dict[str, Any]:
    """What `encoded` was given, on the CPU."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)  # type: ignore[no-any-return]


def write(path: Path, content: bytes | memoryview) -> None:
    """The file whole or as it was, also after a power cut."""
    draft = path.with_name(f"{path.name}.part")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
