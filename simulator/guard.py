"""Who may talk to the server: names in `Host`, pages in `Origin`, and the token.

A browser sends what any page tells it to, also to a server on the same machine. So each request's `Host` must be a
name of this server (a page elsewhere can point its own name here), and its `Origin`, where there is one, must be this
server's own page. Where others can reach the server, they need a token, too.
"""

import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.errors import UserError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SHORTEST_TOKEN = 16
ADDRESS = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::([0-9]{1,5}))?")
"""A host and perhaps its port, as in `Host`, in lower case."""
HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; "
        b"object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


@dataclass(frozen=True)
class Security:
    """What the server asks of those who come. `Security.of` fills it in for a host."""

    token: str | None = field(default=None, repr=False)
    """None: nobody needs one."""
    hosts: frozenset[str] = frozenset()
    """Names of this server, besides loopback's and the address at which a connection comes in."""
    takeover: bool = False
    """Whether a second driver may take the first one's place."""

    @staticmethod
    def of(
        host: str, *, token: str | None = None, allowed_hosts: Sequence[str] = (), takeover: bool = False
    ) -> "Security":
        """For a server that listens at `host`: with a token of its own making, unless that is loopback.

        UserError for a token that could be guessed, or an allowed host that is none.
        """
        if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
            raise UserError(
                f"a token must have {SHORTEST_TOKEN} or more plain characters",
                hint="Leave it out, and one is made where it is needed.",
            )
        for name in allowed_hosts:
            if (found := ADDRESS.fullmatch(name.lower())) is None or found[3]:
                raise UserError(f"'{name}' is no host", hint="Name it as a browser does, without scheme and port.")
        if token is None and not is_loopback(host):
            token = secrets.token_urlsafe()
        return Security(token, frozenset(name.lower().strip("[]") for name in allowed_hosts), takeover)

    def knows(self, token: str) -> bool:
        """Whether that is the token, in a time that does not tell how much of it is right."""
        if self.token is None:
            return True
        return hmac.compare_digest(token.encode(errors="backslashreplace"), self.token.encode())

    def admits(self, connection: HTTPConnection) -> bool:
        """Whether `Authorization: Bearer TOKEN` is there, where a token is needed."""
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        return self.token is None or (scheme.lower() == "bearer" and self.knows(token.strip()))

    def objection(self, connection: HTTPConnection) -> str:
        """Why the connection's `Host` or `Origin` is not served; empty if it is."""
        hosts, origins = connection.headers.getlist("host"), connection.headers.getlist("origin")
        found = ADDRESS.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
        if found is None:
            return "a request needs one Host"
        name, port = found[1] or found[2], found[3]
        address = (connection.scope.get("server") or ("",))[0].removeprefix("::ffff:")  # IPv4 on an IPv6 socket
        if name not in LOOPBACK | self.hosts | {address}:
            return f"this server does not answer to the name {name} (start it with --allowed-host {name})"
        if not origins:
            return ""  # no browser: those always send one with a WebSocket or a POST
        scheme, _, rest = origins[0].lower().partition("://")
        page = ADDRESS.fullmatch(rest) if len(origins) == 1 and scheme in ("http", "https") else None
        if page is None:
            return "this server does not answer to that page"
        usual = "443" if scheme == "https" else "80"
        own = (page[1] or page[2], page[3] or usual) == (name, port or usual)
        if not own and (page[1] or page[2]) not in self.hosts:  # a proxy may have put its own name into Host
            return "this server answers only to its own page"
        return ""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens at that name or address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware: refuses what `Security.objection` objects to, and adds `HEADERS` to every answer."""

    def __init__(self, app: ASGIApp, security: Security) -> None:
        self.app = app
        self.security = security

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        objection = self.security.objection(HTTPConnection(scope))
        if not objection:
            await self.app(scope, receive, send_with_headers)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": ""})  # before it is accepted: HTTP 403
        else:
            await PlainTextResponse(objection + "\n", status_code=403)(scope, receive, send_with_headers)
