"""TLS contexts: for listeners, and for targets."""

import ssl
from contextlib import ExitStack
from dataclasses import dataclass

from gatewright.core.contents import name_of


@dataclass(frozen=True, slots=True)
class TargetTls:
    """How https targets are spoken to. Paths of PEM files, or None."""

    verify: bool = True
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None


def client_context(tls: TargetTls) -> ssl.SSLContext:
    """Return the context for connections to targets, TLS 1.2 or newer. Raises OSError or ssl.SSLError for bad files."""
    with ExitStack() as stack:
        ca, cert, key = (
            None if path is None else stack.enter_context(name_of(path)) for path in (tls.ca, tls.cert, tls.key)
        )
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
        if not tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if cert is not None:
            context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["http/1.1"])
    return context


def server_context(cert: str, key: str) -> ssl.SSLContext:
    """Return the context of a listener, TLS 1.2 or newer. Raises OSError or ssl.SSLError for bad files."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with name_of(cert) as cert_name, name_of(key) as key_name:
        context.load_cert_chain(cert_name, key_name)
    context.set_alpn_protocols(["http/1.1"])
    return context
