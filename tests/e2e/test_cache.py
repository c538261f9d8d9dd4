"""The cache by what clients and targets see of it: tables of exchanges in the categories of the public HTTP cache tests."""

from contextlib import ExitStack

import pytest

from tests.kit.caching import FRESH, WHO, Bench, Step

MODIFIED = "Wed, 01 Jan 2020 00:00:00 GMT"


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with ExitStack() as stack:
        yield Bench("{}", stack, tmp_path_factory.mktemp("gateway"), before=WHO)


S = Step
TAGGED = ["Cache-Control: max-age=2", 'ETag: "a"']
STORED = S([], "stored")
NEW = S([], "new")
N304 = "validated"


def cc(value: str, *more: str) -> list[str]:
    return [f"Cache-Control: {value}", *more]


def stored_after(*fields: str) -> list[Step]:
    return [S(list(fields)), STORED]


def new_after(*fields: str, later: float = 0.0) -> list[Step]:
    return [S(list(fields)), S([], "new", later=later)]


FRESHNESS = {
    "nothing said": new_after(),
    "max-age": stored_after("Cache-Control: max-age=60"),
    "max-age over": new_after("Cache-Control: max-age=60", later=61),
    "max-age=0": new_after("Cache-Control: max-age=0"),
    "2**31 - 1": stored_after("Cache-Control: max-age=2147483647"),
    "2**31 + 1": stored_after("Cache-Control: max-age=2147483649"),
    "99999999999": stored_after("Cache-Control: max-age=99999999999"),
    "older than that": new_after("Cache-Control: max-age=3600", "Age: 7200"),
    "old by its date": new_after("Cache-Control: max-age=3600", "Date: {-7200}"),
    "Expires is overruled": stored_after("Cache-Control: max-age=60", "Expires: {-60}"),
    "a broken Expires is overruled": stored_after("Cache-Control: max-age=60", "Expires: 0"),
    "max-age=0 overrules Expires": new_after("Cache-Control: max-age=0", "Expires: {+60}", "Date: {0}"),
    "an unknown directive": stored_after("Cache-Control: foobar, max-age=60"),
    "case": stored_after("Cache-Control: MaX-AgE=60"),
    "negative": new_after("Cache-Control: max-age=-60"),
    "s-maxage": stored_after("Cache-Control: s-maxage=60"),
    "shorter s-maxage": new_after("Cache-Control: max-age=3600, s-maxage=1", later=2),
    "shorter s-maxage, first": new_after("Cache-Control: s-maxage=1, max-age=3600", later=2),
    "shorter s-maxage, a line each": new_after("Cache-Control: max-age=3600", "Cache-Control: s-maxage=1", later=2),
    "longer s-maxage": [S(cc("max-age=1, s-maxage=60")), S([], "stored", later=30)],
    "longer s-maxage, past Expires": stored_after("Cache-Control: max-age=0, s-maxage=60", "Expires: {-60}"),
    "the first max-age counts": [S(cc("max-age=60, max-age=1")), S([], "stored", later=30)],
    "the first line counts": [S(cc("max-age=60", "Cache-Control: max-age=1")), S([], "stored", later=30)],
    "quoted": stored_after('Cache-Control: max-age="60"'),
    "in another's quotes, before": new_after('Cache-Control: extension="max-age=60", max-age=1', later=2),
    "in another's quotes, behind": new_after('Cache-Control: max-age=1, extension="max-age=60"', later=2),
    "space before =": new_after("Cache-Control: max-age =60"),
    "space behind =": new_after("Cache-Control: max-age= 60"),
    "leading zeros": stored_after("Cache-Control: max-age=0060"),
    "single quotes": new_after("Cache-Control: max-age='60'"),
    "decimal": new_after("Cache-Control: max-age=60.0"),
    "letters in front": new_after("Cache-Control: max-age=a60"),
    "letters behind": new_after("Cache-Control: max-age=60a"),
    "Expires": stored_after("Expires: {+60}", "Date: {0}"),
    "past Expires": new_after("Expires: {-60}", "Date: {0}"),
    "present Expires": new_after("Expires: {0}", "Date: {0}"),
    "Expires by the target's clock, which is fast": new_after("Expires: {+3600}", "Date: {+3700}"),
    "Expires without a valid Date": stored_after("Expires: {+60}", "Date: foo"),
    "Expires and Age": new_after("Expires: {+60}", "Date: {0}", "Age: 3600"),
    "invalid Expires": new_after("Expires: 0", "Date: {0}"),
    "two Expires": new_after("Expires: {+60}", "Expires: {+90}", "Date: {0}"),
    "Pragma in an answer means nothing beside Cache-Control": stored_after("Cache-Control: max-age=60", "Pragma: no-cache"),
}  # fmt: skip
EXPIRES = {
    "32 bits": ("Tue, 19 Jan 2038 14:14:08 GMT", True),
    "far": ("Sun, 21 Nov 2286 04:46:39 GMT", True),
    "RFC 850": ("Thursday, 18-Aug-50 02:01:18 GMT", True),
    "asctime": ("Thu Aug 18 02:01:18 2050", True),
    "day in capitals": ("THU, 18 Aug 2050 02:01:18 GMT", True),
    "month in capitals": ("Thu, 18 AUG 2050 02:01:18 GMT", True),
    "zone in small letters": ("Thu, 18 Aug 2050 02:01:18 gMT", True),
    "UTC": ("Thu, 18 Aug 2050 02:01:18 UTC", False),
    "another zone": ("Thu, 18 Aug 2050 02:01:18 AEST", False),
    "two digits": ("Thu, 18 Aug 50 02:01:18 GMT", False),
    "no comma": ("Thu 18 Aug 2050 02:01:18 GMT", False),
    "many spaces": ("Thu, 18  Aug  2050 02:01:18 GMT", False),
    "dashes": ("Thu, 18-Aug-2050 02:01:18 GMT", False),
    "periods": ("Thu, 18 Aug 2050 02.01.18 GMT", False),
    "one digit of an hour": ("Thu, 18 Aug 2050 2:01:18 GMT", False),
}
FRESHNESS |= {
    f"Expires: {name}": (stored_after if good else new_after)(f"Expires: {text}", "Date: {0}")
    for name, (text, good) in EXPIRES.items()
}
AGES = {
    "abc": True, "-7200": True, "7200.0": True, "2147483647": False, "2147483648": False, "2147483649": False,
    "7200, 0": False, "0, 7200": True, "0, 0": True,
}  # fmt: skip
FRESHNESS |= {
    f"Age: {text}": (stored_after if good else new_after)("Cache-Control: max-age=3600", f"Age: {text}", "Date: {0}")
    for text, good in AGES.items()
}
FRESHNESS |= {
    "two Ages, the first old": new_after("Cache-Control: max-age=3600", "Age: 7200", "Age: 0"),
    "two Ages, the first new": stored_after("Cache-Control: max-age=3600", "Age: 0", "Age: 7200"),
}

