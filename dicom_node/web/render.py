"""Values → HTML. Every value is escaped; what came off the wire stands isolated and without control characters."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from dicom_node.config import Config
from dicom_node.ledger import Place
from dicom_node.web import advice
from dicom_node.web.masking import Mask
from pipeline import RESEARCH_USE_ONLY, __version__
from pipeline.notation import millilitres, percent

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
MINUTE, HOUR, DAY = 60, 3600, 86400


def foreign(text: object) -> Markup:
    """A text from outside: shown as text whatever is in it, and its direction ends with it (HTML 4.5.24)."""
    clean = CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text).replace("\n", " "))
    return Markup("<bdi>{}</bdi>").format(clean) if clean.strip() else Markup("")


def when(value: datetime | None) -> Markup:
    """Local time to the second; a dash for None."""
    if value is None:
        return Markup("–")
    local = value.astimezone()
    shown = local.strftime("%Y-%m-%d %H:%M:%S")
    return Markup('<time datetime="{}">{}</time>').format(local.isoformat(timespec="seconds"), shown)


def span(value: timedelta) -> str:
    """A duration in one unit; none is below 0, though the clock may have been put back."""
    seconds = max(0, int(value.total_seconds()))
    if seconds < MINUTE:
        return f"{seconds} s"
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= 2 * unit or unit == MINUTE:
            return f"{seconds // unit} {name}"
    return ""


def day(date: str) -> str:
    """A DA value (PS3.5 6.2) as people write it; anything else as it is."""
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" if re.fullmatch(r"[0-9]{8}", date) else date


def code(text: str) -> Markup:
    """Our own words, with `commands` in them shown as such; they may quote what stood in an address."""
    parts = CONTROL.sub("\N{REPLACEMENT CHARACTER}", text).split("`")
    marked = (
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)
    )
    return Markup("").join(marked)


class Renderer:
    """The templates of the page, with what all of them show.

    Args:
        config: `node` and `web` are used.
        place: writes a place in the list of series as an address has it.
    """

    def __init__(self, config: Config, place: Callable[[Place], str]) -> None:
        self._environment = Environment(
            loader=PackageLoader("dicom_node.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            foreign=foreign,
            place=place,
            when=when,
            span=span,
            day=day,
            code=code,
            percent=percent,
            millilitres=millilitres,
        )
        self._environment.globals.update(
            advice=advice,
            ae_title=config.node.ae_title,
            has_login=config.web.users_file is not None,
            login_always=config.web.login == "always",
            mask=Mask(config.web.mask_names),
            research_use_only=RESEARCH_USE_ONLY,
            version=__version__,
        )

    def __call__(self, template: str, **values: Any) -> str:
        """One page."""
        return self._environment.get_template(template).render(**values)
