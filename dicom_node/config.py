"""config.toml → validated, frozen settings. Every complaint comes at once, each with its TOML path."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    IPvAnyNetwork,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from dicom_node import config_complaints
from dicom_node.config_base import (
    TEXT,
    AbsolutePath,
    AeTitle,
    IpAddress,
    Port,
    PositiveHours,
    PositiveSeconds,
    Seconds,
    SecretFile,
    Section,
    ShortName,
    read_secret,
)
from dicom_node.config_notify import AnyNotification
from dicom_node.config_priors import PriorsSection
from dicom_node.config_security import AuditSection, PeerTable, TcpPeer, TlsSection, inherit_tls
from dicom_node.config_web import WebSection
from dicom_node.destinations import (
    DEFAULT_PROFILE,
    AnyDestination,
    Destination,
    Hl7Destination,
    WebDestination,
)
from dicom_node.errors import ConfigError
from pipeline.types import PipelineSettings, Profile

__all__ = ["AnyDestination", "Config", "Destination", "Hl7Destination", "WebDestination", "load", "parse"]
HOURS_OF_A_DAY = 24


class NodeSection(Section):
    """[node]"""

    ae_title: AeTitle = "DICOMNODE"
    bind: IpAddress = "127.0.0.1"
    port: Port = 11112
    state_dir: AbsolutePath = Path("/var/lib/dicomnode")
    database: str | None = None
    database_password_file: SecretFile | None = None

    @field_validator("database")
    @classmethod
    def _without_password(cls, value: str | None) -> str | None:
        try:
            url = make_url(value or "sqlite://")
        except ArgumentError:
            raise PydanticCustomError("database_url", "not a database URL of SQLAlchemy") from None
        if url.password is not None or "password" in url.query:
            raise PydanticCustomError(
                "database_password", "the password does not belong here: set node.database_password_file"
            )
        return value


class ReceptionSection(Section):
    """[reception]"""

    calling_ae_titles: tuple[AeTitle, ...] = ()
    networks: tuple[IPvAnyNetwork, ...] = ()
    max_associations: Annotated[int, Field(ge=1, le=1000)] = 20
    max_associations_per_peer: Annotated[int, Field(ge=1, le=1000)] = 16
    max_pdu_bytes: Annotated[int, Field(ge=4096, le=16 * 1024 * 1024)] = 1024 * 1024
    idle_timeout_s: PositiveSeconds = 60.0
    max_association_s: PositiveSeconds = 86400.0
    min_bytes_per_s: Annotated[int, Field(ge=0)] = 1000
    max_instance_mb: Annotated[int, Field(ge=1, le=2048)] = 512
    max_buffer_mb: Annotated[int, Field(ge=1)] = 2048
    other_modalities: Literal["refuse", "ignore"] = "refuse"
    min_free_disk_mb: Annotated[int, Field(ge=0)] = 2048

    @field_validator("max_buffer_mb")
    @classmethod
    def _holds_an_instance(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("max_instance_mb", 0):
            raise ValueError("less than max_instance_mb: the longest instances could never be received")
        return value


class CompletionSection(Section):
    """[completion]"""

    series_quiet_s: Seconds = 30.0
    study_quiet_s: Seconds = 60.0
    incomplete_after_s: Seconds = 3600.0
    min_slices: Annotated[int, Field(ge=3)] = 10
    max_slice_spacing_mm: Annotated[float, Field(gt=0, le=50)] = 10.0
    max_oblique_deg: Annotated[float, Field(ge=0, le=45)] = 30.0


class AnalysisSection(Section):
    """[analysis]"""

    model: Path | None = None
    device: str = "auto"
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    batch_slices: Annotated[int, Field(ge=1, le=512)] = 16
    deadline_s: PositiveSeconds = 900.0
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda:\d+", value):
            raise ValueError('"auto", "cpu" or a GPU as "cuda:0" is needed')
        return value


class LungsSection(Section):
    """[lungs]"""

    weights: Path | None = None


class DeliverySection(Section):
    """[delivery]"""

    backoff_s: PositiveSeconds = 30.0
    backoff_cap_s: PositiveSeconds = 3600.0
    give_up_after_h: PositiveHours = 72.0
    commitment_timeout_s: PositiveSeconds = 600.0


class RetentionSection(Section):
    """[retention]"""

    source_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 14.0
    result_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 365.0
    audit_days: Annotated[int, Field(ge=1, le=36500)] | None = None
    automatic: bool = True
    early_when_low: bool = True

    @field_validator("result_days")
    @classmethod
    def _outlive_their_sources(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("source_days", 0):
            raise ValueError("less than source_days: results are kept at least as long as what they were made of")
        return value


class ProfileSection(Section):
    """[profiles.NAME]"""

    seg: Literal["BINARY", "LABELMAP", "NONE"] = "BINARY"
    lungs_seg: bool = False
    empty_frames: bool = False
    key_slices: bool = False
    picture: bool = True
    slice_pictures: bool = False
    pdf: bool = False
    rejection_note: bool = False


class Source(PeerTable):
    """[[sources]]"""

    calling_ae_titles: tuple[AeTitle, ...] = ()
    retrieve: Literal["move", "get"] = "move"
    retrieve_timeout_s: PositiveSeconds = 300.0
    max_instances: Annotated[int, Field(ge=1)] = 5000
    max_series: Annotated[int, Field(ge=1)] = 200
    backoff_s: PositiveSeconds = 30.0
    backoff_cap_s: PositiveSeconds = 1800.0
    give_up_after_h: PositiveHours = 24.0

    @property
    def senders(self) -> tuple[str, ...]:
        """Calling AE titles whose series are looked for here; its own among them."""
        return (self.ae_title, *self.calling_ae_titles)


class LogSection(Section):
    """[log]"""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class Config(Section):
    """The whole of config.toml."""

    node: NodeSection = NodeSection()
    reception: ReceptionSection = ReceptionSection()
    tls: TlsSection = TlsSection()
    audit: AuditSection = AuditSection()
    completion: CompletionSection = CompletionSection()
    analysis: AnalysisSection = AnalysisSection()
    lungs: LungsSection = LungsSection()
    priors: PriorsSection = PriorsSection()
    delivery: DeliverySection = DeliverySection()
    retention: RetentionSection = RetentionSection()
    profiles: dict[ShortName, ProfileSection] = Field(default_factory=dict)
    destinations: tuple[AnyDestination, ...] = ()
    sources: tuple[Source, ...] = ()
    notifications: tuple[AnyNotification, ...] = ()
    web: WebSection = WebSection()
    log: LogSection = LogSection()

    @model_validator(mode="before")
    @classmethod
    def _peers_inherit_tls(cls, content: Any) -> Any:
        return inherit_tls(content) if isinstance(content, Mapping) else content

    @model_validator(mode="after")
    def _names_agree(self) -> Config:
        complaints = []
        seen: set[str] = set()
        known = {*self.profiles, DEFAULT_PROFILE}
        for number, destination in enumerate(self.destinations):
            if destination.name in seen:
                complaints.append(f"destinations[{number}].name: {destination.name!r} is used twice")
            if destination.profile not in known:
                complaints.append(f"destinations[{number}].profile: there is no [profiles.{destination.profile}]")
            if destination.window and self.delivery.give_up_after_h < HOURS_OF_A_DAY:
                complaints.append(
                    f"destinations[{number}].window: delivery.give_up_after_h must be {HOURS_OF_A_DAY} or more, or "
                    "what comes outside the window is given up after one attempt"
                )
            seen.add(destination.name)
        names = [notification.name for notification in self.notifications]
        for number, name in enumerate(names):
            if name in names[:number]:
                complaints.append(f"notifications[{number}].name: {name!r} is used twice")
        for name in sorted(set(self.priors.sources) - {source.name for source in self.sources}):
            complaints.append(f"priors.sources: there is no source {name!r} in [[sources]]")
        complaints += _source_complaints(self.sources, self.reception)
        if self.tls.port and self.tls.port == self.node.port and not self.tls.only:
            complaints.append(f"tls.port: node.port is {self.tls.port} too")
        complaints += _page_complaints(self)
        if complaints:
            raise ValueError("\n".join(complaints))
        return self

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the ledger, with the password: never to be shown.

        Raises:
            ConfigError: `node.database_password_file` cannot be read.
        """
        if self.node.database is None:
            return f"sqlite:///{self.node.state_dir / 'ledger.sqlite'}"
        if self.node.database_password_file is None:
            return self.node.database
        try:
            password = read_secret(self.node.database_password_file)
        except ConfigError as error:
            raise ConfigError(f"node.database_password_file: {error}") from error
        return make_url(self.node.database).set(password=password).render_as_string(hide_password=False)

    @property
    def ledger_file(self) -> Path | None:
        """The file of a ledger in SQLite; None for another database, or one in memory."""
        if self.node.database is None:
            return self.node.state_dir / "ledger.sqlite"
        url = make_url(self.node.database)
        in_file = url.get_backend_name() == "sqlite" and url.database not in {None, "", ":memory:"}
        return Path(url.database) if in_file and url.database else None

    @property
    def peers(self) -> list[tuple[str, TcpPeer | WebDestination]]:
        """Everybody whom the node calls, with the TOML path."""
        tables: tuple[tuple[str, Sequence[TcpPeer | WebDestination]], ...] = (
            ("destinations", self.destinations),
            ("sources", self.sources),
        )
        return [(f"{name}[{number}]", peer) for name, peers in tables for number, peer in enumerate(peers)]

    def profile(self, name: str) -> Profile:
        """The named profile as the pipeline knows it."""
        section = self.profiles.get(name, ProfileSection())
        return Profile(name=name, **section.model_dump())

    @property
    def used_profiles(self) -> tuple[Profile, ...]:
        """The profiles that destinations name, each once; the default one where there is no destination."""
        names = dict.fromkeys(destination.profile for destination in self.destinations)
        return tuple(self.profile(name) for name in names or (DEFAULT_PROFILE,))

    @property
    def prior_sources(self) -> tuple[Source, ...]:
        """The sources that are asked for earlier results."""
        return tuple(
            source for source in self.sources if self.priors.enabled and source.name in self.priors.sources
        )

    def source_of(self, calling_ae: str) -> Source | None:
        """The source that series from this calling AE title belong to."""
        return next((source for source in self.sources if calling_ae in source.senders), None)

    @property
    def pipeline_settings(self) -> PipelineSettings:
        """What the pipeline needs of this file."""
        return PipelineSettings(
            model=self.analysis.model,
            lung_weights=self.lungs.weights,
            device=self.analysis.device,
            batch_slices=self.analysis.batch_slices,
            threads=self.analysis.threads,
            min_slices=self.completion.min_slices,
            max_slice_spacing_mm=self.completion.max_slice_spacing_mm,
            max_oblique_deg=self.completion.max_oblique_deg,
        )