RESPONSE = {
    "private": new_after("Cache-Control: private, max-age=60"),
    "no-store": new_after("Cache-Control: no-store"),
    "no-store in any case": new_after("Cache-Control: nO-StOrE, max-age=60"),
    "no-store with all else": new_after("Cache-Control: max-age=60, no-store", "Expires: {+60}", "Date: {0}"),
    "a newer one may not be stored": [S(FRESH), S(cc("no-store, max-age=60"), "new", later=61), NEW],
    "no-cache": new_after("Cache-Control: no-cache, max-age=60", "Expires: {+60}", "Date: {0}"),
    "no-cache is validated": [S(cc("no-cache, max-age=60", 'ETag: "a"')), S([], N304, status=304), S([], N304, status=304)],
    "no-cache=field leaves out that field": [
        S(cc('no-cache="a, b", max-age=60', "A: 1", "B: 2", "C: 3")),
        S([], "stored", has={"a": None, "b": None, "c": "3"}),
    ],
    "private=field leaves out that field": [
        S(cc('private="set-cookie", max-age=60', "Set-Cookie: a=b")), S([], "stored", has={"set-cookie": None}),
    ],
    "no-cache with a broken list means all": new_after('Cache-Control: no-cache="a, max-age=60'),
    "must-revalidate while fresh": stored_after("Cache-Control: max-age=60, must-revalidate"),
    "must-revalidate when stale": [
        S(cc("max-age=60, must-revalidate", 'ETag: "a"')), S([], N304, status=304, later=61),
    ],
    "immutable while fresh": stored_after("Cache-Control: max-age=60, immutable"),
    "immutable when stale": new_after("Cache-Control: max-age=60, immutable", later=61),
    "must-understand a status that is": stored_after("Cache-Control: max-age=60, no-store, must-understand"),
    "must-understand a status that is not": [S(cc("max-age=60, must-understand"), status=299), S([], "new", status=299)],
    "Set-Cookie": new_after("Cache-Control: max-age=60", "Set-Cookie: a=b"),
    "Set-Cookie and public": new_after("Cache-Control: public, max-age=60", "Set-Cookie: a=b"),
    "a stream of events": new_after("Cache-Control: max-age=60", "Content-Type: text/event-stream"),
    "an attachment": stored_after("Cache-Control: max-age=60", "Content-Disposition: attachment"),
    "part of another": [S(cc("max-age=60", "Content-Range: bytes 0-3/100"), status=206), NEW],
}  # fmt: skip
STATUSES = [200, 203, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 502, 503, 504, 599]
RESPONSE |= {f"fresh {status}": [S(FRESH, status=status), S([], "stored", status=status)] for status in STATUSES}
RESPONSE |= {f"stale {status}": [S(FRESH, status=status), S([], "new", status=status, later=61)] for status in STATUSES}
RESPONSE["fresh 204"] = [S(FRESH, status=204), S([], "stored", status=204)]

