"""A DNS server on a free port of 127.0.0.1, UDP and TCP, whose records a test sets while it runs."""

import contextlib
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Self

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.kit.server_process import free_ports

NXDOMAIN, SERVFAIL = "NXDOMAIN", "SERVFAIL"


class DnsServer:
    """Answers what `records` says: (name, kind) -> (TTL, data); a text there is a response code. Others: no data."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], tuple[int, Sequence[str]] | str] = {}
        self.additional: dict[tuple[str, str], str] = {}  # sent along with SRV answers
        self.asked: list[tuple[str, str, str]] = []  # transport, name, kind
        self.truncates = False
        self.is_mute = False
        (self.port,) = free_ports(1)
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", self.port))
        self._tcp = socket.create_server(("127.0.0.1", self.port))
        self._threads = [threading.Thread(target=serve, daemon=True) for serve in (self._serve_udp, self._serve_tcp)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._udp.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._tcp.shutdown(socket.SHUT_RDWR)
        self._udp.close()
        self._tcp.close()
        for thread in self._threads:
            thread.join(5)

    def _serve_udp(self) -> None:
        while True:
            try:
                data, address = self._udp.recvfrom(4096)
            except OSError:
                return
            if not data:
                return
            if not self.is_mute:
                self._udp.sendto(self._answer(data, "udp"), address)

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                head = stream.read(2)
                if len(head) == 2:
                    data = self._answer(stream.read(*struct.unpack("!H", head)), "tcp")
                    connection.sendall(struct.pack("!H", len(data)) + data)

    def _answer(self, data: bytes, transport: str) -> bytes:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name, kind = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((transport, name, kind))
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        known = self.records.get((name, kind), (0, ()))
        if isinstance(known, str):
            response.set_rcode(dns.rcode.from_text(known))
        elif self.truncates and transport == "udp":
            response.flags |= dns.flags.TC
        else:
            ttl, values = known
            if values:
                response.answer.append(dns.rrset.from_text(question.name, ttl, "IN", kind, *values))
            if kind == "SRV":
                for (host, sort), value in self.additional.items():
                    response.additional.append(dns.rrset.from_text(f"{host}.", ttl, "IN", sort, value))
        return response.to_wire()
