"""Discovery by DNS against a server whose records change: kinds of records, their life, what is not there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gatewright.control.discovery.dns_records import DnsSource
from gatewright.core.clock import SystemClock
from tests.control.finding import Finding, run
from tests.kit.dns import NXDOMAIN, SERVFAIL, DnsServer

NAME = "web.test"
SRV = "_http._tcp.web.test"


@pytest.fixture
def server() -> Iterator[DnsServer]:
    with DnsServer() as server:
        yield server


def config(server: DnsServer, more: str = "port: 80", name: str = NAME) -> str:
    resolver = f"resolver: '127.0.0.1:{server.port}', interval: 10ms"
    return f"services: {{s: {{discover: {{dns: {{name: {name}, {resolver}, {more}}}}}}}}}\n"


def told(*hosts: str) -> list[tuple[str, int]]:
    return [(host, 1) for host in hosts]


def test_addresses_of_both_kinds(tmp_path: Path, server: DnsServer) -> None:
    async def check(finding: Finding) -> None:
        server.records = {(NAME, "A"): (0, ["127.0.0.2", "127.0.0.1"]), (NAME, "AAAA"): (0, ["::1"])}
        finding.update(config(server, "port: 8080"))
        assert await finding.next() == told("127.0.0.1:8080", "127.0.0.2:8080", "[::1]:8080")
        server.records[NAME, "A"] = (0, ["127.0.0.1"])
        assert await finding.next() == told("127.0.0.1:8080", "[::1]:8080")
        finding.update(config(server, "port: 8080, ipv6: false"))
        await finding.until(lambda: finding.told[-1] == told("127.0.0.1:8080"))

    run(tmp_path, check)


def test_service_records_have_ports_weights_and_priorities(tmp_path: Path, server: DnsServer) -> None:
    async def check(finding: Finding) -> None:
        server.records = {
            (SRV, "SRV"): (0, ["1 10 8001 a.test.", "1 0 8002 b.test.", "2 5 8003 c.test."]),
            ("a.test", "A"): (0, ["127.0.0.1", "127.0.0.2"]),
            ("b.test", "A"): (0, ["127.0.0.3"]),
            ("c.test", "A"): (0, ["127.0.0.4"]),
        }
        finding.update(config(server, "srv: true", SRV))
        assert await finding.next() == [("127.0.0.1:8001", 10), ("127.0.0.2:8001", 10), ("127.0.0.3:8002", 1)]
        server.records[SRV, "SRV"] = (0, ["1 10 8001 gone.test.", "2 5 8003 c.test."])
        assert await finding.next() == [("127.0.0.4:8003", 5)]
        assert ("a.test", "A") not in finding.discovery._watches["s"]._source._addresses  # type: ignore[attr-defined]

    run(tmp_path, check)


def test_addresses_that_come_along_are_not_asked_for(tmp_path: Path, server: DnsServer) -> None:
    async def check(finding: Finding) -> None:
        server.records = {(SRV, "SRV"): (0, ["1 10 8001 a.test."]), ("a.test", "A"): (0, ["127.0.0.9"])}
        server.additional = {("a.test", "A"): "127.0.0.1"}
        finding.update(config(server, "srv: true", SRV))
        assert await finding.next() == [("127.0.0.1:8001", 10)]
        assert {kind for _, _, kind in server.asked} == {"SRV"}

    run(tmp_path, check)


def test_no_service_and_no_port_are_no_instances(tmp_path: Path, server: DnsServer) -> None:
    async def check(finding: Finding) -> None:
        server.records = {(SRV, "SRV"): (0, ["0 0 0 ."])}
        finding.update(config(server, "srv: true", SRV))
        assert await finding.next() == []
        server.records = {(SRV, "SRV"): (0, ["0 0 0 a.test.", "0 0 5 a.test."]), ("a.test", "A"): (0, ["127.0.0.1"])}
        assert await finding.next() == [("127.0.0.1:5", 1)]

    run(tmp_path, check)


@pytest.mark.parametrize("gone", [NXDOMAIN, (60, [])], ids=["no name", "no data"])
def test_a_name_without_addresses_keeps_the_last_for_a_while(tmp_path: Path, server: DnsServer, gone) -> None:
    async def check(finding: Finding) -> None:
        server.records = {(NAME, "A"): (0, ["127.0.0.1"])}
        finding.update(config(server, "port: 80, keep: 200ms"))
        assert await finding.next() == told("127.0.0.1:80")
        asked = len(server.asked)
        server.records = {(NAME, "A"): gone, (NAME, "AAAA"): gone}
        assert await finding.next() == []
        assert len(server.asked) - asked > 6, "it was asked several times meanwhile"
        server.records = {(NAME, "A"): (0, ["127.0.0.2"])}
        assert await finding.next() == told("127.0.0.2:80")
        assert finding.errors() == 0

    run(tmp_path, check)


def test_a_server_that_fails_changes_nothing(tmp_path: Path, server: DnsServer) -> None:
    async def check(finding: Finding) -> None:
        server.records = {(NAME, "A"): (0, ["127.0.0.1"])}
        finding.update(config(server, "port: 80, keep: 0s"))
        assert await finding.next() == told("127.0.0.1:80")
        server.records = {(NAME, "A"): SERVFAIL, (NAME, "AAAA"): SERVFAIL}
        await finding.until(lambda: len(server.asked) > 20)
        assert finding.told == [told("127.0.0.1:80")]
        assert finding.errors() == 0, "the addresses of each kind stay what they were"

    run(tmp_path, check)


def test_a_server_that_fails_from_the_start_is_an_error(tmp_path: Path, server: DnsServer) -> None:
    async def check(finding: Finding) -> None:
        server.records = {(NAME, "A"): SERVFAIL, (NAME, "AAAA"): SERVFAIL}
        finding.update(config(server))
        await finding.until(lambda: finding.errors() >= 1)
        assert finding.discovery.waiting() == ["s"]
        server.records = {(NAME, "A"): (0, ["127.0.0.1"]), (NAME, "AAAA"): SERVFAIL}
        assert await finding.next() == told("127.0.0.1:80"), "one kind is enough"

    run(tmp_path, check)


@pytest.mark.parametrize("tcp", [False, True])
def test_a_long_answer_comes_by_tcp(tmp_path: Path, server: DnsServer, tcp: bool) -> None:
    async def check(finding: Finding) -> None:
        server.truncates = True
        hosts = [f"127.0.1.{number}" for number in range(1, 201)]
        server.records = {(NAME, "A"): (0, hosts)}
        finding.update(config(server, f"port: 80, ipv6: false, tcp: {str(tcp).lower()}"))
        assert len(await finding.next()) == 200
        assert [transport for transport, *_ in server.asked[:2]] == (["tcp", "tcp"] if tcp else ["udp", "tcp"])[
            : len(server.asked[:2])
        ]

    run(tmp_path, check)


@pytest.mark.parametrize(
    ("ttl", "interval", "low", "high"), [(7, "1s", 7, 7.7), (7, "20s", 20, 22), (90000, "1s", 300, 330)]
)
def test_a_record_lives_as_long_as_it_says(
    tmp_path: Path, server: DnsServer, ttl: int, interval: str, low: float, high: float
) -> None:
    async def check(finding: Finding) -> None:
        server.records = {(NAME, "A"): (ttl, ["127.0.0.1"]), (NAME, "AAAA"): (86400, [])}
        text = config(server, "port: 80, ipv6: false").replace("10ms", interval)
        terms = finding.config(text).services["s"].discover
        assert terms is not None
        assert terms.dns is not None
        source = DnsSource(terms.dns, SystemClock())
        await source.next()
        assert low - 1 < source._due - SystemClock.now() <= high

    run(tmp_path, check)