REQUEST = {
    "max-age=0": [S(FRESH), S([], "new", "Cache-Control: max-age=0\r\n")],
    "max-age": [S(FRESH), S([], "new", "Cache-Control: max-age=1\r\n", later=2)],
    "max-age that it is within": [S(FRESH), S([], "stored", "Cache-Control: max-age=3\r\n", later=2)],
    "max-age and Age": [S(cc("max-age=3600", "Age: 1800")), S([], "new", "Cache-Control: max-age=600\r\n")],
    "max-stale": [S(cc("max-age=1")), S([], "stored", "Cache-Control: max-stale=600\r\n", later=2)],
    "max-stale of any age": [S(cc("max-age=1")), S([], "stored", "Cache-Control: max-stale\r\n", later=20)],
    "max-stale that it is past": [S(cc("max-age=1")), S([], "new", "Cache-Control: max-stale=5\r\n", later=20)],
    "max-stale and Age": [S(cc("max-age=1500", "Age: 2000")), S([], "stored", "Cache-Control: max-stale=1000\r\n")],
    "max-stale and must-revalidate": [
        S(cc("max-age=1, must-revalidate")), S([], "new", "Cache-Control: max-stale=600\r\n", later=2),
    ],
    "min-fresh": [S(FRESH), S([], "new", "Cache-Control: min-fresh=100\r\n")],
    "min-fresh that it has": [S(FRESH), S([], "stored", "Cache-Control: min-fresh=10\r\n")],
    "min-fresh and Age": [S(cc("max-age=2000", "Age: 1000")), S([], "new", "Cache-Control: min-fresh=1500\r\n")],
    "no-cache": [S(FRESH), S([], "new", "Cache-Control: no-cache\r\n")],
    "no-cache validates by date": [
        S(cc("max-age=60", f"Last-Modified: {MODIFIED}")), S([], N304, "Cache-Control: no-cache\r\n", status=304),
    ],
    "no-cache validates by tag": [S(cc("max-age=60", 'ETag: "a"')), S([], N304, "Cache-Control: no-cache\r\n", status=304)],
    "no-store asks anew": [S(FRESH), S(FRESH, "new", "Cache-Control: no-store\r\n")],
    "no-store is not stored": [S(FRESH, "new", "Cache-Control: no-store\r\n"), NEW],
    "only-if-cached without": [S([], "none", "Cache-Control: only-if-cached\r\n", gets=504)],
    "only-if-cached with": [S(FRESH), S([], "stored", "Cache-Control: only-if-cached\r\n")],
    "Pragma": [S(FRESH), S([], "new", "Pragma: no-cache\r\n")],
    "Pragma beside Cache-Control": [S(FRESH), S([], "stored", "Pragma: no-cache\r\nCache-Control: max-age=60\r\n")],
    "Pragma of another kind": [S(FRESH), S([], "stored", "Pragma: foo\r\n")],
}  # fmt: skip

