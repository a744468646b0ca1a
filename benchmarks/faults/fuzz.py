"""Coverage-guided fuzzing (atheris, libFuzzer) of everything that the node parses off the wire.

    pip install -e ".[fuzz]"
    python -m benchmarks.faults.fuzz TARGET [--runs 10000] [--corpus FOLDER] [--seed 1]

Targets: ``identify`` the head of a data set before it is answered, ``file`` a spooled file as ingest reads it,
``report`` the Event Information of a commitment report, ``conversation`` a whole association on a socket of a
running receiver. Each begins with good examples, which the fuzzer mutates; the first byte is the transfer syntax.

A case may be understood or refused as NotParsable; anything else, more than 20 s or more than 2 GB ends the program
with the input in a file crash-…, timeout-… or oom-…. Those that were ever found are in tests/fixtures/corpus.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from types import ModuleType

import atheris
from pydicom import filereader, values
from pynetdicom import dimse_messages, pdu, pdu_items

from benchmarks.faults import parsers
from dicom_node import association_server, commitment, instance_check, received, upper_layer

GUIDES = (  # what the fuzzer tries to reach all of; the rest would cost a minute of instrumenting
    *(association_server, commitment, instance_check, received, upper_layer),
    *(filereader, values, dimse_messages, pdu, pdu_items),
)
KEEPS_BYTES, TIMEOUT_S, MEMORY_MB = 65536, 20, 2048


def main() -> None:
    """Fuzz one target; libFuzzer prints its own figures and ends the process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(parsers.TARGETS))
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--corpus", type=Path, help="kept, and gone on with; default: a temporary one")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for module in GUIDES:
        _instrument(module)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        corpus = arguments.corpus or Path(temporary) / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        with parsers.TARGETS[arguments.target](Path(temporary)) as target:
            for number, seed in enumerate(target.seeds):
                (corpus / f"seed-{number}").write_bytes(seed)
            limits = [f"-runs={arguments.runs}", f"-seed={arguments.seed}", f"-max_len={KEEPS_BYTES}"]
            limits += [f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MB}", "-print_final_stats=1"]
            atheris.Setup([sys.argv[0], *limits, str(corpus)], target.parse)
            atheris.Fuzz()


def _instrument(module: ModuleType) -> None:
    """Have the fuzzer see which branches of a module's functions are taken."""
    owners = [module, *(item for item in vars(module).values() if inspect.isclass(item))]
    for owner in owners:
        for item in list(vars(owner).values()):
            if inspect.isfunction(item) and item.__module__ == module.__name__:
                atheris.instrument_func(item)


if __name__ == "__main__":
    main()
