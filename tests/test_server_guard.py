"""Who may come in: every way of shaking hands, names and pages that are not ours, and the token."""

import itertools
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from common.errors import UserError
from simulator.guard import HEADERS, Security, is_loopback
from simulator.protocol import WRONG_TOKEN, Hello
from tests.serve_helpers import Served, guest, raw_guest, served

TOKEN = "a-token-of-enough-length"
ORIGINS = {"self": "http://{host}", "evil": "https://evil.example", "null": "null", "none": None}
HOSTS = {"ok": "127.0.0.1:{port}", "rebinding": "evil.example:{port}"}
TOKENS = {"ok": TOKEN, "bad": TOKEN[::-1], "none": ""}
BINDS = {"loopback": "127.0.0.1", "lan": "0.0.0.0"}
CASES = list(itertools.product(ORIGINS, HOSTS, TOKENS, BINDS))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    with (
        served(tmp_path_factory.mktemp("loopback"), security=Security.of("127.0.0.1")) as loopback,
        served(tmp_path_factory.mktemp("lan"), host="0.0.0.0", security=Security.of("0.0.0.0", token=TOKEN)) as lan,
    ):
        yield {"loopback": loopback, "lan": lan}


@pytest.mark.parametrize(("origin", "host", "token", "bind"), CASES, ids=["-".join(case) for case in CASES])
def test_handshake(servers: dict[str, Served], origin: str, host: str, token: str, bind: str) -> None:
    server = servers[bind]
    name = HOSTS[host].format(port=server.port)
    page = ORIGINS[origin]
    page = page and page.format(host=name)
    if host == "rebinding" or origin in ("evil", "null"):
        with pytest.raises(InvalidStatus) as refused, raw_guest(server, name=name, origin=page):
            pass
        assert refused.value.response.status_code == 403
        return
    with raw_guest(server, name=name, origin=page) as stranger:
        stranger.say(Hello(1, token=TOKENS[token]))
        if bind == "loopback" or token == "ok":
            assert stranger.hear("welcome")["role"] == "driver"
        else:
            assert "token" in stranger.hear("error")["message"]
            assert stranger.closed() == WRONG_TOKEN


def test_there_are_48_cases_and_8_come_in() -> None:
    served = [
        (origin, host, token, bind)
        for origin, host, token, bind in CASES
        if host == "ok" and origin in ("self", "none") and (bind == "loopback" or token == "ok")
    ]
    assert len(CASES) == 48 and len(served) == 8


PATHS = ["/healthz", "/metrics", "/", "/session", "/nothing"]


@pytest.mark.parametrize("path", PATHS)
def test_http_is_guarded_like_the_socket(servers: dict[str, Served], path: str) -> None:
    server = servers["loopback"]
    for headers in ({"Host": "evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:1"}):
        assert httpx.get(server.url(path), headers=headers).status_code == 403
    for hosts in ("", "Host: localhost\r\nHost: localhost\r\n", "Host: evil@localhost\r\n", "Host:\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), 5) as link:
            link.sendall(f"GET {path} HTTP/1.1\r\n{hosts}\r\n".encode())
            assert link.recv(100).split()[1] in (b"400", b"403"), hosts


@pytest.mark.parametrize("host", ["localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}", "127.0.0.1", "localhost:80"])
def test_names_of_this_machine(servers: dict[str, Served], host: str) -> None:
    server = servers["loopback"]
    name = host.format(port=server.port)
    headers = {"Host": name, "Origin": f"http://{name}"}
    assert httpx.get(server.url("/healthz"), headers=headers).status_code == 200


def test_allowed_host_may_come_through_a_proxy(tmp_path: Path) -> None:
    security = Security.of("127.0.0.1", allowed_hosts=["Robot.Example"])
    with served(tmp_path, security=security) as server:
        for headers in (
            {"Host": "robot.example", "Origin": "https://robot.example"},
            {"Host": f"127.0.0.1:{server.port}", "Origin": "https://robot.example"},
        ):
            assert httpx.get(server.url("/healthz"), headers=headers).status_code == 200
        assert httpx.get(server.url("/healthz"), headers={"Host": "other.example"}).status_code == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/metrics"), ("POST", "/pictures"), ("GET", "/recordings"), ("GET", "/recordings/x.mp4")],
)
def test_token_over_http(servers: dict[str, Served], method: str, path: str) -> None:
    server = servers["lan"]
    for given in (None, "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer schl\xfcssel"):
        headers = [] if given is None else [(b"Authorization", given.encode("latin-1"))]
        answer = httpx.request(method, server.url(path), headers=headers)
        assert answer.status_code == 401 and TOKEN not in answer.text
    answer = httpx.request(method, server.url(path), headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code != 401
    assert httpx.get(server.url("/healthz")).status_code == 200


def test_every_answer_has_the_headers(tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text("<!doctype html>hello")
    (tmp_path / "secret.txt").write_text("secret")
    (page / "link.txt").symlink_to(tmp_path / "secret.txt")
    with served(tmp_path, page=page) as server:
        answer = httpx.get(server.url("/"))
        assert "hello" in answer.text
        for path in ("/", "/healthz", "/nothing"):
            answer = httpx.get(server.url(path))
            for name, value in HEADERS:
                assert answer.headers[name.decode()] == value.decode()
            assert "server" not in answer.headers
        for path in ("/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/link.txt", "//etc/passwd"):
            answer = httpx.get(httpx.URL(server.url("/"), raw_path=path.encode()))
            assert answer.status_code in (400, 404) and "secret" not in answer.text, path


def test_logs_hold_no_token(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with served(tmp_path, security=Security(token=TOKEN)) as server:
        with guest(server, token=TOKEN):
            pass
        with raw_guest(server) as stranger:
            stranger.say(Hello(1, token=TOKEN + "x"))
            stranger.closed()
        httpx.get(server.url("/metrics"), headers={"Authorization": f"Bearer {TOKEN}"})
    ours = "".join(record.getMessage() for record in caplog.records if not record.name.startswith("websockets.client"))
    assert TOKEN not in ours + "".join(capfd.readouterr())
    assert TOKEN not in repr(Security(token=TOKEN))


def test_a_token_is_made_where_others_can_come() -> None:
    assert Security.of("127.0.0.1").token is None and Security.of("localhost").token is None
    made = Security.of("0.0.0.0").token
    assert made and len(made) >= 32 and made != Security.of("0.0.0.0").token
    assert Security.of("127.0.0.1", token=TOKEN).token == TOKEN
    for token in ("", "short", "x" * 15, "with\nnewline-and-more", "zu-kurz-\xfc-und-mehr-zeichen"):
        with pytest.raises(UserError):
            Security.of("127.0.0.1", token=token)
    for name in ("http://robot", "robot:80", "", "*"):
        with pytest.raises(UserError):
            Security.of("127.0.0.1", allowed_hosts=[name])


def test_loopback() -> None:
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.8.8.8", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.5", "robot", "localhost.evil.example"))