VARY_FOO = cc("max-age=60", "Vary: Foo")
VARY = {
    "match": [S(VARY_FOO, ask="Foo: 1\r\n"), S([], "stored", "Foo: 1\r\n")],
    "no match": [S(VARY_FOO, ask="Foo: 1\r\n"), S([], "new", "Foo: 2\r\n")],
    "stored without": [S(VARY_FOO), S([], "new", "Foo: 1\r\n")],
    "asked without": [S(VARY_FOO, ask="Foo: 1\r\n"), NEW],
    "both without": [S(VARY_FOO), S([], "stored", "Bar: 1\r\n")],
    "others do not count": [S(VARY_FOO, ask="Foo: 1\r\nOther: 2\r\n"), S([], "stored", "Foo: 1\r\nOther: 3\r\n")],
    "two of three fields": [
        S(cc("max-age=60", "Vary: Foo, Bar", "Vary: baz"), ask="Foo: 1\r\nBar: abc\r\nBaz: 2\r\n"),
        S(cc("max-age=60", "Vary: Foo, Bar, Baz"), "new", "Foo: 1\r\nBar: abcd\r\nBaz: 2\r\n"),
        S([], "stored", "Baz: 2\r\nBar: abcd\r\nFoo: 1\r\n"),
    ],
    "lines are joined": [S(VARY_FOO, ask="Foo: 1\r\nFoo: 2\r\n"), S([], "stored", "Foo: 1, 2\r\n")],
    "spaces mean nothing": [S(VARY_FOO, ask="Foo: 1,2\r\n"), S([], "stored", "Foo: 1 ,  2\r\n")],
    "languages in any case": [
        S(cc("max-age=60", "Vary: Accept-Language"), ask="Accept-Language: en, de\r\n"),
        S([], "stored", "Accept-Language: eN,De\r\n"),
    ],
    "codings in any order": [
        S(cc("max-age=60", "Vary: Accept-Encoding"), ask="Accept-Encoding: gzip, br\r\n"),
        S([], "stored", "Accept-Encoding: br,gzip\r\n"),
    ],
}  # fmt: skip
VARY |= {
    f"star: {value!r}": new_after("Cache-Control: max-age=60", *[f"Vary: {line}" for line in value.split(";")])
    for value in ("*", "*, *", "*;*", ", *", ";*", "*, Foo", "Foo, *")
}

