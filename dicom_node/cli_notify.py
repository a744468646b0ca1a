"""`dicomnode notify-test`: one channel of notifications, tried by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from dicom_node import config as configuration
from dicom_node import console as show
from dicom_node.cli_common import DEFAULT_CONFIG, ConfigOption, JsonOption
from dicom_node.errors import NotFound

ChannelArgument = Annotated[str, typer.Argument(metavar="NAME", help="name of a [[notifications]] entry")]


def notify_test(name: ChannelArgument, config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """Send a test message by mail or webhook, as [[notifications]] says.

    JSON: channel, by, taken.

    Example: dicomnode notify-test admin
    """
    from dicom_node import notifier, notify_send

    settings = configuration.load(config)
    found = next((channel for channel in settings.notifications if channel.name == name), None)
    if found is None:
        known = ", ".join(channel.name for channel in settings.notifications) or "none"
        raise NotFound(f"config.toml has no notification {name!r} (known: {known})")
    notify_send.send(found, notifier.trial(datetime.now(UTC)), settings.node.ae_title)
    told = {"channel": name, "by": found.by, "taken": True}
    where = "the mail server" if found.by == "mail" else "the webhook"
    typer.echo(show.as_json(told) if json else f"{name}: {where} took the message")
