"""What is wrong below the level of a request: the server answers 400 or hangs up, stores nothing, and goes on."""

import json
import socket
import time
from contextlib import suppress

import pytest

from tests.api.bad_input.corpus import EVENT

BODY = json.dumps(EVENT.body)
POST = "POST /v1/inferences HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def exchange(client, sent, *, hang_up=False):
    """Send bytes on a connection of their own; return the answer's status, 0 for none."""
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=3) as connection:
        with suppress(ConnectionError):  # it may have hung up on us already
            connection.sendall(sent)
            if hang_up:
                return 0
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(TimeoutError, ConnectionError):
            while chunk := connection.recv(65_536):
                answer += chunk
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


@pytest.mark.parametrize(
    "sent",
    {
        "not HTTP": "\x16\x03\x01\x02\x00 hello\r\n\r\n",
        "a negative length": f"{POST}Content-Length: -5\r\n\r\n{BODY}",
        "a length of letters": f"{POST}Content-Length: abc\r\n\r\n{BODY}",
        "a huge length": f"{POST}Content-Length: {10**30}\r\n\r\n{BODY}",
        "two lengths": f"{POST}Content-Length: 1\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}",
        "length and chunks": f"{POST}Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\nZ\r\n",
        "a wrong chunk": f"{POST}Transfer-Encoding: chunked\r\n\r\nxyz\r\n{BODY}\r\n0\r\n\r\n",
        "a chunk cut short": f"{POST}Transfer-Encoding: chunked\r\n\r\nfff\r\n{BODY}",
        "no end of chunks": f"{POST}Transfer-Encoding: chunked\r\n\r\n{len(BODY):x}\r\n{BODY}\r\n",
        "half a body": f"{POST}Content-Length: {len(BODY) + 5}\r\n\r\n{BODY}",
        "a NUL in a header": f"{POST}X-Y: a\0b\r\nContent-Length: 2\r\n\r\n{{}}",
        "a header without a name": f"{POST}: x\r\nContent-Length: 2\r\n\r\n{{}}",
        "huge headers": f"{POST}X-Y: {'x' * 300_000}\r\nContent-Length: 2\r\n\r\n{{}}",
        "an endless path": f"GET /{'x' * 300_000} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "an upgrade": "GET /v1/route HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    }.items(),
    ids=lambda item: item[0],
)
def test_what_is_no_sound_request_is_refused_and_stores_nothing(client, rows, sent):
    before = rows()
    status = exchange(client, sent[1].encode("latin-1"))
    assert status == 0 or 400 <= status < 500
    assert client.get("/healthz").status_code == 200
    assert rows() == before


@pytest.mark.fault("half a body")
def test_a_client_that_hangs_up_in_the_middle_is_no_error_of_ours(client, rows):
    before = rows()
    for _ in range(20):
        exchange(client, f"{POST}Content-Length: {len(BODY) + 5}\r\n\r\n{BODY}".encode(), hang_up=True)
    incomplete, deadline = 'trimtab_requests_total{path="/v1/inferences",status="400"} ', time.monotonic() + 5
    while incomplete not in (counted := client.get("/metrics").text):
        assert time.monotonic() < deadline, counted
    assert 'status="500"' not in counted
    assert rows() == before
