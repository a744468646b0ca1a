"""What the node parses off the wire, on good examples, on what the fuzzer once found, and damaged at random.

New findings of `python -m benchmarks.faults.fuzz TARGET` go into tests/fixtures/corpus/TARGET.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.faults.parsers import TARGETS

CORPUS = Path(__file__).parents[2] / "fixtures" / "corpus"
DAMAGED = 150  # of each target, the same ones every time


def damaged(rng: random.Random, examples: list[bytes]) -> bytes:
    """One example with some bytes changed, cut, inserted, or joined with another."""
    data = bytearray(rng.choice(examples))
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[at : at + rng.randrange(9)] = rng.randbytes(rng.randrange(9))
            case 1:
                data[at : at + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\xfe\xff\x00\xe0"))
            case 2:
                del data[at:]
            case _:
                other = rng.choice(examples)
                data[at:] = other[rng.randrange(len(other)) :]
    return bytes(data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_everything_is_understood_or_refused(name: str, tmp_path: Path) -> None:
    found = [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]
    rng = random.Random(name)
    with TARGETS[name](tmp_path) as target:
        examples = [*target.seeds, *found]
        for data in [b"", *examples, *(damaged(rng, examples) for _ in range(DAMAGED))]:
            target.parse(data)
