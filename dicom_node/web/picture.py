"""A result's Secondary Capture → a small PNG. The pictures of this software carry no name."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from pydicom import dcmread

from dicom_node.malformed import MALFORMED

SIZE = (800, 800)  # at most
MAX_PIXELS = 64_000_000


def thumbnail(path: Path) -> bytes | None:
    """The picture in a file that the analysis wrote; None where it is not there or is not one."""
    try:
        ds = dcmread(path)
        if int(ds.Rows) * int(ds.Columns) > MAX_PIXELS:
            return None
        image = Image.fromarray(ds.pixel_array)
    except (*MALFORMED, OSError):
        return None
    image.thumbnail(SIZE, Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