ETAG = cc("max-age=60", 'ETag: "abc"', "Content-Type: text/x")
CONDITIONS = {
    "a tag": [S(ETAG), S([], "stored", 'If-None-Match: "abc"\r\n', gets=304, has={"etag": '"abc"', "content-type": None})],
    "another tag": [S(ETAG), S([], "stored", 'If-None-Match: "abcd"\r\n')],
    "weak in the request": [S(ETAG), S([], "stored", 'If-None-Match: W/"abc"\r\n', gets=304)],
    "weak in the answer": [S(cc("max-age=60", 'ETag: W/"abc"')), S([], "stored", 'If-None-Match: W/"abc"\r\n', gets=304)],
    "first of several": [S(ETAG), S([], "stored", 'If-None-Match: "abc", "b"\r\n', gets=304)],
    "last of several": [S(ETAG), S([], "stored", 'If-None-Match: "a,b", "b", "abc"\r\n', gets=304)],
    "any": [S(ETAG), S([], "stored", "If-None-Match: *\r\n", gets=304)],
    "without quotes": [S(ETAG), S([], "stored", "If-None-Match: abc\r\n")],
    "beyond ASCII": [S(cc("max-age=60", 'ETag: "\xe4"')), S([], "stored", 'If-None-Match: "\xe4"\r\n', gets=304)],
    "the tag counts more than the date": [
        S([*ETAG, f"Last-Modified: {MODIFIED}"]),
        S([], "stored", f'If-None-Match: "other"\r\nIf-Modified-Since: {MODIFIED}\r\n'),
    ],
    "a date": [S(cc("max-age=60", f"Last-Modified: {MODIFIED}")), S([], "stored", f"If-Modified-Since: {MODIFIED}\r\n", gets=304)],
    "a later date": [
        S(cc("max-age=60", f"Last-Modified: {MODIFIED}")), S([], "stored", "If-Modified-Since: {-60}\r\n", gets=304),
    ],
    "an earlier date": [
        S(cc("max-age=60", f"Last-Modified: {MODIFIED}")), S([], "stored", "If-Modified-Since: Tue, 31 Dec 2019 00:00:00 GMT\r\n"),
    ],
    "an old form of date": [
        S(cc("max-age=60", f"Last-Modified: {MODIFIED}")),
        S([], "stored", "If-Modified-Since: Wednesday, 01-Jan-20 00:00:00 GMT\r\n", gets=304),
    ],
    "no Last-Modified: its Date": [S(cc("max-age=60", "Date: {-10}")), S([], "stored", "If-Modified-Since: {0}\r\n", gets=304)],
    "stale, and the client's matches": [
        S([*TAGGED]), S(cc("max-age=60"), "validated", 'If-None-Match: "a"\r\n', status=304, later=3, gets=304),
        S([], "stored", later=30),
    ],
    "stale, and the client's does not": [S([*TAGGED]), S([], N304, 'If-None-Match: "z"\r\n', status=304, later=3)],
    "nothing stored: passed on": [S(TAGGED, "new", 'If-None-Match: "z"\r\n')],
    "If-Match is the target's": [S(ETAG), S([], "new", 'If-Match: "abc"\r\n')],
    "a stored failure has no conditions": [
        S(ETAG, status=404), S([], "stored", 'If-None-Match: "abc"\r\n', status=404),
    ],
    "weak tags validate": [S(cc("max-age=2", 'ETag: W/"a"')), S([], N304, status=304, later=3)],
    "a new answer in place of a 304": [S(TAGGED), S(FRESH, "new", later=3), STORED],
    "Vary is sent along": [
        S(cc("max-age=2", 'ETag: "a"', "Vary: Foo"), ask="Foo: 1\r\n"), S([], N304, "Foo: 1\r\n", status=304, later=3),
    ],
}  # fmt: skip

FRESHENING = {
    "a new lifetime": [S(TAGGED), S(cc("max-age=60"), N304, status=304, later=3), S([], "stored", later=30)],
    "the old lifetime": [S(TAGGED), S([], N304, status=304, later=3), S([], "stored", later=1), S([], N304, status=304, later=3)],
    "fields that it names": [
        S([*TAGGED, "X-A: 1", "X-B: 1"]),
        S(["X-A: 2"], N304, status=304, later=3, has={"x-a": "2", "x-b": "1"}),
        S([], "stored", has={"x-a": "2", "x-b": "1"}),
    ],
    "not those of the body": [
        S([*TAGGED, "Content-Encoding: x"]),
        S(["Content-Encoding: y", "Content-Length: 3"], N304, status=304, later=3, has={"content-encoding": "x"}),
    ],
    "not those that are never stored": [
        S(TAGGED), S(["Set-Cookie: a=b"], N304, status=304, later=3, has={"set-cookie": "a=b"}),
        S([], "stored", has={"set-cookie": None}),
    ],
    "now private: for this one request only": [
        S(TAGGED), S(cc("private, max-age=60"), N304, status=304, later=3), NEW,
    ],
}  # fmt: skip

