"""The table of config.toml about earlier results of a patient."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dicom_node.config_base import Seconds, Section, ShortName


class PriorsSection(Section):
    """[priors]"""

    enabled: bool = True
    max_count: Annotated[int, Field(ge=1, le=12)] = 6
    max_age_days: Annotated[int, Field(ge=1, le=36500)] = 1825
    sources: tuple[ShortName, ...] = ()
    search_limit_s: Seconds = 60.0
