"""What a CT reconstruction kernel makes of edges, by its maker's name for it."""

from __future__ import annotations

import re
from enum import IntEnum


class Sharpness(IntEnum):
    """In the order in which selection prefers them."""

    SOFT = 0
    UNKNOWN = 1
    SHARP = 2


# First match counts. The resolution index of Siemens grows with sharpness: 50 and above are for lung and bone.
KERNELS: tuple[tuple[re.Pattern[str], Sharpness], ...] = tuple(
    (re.compile(pattern), sharpness)
    for pattern, sharpness in (
        (r"[BIHQTUSJDEP][A-Z]?(1\d|2\d|3\d|4[0-5])[A-Z]*", Sharpness.SOFT),  # Siemens B10s … B45f, I31f, Br40, Hr38
        (r"[BIHQTUSJDEP][A-Z]?(4[6-9]|[5-9]\d)[A-Z]*", Sharpness.SHARP),  # Siemens B46f … B80f, I70f, Bl57, Br59
        (r"F[CL](0?|1|2)\d[A-Z]?", Sharpness.SOFT),  # Canon, Toshiba: body and brain
        (r"F[CL][3-9]\d[A-Z]?", Sharpness.SHARP),  # Canon, Toshiba: bone, inner ear, lung
        (r"[ABC]|UA|UB|UC|SA|SB|SC|EA|EB|EC", Sharpness.SOFT),  # Philips: smooth, standard
        (r"[DEFL]|Y[A-Z]|UD|UE|SD|SE|EE", Sharpness.SHARP),  # Philips: detail, lung, Y-sharp
        (r".*(LUNG|BONE|EDGE|ULTRA|SHARP|HIGH|HRCT).*", Sharpness.SHARP),  # GE and others, by words
        (r".*(SOFT|STANDARD|STND|SMOOTH|MEDIUM|DETAIL|CHST|BODY|BRAIN).*", Sharpness.SOFT),
    )
)


def sharpness(kernel: str) -> Sharpness:
    """Class of a ConvolutionKernel (0018,1210); UNKNOWN where the name is not known."""
    name = re.sub(r"[^A-Z0-9]", "", kernel.upper())
    return next((found for pattern, found in KERNELS if pattern.fullmatch(name)), Sharpness.UNKNOWN)