STALE = {
    "a failure without leave": [S(cc("max-age=2")), S([], "new", status=503, later=3)],
    "stale-if-error and 503": [S(cc("max-age=2, stale-if-error=60")), S([], "instead", status=503, later=3)],
    "stale-if-error, too late": [S(cc("max-age=2, stale-if-error=60")), S([], "new", status=503, later=63)],
    "stale-if-error and 404": [S(cc("max-age=2, stale-if-error=60")), S([], "new", status=404, later=3)],
    "stale-if-error under must-revalidate": [
        S(cc("max-age=2, stale-if-error=60, must-revalidate")), S([], "new", status=503, later=3),
    ],
    "stale-while-revalidate, too late": [S(cc("max-age=2, stale-while-revalidate=5")), S([], "new", later=8)],
    "stale-while-revalidate under must-revalidate": [
        S(cc("max-age=2, stale-while-revalidate=5, must-revalidate")), S([], "new", later=3),
    ],
}  # fmt: skip

AUTHORIZATION = "Authorization: Basic YTpi\r\n"
OTHER = "Authorization: Basic Yjpi\r\n"
PERSONAL = {
    "Authorization": [S(FRESH, ask=AUTHORIZATION), S(FRESH, "new", OTHER), NEW],
    "Authorization and public": [S(cc("public, max-age=60"), ask=AUTHORIZATION), S([], "stored", OTHER), STORED],
    "Authorization and s-maxage": [S(cc("s-maxage=60"), ask=AUTHORIZATION), S([], "stored", OTHER)],
    "Authorization and must-revalidate": [S(cc("max-age=60, must-revalidate"), ask=AUTHORIZATION), S([], "stored", OTHER)],
    "nobody's answer is not for somebody": [S(FRESH), S(FRESH, "new", AUTHORIZATION), S([], "stored", of=0)],
    "a cookie": [S(FRESH, ask="Cookie: a=b\r\n"), S(FRESH, "new", "Cookie: a=c\r\n"), NEW],
    "a cookie and public": [S(cc("public, max-age=60"), ask="Cookie: a=b\r\n"), S([], "stored", "Cookie: a=c\r\n")],
    "a cookie that it varies by": [
        S(cc("max-age=60", "Vary: Cookie"), ask="Cookie: a=b\r\n"),
        S(FRESH, "new", "Cookie: a=c\r\n"),
        S([], "stored", "Cookie: a=b\r\n", of=0),
    ],
    "a consumer": [S(FRESH, ask="X-Key: ann\r\n"), S(FRESH, "new", "X-Key: bob\r\n"), S(FRESH, "new", "X-Key: ann\r\n"), NEW],
    "a consumer and must-revalidate": [
        S(cc("max-age=60, must-revalidate"), ask="X-Key: ann\r\n"), S([], "new", "X-Key: bob\r\n"),
    ],
    "a consumer and public": [S(cc("public, max-age=60"), ask="X-Key: ann\r\n"), S([], "stored", "X-Key: bob\r\n")],
}  # fmt: skip
TABLES = {
    "freshness": FRESHNESS, "response": RESPONSE, "request": REQUEST, "vary": VARY, "conditions": CONDITIONS,
    "freshening": FRESHENING, "stale": STALE, "personal": PERSONAL,
}  # fmt: skip
CASES = [pytest.param(steps, id=f"{table}: {name}") for table, cases in TABLES.items() for name, steps in cases.items()]


@pytest.mark.parametrize("steps", CASES)
def test_exchanges(bench, steps):
    bench.play(steps)
