"""Two thresholds of the lung network: unsure along a border, and unsure over a wide area."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from pipeline.lung_network import LungNetwork, wide
from pipeline.package import Thresholds
from pipeline.preprocess import Preprocessing
from pipeline.segment import Room

PROBABILITIES = hnp.arrays(np.float32, (2, 16, 16), elements=st.floats(0, 1, width=32))


class Gives(nn.Module):
    """The same probability for every slice."""

    def __init__(self, probability: Tensor) -> None:
        super().__init__()
        self.made = probability

    def probability(self, stacks: Tensor) -> Tensor:
        return self.made.expand(len(stacks), -1, -1)


def lung() -> Tensor:
    """32 × 32: sure in the middle, a rim of one pixel in doubt; below it a dense lobe and a thin line in doubt."""
    made = torch.zeros(32, 32)
    made[3:13, 5:25] = 0.2
    made[4:12, 6:24] = 0.9
    made[14:24, 6:24] = 0.2
    made[27, 4:28] = 0.2
    return made


def found(thresholds: Thresholds) -> np.ndarray:
    net = LungNetwork(Gives(lung()), Preprocessing(rows=32, columns=32), thresholds, Room(torch.device("cpu"), 4))
    return net.finds(np.zeros((3, 32, 32), np.float32))


def test_without_a_lower_threshold_only_what_is_sure_is_lung() -> None:
    assert (found(Thresholds()) == (lung() > 0.5).numpy()).all()


def test_a_wide_area_in_doubt_is_lung_and_a_thin_one_is_not() -> None:
    both = found(Thresholds(lungs=0.6, lungs_if_wide=0.1))
    wanted = (lung() > 0.6).numpy() | (np.indices((32, 32))[0] >= 14) & (lung() > 0.1).numpy()
    wanted[27] = False
    missed = wanted & ~both[0]
    assert not (both & ~wanted).any()
    assert missed.sum() == 12  # three at each corner of the lobe, which no disc fills


def test_what_is_less_likely_than_the_lower_one_is_none() -> None:
    assert (found(Thresholds(lungs=0.6, lungs_if_wide=0.3)) == (lung() > 0.6).numpy()).all()


class Rises(nn.Module):
    """Says more the farther a column lies to the left of what it is shown, and shows what it was shown."""

    def probability(self, stacks: Tensor) -> Tensor:
        rising = torch.linspace(0.8, 0.0, stacks.shape[-1])
        return (rising + 0.1 * stacks[:, 0]).expand(len(stacks), *stacks.shape[2:])


def test_a_mirrored_network_says_the_mean_of_both_sides() -> None:
    settings = Preprocessing(rows=32, columns=32)
    hu = np.full((2, 32, 32), -1024, np.float32)
    hu[:, :, 20:] = -914  # one unit of what the network sees
    room = Room(torch.device("cpu"), 4)
    for limit, wanted in ((0.45, hu > -1000), (0.39, hu > -2000)):  # 0.4 everywhere, and 0.5 in the dense part
        thresholds = Thresholds(lungs=limit)
        found = LungNetwork(Rises(), settings, thresholds, room, mirrored=True).finds(hu)
        np.testing.assert_array_equal(found, wanted)
    alone = LungNetwork(Rises(), settings, Thresholds(lungs=0.45), room).finds(hu)
    assert alone[:, :, :10].all() and not alone[:, :, 30:].any()


@given(PROBABILITIES, st.floats(0.01, 0.4), st.floats(0.5, 0.99))
def test_only_what_lies_between_the_thresholds_is_taken_and_never_less_at_a_lower_one(
    values: np.ndarray, low: float, high: float
) -> None:
    probability = torch.from_numpy(values)
    taken, more = wide(probability, low, high), wide(probability, low / 2, high)
    assert ((probability > low) & (probability <= high))[taken].all()
    assert more[taken].all()