def _page_complaints(config: Config) -> list[str]:
    """The status page where DICOM listens; on different addresses of the machine both may have one port."""
    web, listening = config.web, {"tls.port": config.tls.port}
    if not config.tls.only:
        listening["node.port"] = config.node.port
    addresses = {ipaddress.ip_address(address) for address in (config.node.bind, web.bind)}
    apart = len(addresses) > 1 and not any(address.is_unspecified for address in addresses)
    if apart or not (web.enabled and web.port):
        return []
    return [f"web.port: {name} is {web.port} too" for name, port in listening.items() if port == web.port]


def _source_complaints(sources: Sequence[Source], reception: ReceptionSection) -> list[str]:
    """What is wrong with the sources beside each other and beside [reception]."""
    complaints = []
    names: set[str] = set()
    senders: dict[str, str] = {}
    for number, source in enumerate(sources):
        path = f"sources[{number}]"
        if source.name in names:
            complaints.append(f"{path}.name: {source.name!r} is used twice")
        names.add(source.name)
        for sender in dict.fromkeys(source.senders):
            if sender in senders:
                complaints.append(f"{path}.calling_ae_titles: {sender} belongs to {senders[sender]!r} already")
            senders.setdefault(sender, source.name)
        admitted = reception.calling_ae_titles
        if source.retrieve == "move" and admitted and not set(source.senders) & set(admitted):
            complaints.append(
                f"{path}.retrieve: what it sends after a C-MOVE would be refused: none of "
                f"{', '.join(source.senders)} is in reception.calling_ae_titles"
            )
    return complaints


def load(path: Path) -> Config:
    """Read and validate a file.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or has faults; the message lists all of them.
    """
    try:
        content = tomllib.loads(path.read_text(encoding=TEXT))
    except OSError as error:
        advice = "name yours with --config, or write one: dicomnode default-config > config.toml"
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; {advice}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    return parse(content, str(path))


def parse(content: Mapping[str, Any], origin: str = "config") -> Config:
    """Validate the content of a file; see `load`."""
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        complaints = config_complaints.lines(error, Config)
        raise ConfigError(f"{origin}: {len(complaints)} fault(s)\n" + "\n".join(complaints)) from error
