"""`gatewright token`: it prints a token that the gateway takes, or says why there is none."""

import json
import os
import subprocess
import sys

import jwt
import pytest
from typer.testing import CliRunner

from gatewright.cli.main import app
from tests.kit.tokens import SECRET, private_key, private_pem, public_pem

CONFIG = """
services: {s: {targets: ["http://127.0.0.1:9"]}}
routes:
  - {name: shop, match: {path: /shop}, service: s}
  - {name: open, match: {path: /open}, service: s, plugins: [jwt: {enabled: false}]}
  - {name: strict, match: {path: /strict}, service: s, plugins: [{STRICT}]}
plugins:
  - jwt: {algorithms: [HS512, HS256], secret: "${JWT_SECRET:-}", issuer: [me, you], audience: shop}
"""
STRICT = "jwt: {algorithms: [ES256], public_key_file: key.pem, required: [exp, tenant], types: [at+jwt], consumer_claim: client_id}"


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "gateway.yaml").write_text(CONFIG.replace("{STRICT}", STRICT))
    (tmp_path / "key.pem").write_text(public_pem(private_key("p256")))
    (tmp_path / "private.pem").write_text(private_pem(private_key("p256")))
    (tmp_path / "other.pem").write_text(private_pem(private_key("p256", 1)))
    (tmp_path / "rsa.pem").write_text(private_pem(private_key("rsa")))

    monkeypatch.chdir(tmp_path)

    def token(*arguments, secret=SECRET):
        done = CliRunner().invoke(app, ["token", *arguments], env={"JWT_SECRET": secret})
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    return token


def test_the_command(run, tmp_path):
    code = "from gatewright.cli import main; main()"
    env = {**os.environ, "JWT_SECRET": SECRET}
    done = subprocess.run(
        [sys.executable, "-c", code, "token"], env=env, capture_output=True, text=True, timeout=30, check=True
    )
    jwt.decode(done.stdout.strip(), SECRET, ["HS512"], audience="shop")
    assert done.stderr == ""


def test_the_token_alone_is_printed(run):
    done = run(
        "--sub", "ann", "--claim", 'groups=["a"]', "--claim", "name=Ann B", "--claim", "level=3", "--expires", "30m"
    )
    assert (done.exit_code, done.stderr) == (0, "")
    text = done.stdout.removesuffix("\n")
    assert jwt.get_unverified_header(text) == {"alg": "HS512", "typ": "JWT"}
    claims = jwt.decode(text, SECRET, ["HS512"], audience="shop", issuer="me")
    assert claims["exp"] - claims["iat"] == 1800
    assert {name: claims[name] for name in ("sub", "groups", "name", "level")} == {
        "sub": "ann", "groups": ["a"], "name": "Ann B", "level": 3,
    }  # fmt: skip


def test_an_algorithm_by_choice(run):
    assert jwt.get_unverified_header(run("--alg", "HS256").stdout.strip())["alg"] == "HS256"


def test_a_private_key_for_a_route_of_its_own(run):
    done = run("--route", "strict", "--key", "private.pem", "--claim", "tenant=7", "--config", "gateway.yaml")
    text = done.stdout.strip()
    assert jwt.get_unverified_header(text) == {"alg": "ES256", "typ": "at+jwt"}
    claims = jwt.decode(text, private_key("p256").public_key(), ["ES256"])
    assert (claims["client_id"], claims["tenant"]) == ("developer", 7)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--route", "open"], "the route open takes requests without a token"),
        (["--route", "shup"], "there is no route shup; did you mean shop?"),
        (["--route", "strict"], "has public keys only: give the private one"),
        (["--route", "strict", "--key", "private.pem"], "would not take the token: the claim tenant is missing"),
        (["--route", "strict", "--key", "other.pem", "--claim", "tenant=7"], "the key is not the one"),
        (["--route", "strict", "--key", "rsa.pem"], "this key cannot sign with ES256"),
        (["--route", "strict", "--key", "key.pem"], "holds no private key"),
        (["--key", "none.pem"], "none.pem cannot be read: no such file"),
        (["--key", "private.pem"], "cannot sign with HS512 or HS256"),
        (["--alg", "none"], "does not take none, only HS512, HS256"),
        (["--alg", "RS256"], "does not take RS256"),
        (["--claim", "tenant"], "write NAME=VALUE"),
        (["--claim", "sub="], "names no consumer"),
        (["--claim", "exp=5"], "the token has expired"),
        (["--expires", "soon"], "must be a duration"),
        (["--config", "none.yaml"], "none.yaml: cannot be read"),
    ],
)
def test_refusals(run, arguments, words):
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert words in done.stderr


def test_a_bad_configuration_is_told_with_its_place(run):
    done = run(secret="")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "plugins[0].jwt.secret: is empty" in done.stderr
    assert "gateway.yaml:8:" in done.stderr


def test_several_plugins_and_none(run, tmp_path):
    def route(number):
        plugin = f"jwt: {{algorithms: [HS256], secret: {json.dumps(SECRET + str(number % 2))}}}"
        return f"{{name: r{number}, match: {{path: /{number}}}, respond: {{}}, plugins: [{plugin}]}}"

    routes = [route(number) for number in range(3)]
    (tmp_path / "gateway.yaml").write_text(f"routes: [{', '.join(routes)}]\n")
    assert "name a route with --route" in run().stderr
    jwt.decode(run("--route", "r1").stdout.strip(), SECRET + "1", ["HS256"])
    (tmp_path / "gateway.yaml").write_text(f"routes: [{routes[0]}, {routes[2]}]\n")
    jwt.decode(run().stdout.strip(), SECRET + "0", ["HS256"])
    (tmp_path / "gateway.yaml").write_text("routes: [{name: r, match: {path: /}, respond: {}}]\n")
    assert "no jwt plugin is there: no token is needed" in run().stderr
