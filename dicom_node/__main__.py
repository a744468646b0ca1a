"""The `dicomnode` program, also as `python -m dicom_node`."""

from __future__ import annotations

import gc


def main() -> None:
    """Load the commands, then carry out the command line.

    What is loaded stays: to look through it for garbage again and again, while more of it comes, would take a third
    of the time of `dicomnode status`.
    """
    gc.disable()
    from dicom_node import cli

    gc.freeze()
    gc.enable()
    cli.main()


if __name__ == "__main__":
    main()
