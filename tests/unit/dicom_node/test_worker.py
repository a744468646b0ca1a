"""What a worker does before its first task."""

from __future__ import annotations

import pytest

from dicom_node.worker import device_of


@pytest.mark.parametrize(
    ("number", "environ", "nodes", "expected"),
    [
        (0, {}, [], None),
        (0, {}, ["0"], None),
        (0, {}, ["0", "1"], "0"),
        (1, {}, ["0", "1"], "1"),
        (2, {}, ["0", "1"], "0"),
        (1, {"CUDA_VISIBLE_DEVICES": "3, 5"}, ["0", "1"], "5"),
        (1, {"CUDA_VISIBLE_DEVICES": "3"}, ["0", "1"], None),
        (1, {"CUDA_VISIBLE_DEVICES": ""}, ["0", "1"], None),
        (1, {"CUDA_VISIBLE_DEVICES": "GPU-aa,GPU-bb"}, [], "GPU-bb"),
    ],
)
def test_workers_share_devices_in_turn(
    number: int, environ: dict[str, str], nodes: list[str], expected: str | None
) -> None:
    assert device_of(number, environ, nodes) == expected
