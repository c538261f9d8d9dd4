"""An issuer changes its keys in the middle of a load, with several workers that each find out for themselves."""

import re
import time
from functools import cache

from tests.kit.answers import why
from tests.kit.parallel import asking
from tests.kit.tokens import Issuer, jwk, jwks, private_key, token
from tests.kit.wire import RawSocket

KEYS = {name: private_key("p256", number) for number, name in enumerate(("old", "new", "newest"))}
UNKNOWN = {(503, "jwt_keys_unavailable"), (401, "jwt_invalid")}  # the issuer is being asked; it was asked just now
COOLDOWN = 0.2
CONNECTIONS = 12  # so many that each worker has some


def published(*names):
    return jwks(*(jwk(KEYS[name], kid=name) for name in names))


@cache
def bearer(name):
    return f"Authorization: Bearer {token(KEYS[name], 'ES256', {'kid': name})}\r\n"


def age(gateway, url):
    """How old the metrics say that the keys are."""
    text = gateway.admin("GET", "/metrics")[1]
    (found,) = re.findall(rf'^gateway_jwks_age_seconds{{url="{url}"}} (\S+)$', text, re.MULTILINE)
    return float(found)


def test_keys_change_under_a_load_and_no_good_token_is_refused(run, stack):
    issuer = stack.enter_context(Issuer(published("old")))
    gateway = run(f"""
workers: 2
routes: [{{name: all, match: {{path: "/{{rest...}}"}}, respond: {{status: 200}}}}]
plugins: [{{jwt: {{algorithms: [ES256], jwks: {{url: "{issuer.url}", refresh: 1h, cooldown: {COOLDOWN * 1000:.0f}ms}}}}}}]
""").ready()
    begun = time.monotonic()
    connections = [stack.enter_context(RawSocket.connect(gateway.port)) for _ in range(CONNECTIONS)]

    def ask(name):
        """One request on every connection."""
        for connection in connections:
            connection.send(f"GET /{name} HTTP/1.1\r\nHost: test\r\n{bearer(name)}\r\n".encode())
        answers = [connection.read_answer() for connection in connections]
        return {200 if answer.status == 200 else why(answer) for answer in answers}

    def accepted(name):
        """Ask until every worker takes a token of a key that it cannot know yet; what it says before that."""
        said = set()

        def is_known():
            now = ask(name)
            said.update(now)
            return now == {200}

        gateway.until(is_known, f"known: {name}")
        return said - {200}

    assert ask("old") == {200}
    assert issuer.asked == 2  # each worker at its start
    with asking([gateway.port], ["/"], clients=4, fields=bearer("old")) as heard:
        assert ask("new") <= UNKNOWN
        issuer.document = published("old", "new")
        assert accepted("new") <= UNKNOWN
        assert ask("old") == {200}
        count = heard.least()
        gateway.until(lambda: heard.least() > count + 50, "served")
    assert (heard.statuses, heard.broken) == ({200}, 0)
    issuer.document = published("new", "newest")
    assert ask("old") == {200}  # who has not asked again cannot know
    with asking([gateway.port], ["/"], clients=4, fields=bearer("new")) as heard:
        accepted("newest")
        assert ask("old") <= UNKNOWN  # although its tokens were remembered
        gateway.until(lambda: ask("old") == {(401, "jwt_invalid")}, "refused")
        count = heard.least()
        gateway.until(lambda: heard.least() > count + 50, "served")
    assert (heard.statuses, heard.broken) == ({200}, 0)
    cooldowns = (time.monotonic() - begun) / COOLDOWN
    assert issuer.asked <= 2 + 2 * (cooldowns + 1)  # hundreds of requests have wanted a key that was not there
    assert age(gateway, issuer.url) < 20
    issuer.stop()
    before = age(gateway, issuer.url)
    gateway.until(lambda: age(gateway, issuer.url) > before + 0.3, "older")
    assert ask("newest") == {200}
    assert gateway.end() == 0
