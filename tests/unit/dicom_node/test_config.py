"""config.toml: the shipped default is valid and says what the code's defaults are; faults come all at once."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from dicom_node import config, config_complaints
from dicom_node.config_base import Section, read_secret
from dicom_node.config_notify import AnyNotification, Mail, Webhook
from dicom_node.errors import ConfigError
from dicom_node.web.passwords import read_users
from tests.fixtures.page import USERS

ROOT = Path(__file__).resolve().parents[3]
TLS = {"certificate": "/c.pem", "key": "/k.pem", "ca": "/ca.pem"}


def test_the_shipped_default_is_valid_and_holds_the_defaults_of_the_code() -> None:
    shipped = config.load(ROOT / "config.toml")
    defaults = config.parse({})
    reception = shipped.reception.model_copy(update={"networks": ()})
    assert reception == defaults.reception
    for section in config.Config.model_fields.keys() - {"reception", "profiles"}:
        assert getattr(shipped, section) == getattr(defaults, section), section
    assert shipped.profile("default") == defaults.profile("default")


def test_every_key_of_the_code_is_explained_in_the_shipped_file() -> None:
    text = (ROOT / "config.toml").read_text()
    for name, field in config.Config.model_fields.items():
        section = field.annotation
        keys = (
            getattr(section, "model_fields", None)
            or {
                "profiles": config.ProfileSection.model_fields,
                "destinations": config.Destination.model_fields
                | config.WebDestination.model_fields
                | config.Hl7Destination.model_fields,
                "sources": config.Source.model_fields,
                "notifications": Webhook.model_fields | Mail.model_fields,
            }[name]
        )
        for key in keys:
            assert f"\n{key} = " in text or f"\n# {key} = " in text, f"{name}.{key}"


def test_memory_for_all_instances_holds_the_longest_one() -> None:
    with pytest.raises(ConfigError, match="reception.max_buffer_mb: less than max_instance_mb"):
        config.parse({"reception": {"max_instance_mb": 100, "max_buffer_mb": 99}})
    with pytest.raises(ConfigError, match="reception.max_buffer_mb"):
        config.parse({"reception": {"max_buffer_mb": 100}})
    assert (
        config.parse({"reception": {"max_instance_mb": 100, "max_buffer_mb": 100}}).reception.max_buffer_mb == 100
    )


def test_every_complaint_comes_at_once_with_its_toml_path() -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(
            {
                "node": {"port": 70000, "bind": "nowhere", "colour": 1, "state_dir": "relative"},
                "reception": {"networks": ["10.0.0.0/33"]},
                "destinations": [{"name": "Ä", "ae_title": "WAY_TOO_LONG_TITLE", "host": "", "port": 0}],
            }
        )
    message = str(caught.value)
    for path in (
        "node.port:",
        "node.bind:",
        "node.colour: unknown key",
        "node.state_dir:",
        "reception.networks[0]",
        "destinations[0].name:",
        "destinations[0].ae_title:",
        "destinations[0].host:",
        "destinations[0].port:",
    ):
        assert path in message, path


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"node": {"ae_titel": "X"}}, "node.ae_titel: unknown key; is ae_title meant?"),
        ({"nodes": {}}, "nodes: unknown key; is node meant?"),
        ({"node": {"colour": 1}}, "node.colour: unknown key\n"),
        ({"sources": [{"calling_ae_title": "X"}]}, "unknown key; is calling_ae_titles meant?"),
        (
            {"destinations": [{"protocol": "dicomweb", "pasword_file": "/x"}]},
            "destinations[0].pasword_file: unknown key; is password_file meant?",
        ),
        ({"destinations": [{"url": "https://h"}]}, "destinations[0].url: unknown key\n"),
        ({"destinations": [{"urll": "https://h"}]}, "destinations[0].urll: unknown key\n"),
        ({"destinations": [{"protocol": "hl7", "ae_title": "X"}]}, "destinations[0].ae_title: unknown key\n"),
        ({"destinations": [{"protocol": "dicomweb", "urll": "x"}]}, "unknown key; is url meant?"),
        ({"notifications": [{"by": "mail", "url": "https://h"}]}, "notifications[0].url: unknown key\n"),
        ({"reception": {"networks": {"a": "b"}}}, 'reception.networks: a list is needed, as ["…"]\n'),
        ({"priors": {"sources": {"a": "b"}}}, 'priors.sources: a list is needed, as ["…"]\n'),
        ({"destinations": {"name": "pacs"}}, "destinations: there may be several: write [[destinations]]"),
        ({"destinations": [{"name": "pacs"}]}, "destinations[0].host: is missing\n"),
        ({"reception": {"networks": "10.0.0.0/8"}}, 'reception.networks: a list is needed, as ["…"]'),
        ({"reception": {"networks": ["10.0.0.5/24"]}}, "as 10.0.0.5 or 10.0.0.0/24, with zeros behind the mask"),
        ({"analysis": {"device": "gpu"}}, '"auto", "cpu" or a GPU as "cuda:0" is needed'),
    ],
)
def test_what_an_administrator_gets_wrong_is_answered_with_what_is_right(
    content: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(content)
    assert sentence in f"{caught.value}\n"


def test_destinations_must_have_different_names_and_known_profiles() -> None:
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    with pytest.raises(ConfigError) as caught:
        config.parse({"destinations": [pacs, pacs, {**pacs, "name": "other", "profile": "none"}]})
    assert "destinations[1].name: 'pacs' is used twice" in str(caught.value)
    assert "destinations[2].profile: there is no [profiles.none]" in str(caught.value)


def test_a_sender_belongs_to_one_source() -> None:
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104, "calling_ae_titles": ["CT1"]}
    with pytest.raises(ConfigError) as caught:
        config.parse({"sources": [pacs, {**pacs, "ae_title": "VNA"}]})
    assert "sources[1].name: 'pacs' is used twice" in str(caught.value)
    assert "sources[1].calling_ae_titles: CT1 belongs to 'pacs' already" in str(caught.value)
    parsed = config.parse({"sources": [pacs]})
    for title, source in (("CT1", "pacs"), ("PACS", "pacs"), ("CT2", None), ("", None)):
        found = parsed.source_of(title)
        assert (found and found.name) == source


def test_what_is_fetched_by_c_move_has_to_be_admitted() -> None:
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    reception = {"calling_ae_titles": ["CT1"]}
    with pytest.raises(
        ConfigError, match=r"sources\[0\].retrieve: .* none of PACS is in reception.calling_ae_titles"
    ):
        config.parse({"sources": [pacs], "reception": reception})
    config.parse({"sources": [{**pacs, "retrieve": "get"}], "reception": reception})
    config.parse({"sources": [{**pacs, "calling_ae_titles": ["CT1"]}], "reception": reception})


@pytest.mark.parametrize("title", ["", "   ", "A\\B", "ABCDEFGHIJKLMNOPQ", "PÄCS", "A\nB"])
def test_ae_titles_follow_ps35(title: str) -> None:
    with pytest.raises(ConfigError, match=r"node\.ae_title"):
        config.parse({"node": {"ae_title": title}})


@pytest.mark.parametrize("content", [b"[node\n", b"\xff\xfe", None])
def test_unreadable_files_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path)):
        config.load(path)


def test_a_byte_order_mark_is_no_part_of_what_people_write(tmp_path: Path) -> None:
    for name, content in (("config.toml", "[node]\r\nport = 1\r\n"), ("secret", "sesame\r\n"), ("users", USERS)):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert config.load(tmp_path / "config.toml").node.port == 1
    assert read_secret(tmp_path / "secret") == "sesame"
    assert set(read_users(tmp_path / "users")) == {"ada"}


def test_every_kind_of_an_entry_is_known() -> None:
    names = {
        get_args(model.model_fields[field].annotation)[0]: model
        for union, field in ((config.AnyDestination, "protocol"), (AnyNotification, "by"))
        for model in _models(union)
    }
    assert names == config_complaints.KINDS
    assert len(names) == 5


def _models(union: object) -> list[type[Section]]:
    """The tables that a discriminated union of annotated tables allows."""
    if isinstance(union, type):
        return [union]
    return [
        model for part in get_args(union) if get_args(part) or isinstance(part, type) for model in _models(part)
    ]


def test_a_profile_may_have_the_name_of_a_protocol_and_is_named_in_complaints() -> None:
    with pytest.raises(ConfigError, match=r"  profiles\.dicomweb\.seg: "):
        config.parse({"profiles": {"dicomweb": {"seg": "x"}}})


def test_the_page_does_not_listen_where_dicom_does() -> None:
    for bind in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(ConfigError, match=r"  web\.port: node\.port is 8104 too"):
            config.parse({"node": {"port": 8104, "bind": bind}})
    assert config.parse({"node": {"port": 8104, "bind": "127.0.0.2"}}).node.port == 8104
    assert config.parse({"node": {"port": 8104}, "web": {"enabled": False}}).node.port == 8104
    assert config.parse({"node": {"port": 0}, "web": {"port": 0}}).web.port == 0
    with pytest.raises(ConfigError, match=r"  web\.port: tls\.port is 8104 too"):
        config.parse({"node": {"port": 8104}, "tls": {**TLS, "port": 8104, "only": True}})


def test_both_ports_for_dicom_cannot_be_the_same_one() -> None:
    with pytest.raises(ConfigError, match=r"  tls\.port: node\.port is 11112 too"):
        config.parse({"tls": {**TLS, "port": 11112}})
    assert config.parse({"tls": {**TLS, "port": 11112, "only": True}}).tls.port == 11112
    assert config.parse({"node": {"port": 0}, "tls": {**TLS, "port": 0}}).tls.port == 0


def test_used_profiles_are_those_of_the_destinations_each_once() -> None:
    pacs = {"name": "a", "ae_title": "PACS", "host": "h", "port": 104}
    parsed = config.parse(
        {
            "profiles": {"ohif": {"key_slices": True}},
            "destinations": [pacs, {**pacs, "name": "b", "profile": "ohif"}, {**pacs, "name": "c"}],
        }
    )
    assert [profile.name for profile in parsed.used_profiles] == ["default", "ohif"]
    assert parsed.used_profiles[1].key_slices
    assert [profile.name for profile in config.parse({}).used_profiles] == ["default"]


WEB = {"name": "web", "protocol": "dicomweb", "url": "https://pacs.example.org/dicom-web/"}


def web(**changes: object) -> config.WebDestination:
    """A DICOMweb destination as it is parsed."""
    (parsed,) = config.parse({"destinations": [{**WEB, **changes}]}).destinations
    assert isinstance(parsed, config.WebDestination)
    return parsed


def test_a_dicomweb_destination_beside_one_for_c_store() -> None:
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    first, second = config.parse({"destinations": [pacs, WEB]}).destinations
    assert (first.protocol, first.verify) == ("dimse", "commitment")
    assert (second.protocol, second.verify) == ("dicomweb", "find")
    assert web().url == "https://pacs.example.org/dicom-web"
    assert web(url="http://127.0.0.1:8042/dicom-web", user="u", password_file="/p").user == "u"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"protocol": "ftp"}, 'destinations[0]: protocol is "dimse"'),
        ({"url": "pacs.example.org"}, "destinations[0].url: a URL"),
        ({"url": "https://pacs.example.org:99999/"}, "destinations[0].url: a URL"),
        ({"url": "https://pacs/x?key=1"}, "destinations[0].url: only the service root"),
        ({"url": "https://u:hidden@pacs/"}, "destinations[0].url: no user or password"),
        ({"verify": "commitment"}, "destinations[0].verify:"),
        ({"password": "hidden"}, "destinations[0].password: unknown key"),
        ({"user": "u"}, "destinations[0]: user and password_file belong together"),
        ({"user": "u", "password_file": "/p", "token_file": "/t"}, "destinations[0]: either"),
        ({"token_file": "relative"}, "destinations[0].token_file: an absolute path"),
        ({"url": "http://pacs/", "token_file": "/t"}, "destinations[0]: anybody on the network can read"),
        ({"url": "http://pacs/", "tls_ca": "/t"}, "destinations[0]: tls_ca and tls_key are of no use"),
        ({"ae_title": "PACS"}, "destinations[0].ae_title: unknown key"),
        ({"window": "25:00-06:00"}, "destinations[0].window: a window is written as"),
        ({"window": "06:00-06:00"}, "destinations[0].window: the window has no length"),
        ({"max_kb_per_s": -1}, "destinations[0].max_kb_per_s"),
    ],
)
def test_faults_of_destinations_are_named_and_show_no_secret(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse({"destinations": [{**WEB, **changes}]})
    assert says in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_window_needs_a_day_before_deliveries_are_given_up() -> None:
    late = {**WEB, "window": "19:00-06:30"}
    with pytest.raises(ConfigError, match=r"destinations\[0\]\.window: delivery\.give_up_after_h must be 24"):
        config.parse({"delivery": {"give_up_after_h": 10}, "destinations": [late]})
    (parsed,) = config.parse({"destinations": [late]}).destinations
    assert str(parsed.opening) == "19:00-06:30"


@pytest.mark.parametrize(
    ("table", "key", "longest"),
    [("delivery", "give_up_after_h", 876_000), ("completion", "incomplete_after_s", 3_153_600_000)],
)
def test_no_time_is_longer_than_a_century(table: str, key: str, longest: int) -> None:
    """As written for "never": the date did not exist, and the thread that computed it ended."""
    assert getattr(getattr(config.parse({table: {key: longest}}), table), key) == longest
    with pytest.raises(ConfigError, match=rf"{table}\.{key}: at most a hundred years, which are {longest}"):
        config.parse({table: {key: longest + 1}})
