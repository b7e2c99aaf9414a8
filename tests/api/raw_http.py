"""Requests as bytes, and answers as their statuses, for tests of what happens below HTTP clients."""

import contextlib
import json
import socket

EVENT = {"query": "where is my parcel", "decision": {"route": "delivery"}}
BODY = json.dumps(EVENT).encode()


def post(*headers: str, body: bytes = BODY, path: str = "/v1/inferences", version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


LENGTH = f"Content-Length: {len(BODY)}"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def answers(wire: socket.socket, count: int) -> list[int]:
    """The statuses of so many answers, in order; 0 where the connection ended instead."""
    got, statuses = b"", []
    while len(statuses) < count:
        head, found, rest = got.partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]) if found else 0
        if found and len(rest) >= size:
            statuses.append(int(head.split(b" ")[1]))
            got = rest[size:]
        elif chunk := _received(wire):
            got += chunk
        else:
            return [*statuses, 0]
    return statuses


def _received(wire: socket.socket) -> bytes:
    with contextlib.suppress(ConnectionResetError):
        return wire.recv(65_536)
    return b""
