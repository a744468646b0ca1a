"""What `dicomnode doctor` finds about the status page. Nothing about it keeps the node from its work."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from dicom_node import certificates
from dicom_node.config import Config
from dicom_node.doctor_listener import ANYWHERE, running
from dicom_node.errors import ConfigError
from dicom_node.findings import Finding, ok, remark
from dicom_node.tls import ClientTls, client_context

ANSWER_S = 10.0
CHECK = "status page"


def page(config: Config) -> Iterator[Finding]:
    """Whether it is served, and what `/healthz` says; nothing where it is switched off or the node does not run."""
    section = config.web
    if not section.enabled or not running(config.node.state_dir):
        return
    if not section.port:
        yield remark(CHECK, "its port is taken anew at each start", "give it a port of its own: web.port")
        return
    host = ANYWHERE.get(section.bind, section.bind)
    shown = f"[{host}]" if ":" in host else host
    url = f"{'https' if section.tls else 'http'}://{shown}:{section.port}/"
    try:
        answer = _ask(config, f"{url}healthz")
        reasons = [str(reason) for reason in answer.json()["reasons"]]
    except (httpx.HTTPError, ConfigError, ValueError, LookupError, TypeError) as error:
        yield remark(
            CHECK,
            f"{url} does not answer as it should: {error}",
            "does another program have web.port? The log says why; the node works without it",
        )
        return
    if reasons:
        yield remark(CHECK, f"{url} says: {'; '.join(reasons)}", "the log of `serve` says more")
    else:
        yield ok(CHECK, f"{url} answers, all is well there")


def _ask(config: Config, url: str) -> httpx.Response:
    identity = config.web.identity
    if identity is None:
        return httpx.get(url, timeout=ANSWER_S, trust_env=False)
    name = certificates.names(identity.certificate)[0]  # whatever address it is called by here
    context = client_context(ClientTls(name, identity.certificate))
    with httpx.Client(verify=context, timeout=ANSWER_S, trust_env=False) as client:
        return client.get(url, extensions={"sni_hostname": name})
