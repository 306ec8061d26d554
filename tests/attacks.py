"""Attacks on a server from a process of their own: python -m tests.attacks NAME PORT SECONDS

Standard library only, so that they cost the machine little besides what they do to the server. Each ends after so many
seconds and prints how often it was shown out.
"""

import socket
import sys
import time
from contextlib import suppress

HELLO = b'{"type":"hello","version":1,"role":"viewer"}'
PING = b'{"type":"ping"}'
HANDSHAKE = "\r\n".join(
    [
        "GET /session HTTP/1.1",
        "Host: localhost",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "",
        "",
    ]
).encode()


def text(data: bytes) -> bytes:
    """A short text as a client's frame, masked with zeros."""
    assert len(data) < 126
    return bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data


def flood(port: int, until: float) -> int:
    """10,000 messages per second; comes back whenever it's shown out."""
    times = 0
    while time.monotonic() < until:
        with socket.create_connection(("127.0.0.1", port)) as link, suppress(OSError):
            link.settimeout(0.5)
            link.sendall(HANDSHAKE)
            link.recv(4096)
            link.sendall(text(HELLO))
            began, sent = time.monotonic(), 0
            while time.monotonic() < until:
                link.sendall(100 * text(PING))
                sent += 100
                time.sleep(max(0.0, began + sent / 10_000 - time.monotonic()))
        times += 1
    return times


def sockets(port: int, until: float) -> int:
    """200 WebSockets that say nothing."""
    return crowd(port, until, 200, HANDSHAKE)


def half_open(port: int, until: float) -> int:
    """300 connections that ask for half of something."""
    return crowd(port, until, 300, b"GET / HTTP/1.1\r\nHost: loc")


def crowd(port: int, until: float, number: int, opening: bytes) -> int:
    links = [socket.create_connection(("127.0.0.1", port)) for _ in range(number)]
    for link in links:
        with suppress(OSError):
            link.sendall(opening)
    time.sleep(max(0.0, until - time.monotonic()))
    return sum(map(shown_out, links))


def shown_out(link: socket.socket) -> bool:
    """Whether the other side has ended the connection."""
    link.setblocking(False)
    try:
        while link.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


if __name__ == "__main__":
    attack = {"flood": flood, "sockets": sockets, "half_open": half_open}[sys.argv[1]]
    print(attack(int(sys.argv[2]), time.monotonic() + float(sys.argv[3])))
