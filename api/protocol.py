"""HTTP as uvicorn speaks it, except that a write which is too much is refused before anything is made of it.

To answer 429 by way of the application costs half of what storing an event costs; here it costs a tenth. The body that
was refused is read past, so the connection stays usable; where its end is not near, the connection is closed. What then
comes on it is refused by a process beside, until the server has room for it (``api/refuser.py``).
"""

import asyncio
import os
import re
import socket
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.errors import Overloaded, TooMuchAtOnce, problem
from api.refuser_process import MOST_READ_PAST, PATHS, PLAIN_WRITE
from api.shedding import Door, Visit, visit_of
from api.unfinished import LITTLE, cut_short

DOOR = "door"  # under this name the lifespan hands the door to the connections
_PATHS = tuple(path.encode("ascii") for path in PATHS)
_WRITES = re.compile(rb"(%b|/v1/feedback/[^/?]+)(?:\?|$)" % b"|".join(_PATHS))
_WRITING = (b"POST", b"PUT", b"DELETE")
_ONE = "/v1/feedback/{feedback_id}"


def _answer(*, close: bool) -> bytes:
    answer = problem(429, "overloaded", str(Overloaded.__doc__))
    headers = [*answer.raw_headers, *([(b"connection", b"close")] if close else [])]
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    return b"HTTP/1.1 429 Too Many Requests\r\n%b\r\n%b" % (lines, bytes(answer.body))


REFUSAL, _LAST_REFUSAL = _answer(close=False), _answer(close=True)


class SheddingProtocol(HttpToolsProtocol):
    """A connection. Reads (``api/lanes.py``), decisions and health are never refused here, nor are votes of web pages.

    Reads are bounded in ``api/lanes.py``. Votes from web pages need headers that only the application knows; a browser
    shows no answer without them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._door: Door = self.app_state[DOOR]
        self._door.under_way = self.tasks
        self._refused = False
        self._visit: Visit | None = None
        self._between = True
        self._goes = self._plain = self._owes = False
        self._heard = 0.0
        self._came_with = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody has connected."""
        super().connection_made(transport)
        self._file: int = transport.get_extra_info("socket").fileno()
        self._owe(0)
        if self._door.refuser is not None:
            self._door.stand_among(self.connections)
            self._door.refuser.start(keep_alive=self.timeout_keep_alive)
        if self._came_with:  # before anything more is read
            self.data_received(self._came_with)
            self._came_with = b""
        if self._door.draining:
            self.shutdown()

    def data_received(self, data: bytes) -> None:
        """Refuse what came, where it is one plain write and nothing else; parse it otherwise."""
        if not (self._between and self._door.closed and self._refused_unparsed(data)):
            super().data_received(data)
            if not self._between:
                self._owe(len(data))
            elif self._free() and self.timeout_keep_alive_task is None:  # a blank line stopped that clock
                self._owe(0)
        if self._goes:
            self._hand_over()

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever was connected has gone."""
        self._owe_nothing()
        super().connection_lost(exc)

    def _owe(self, size: int) -> None:
        """Take down that a request has to come, or the rest of one, of which so many bytes came just now."""
        if not self._owes:
            self._owes = True
            self._door.unfinished.owe(self, now=self.loop.time())
            if size < LITTLE:
                return
        if size and not self._refused and not self._answered_already():
            self._door.unfinished.hold(self, size)

    def _answered_already(self) -> bool:
        """Whether the request that comes was answered before its end, so that nothing of it is kept."""
        return self.cycle is not None and self.cycle.scope is self.scope and self.cycle.response_complete

    def _owe_nothing(self) -> None:
        if self._owes:
            self._owes = False
            self._door.unfinished.release(self)

    def hang_up(self, why: type[Exception]) -> None:
        """Wait no longer for a request, or for the rest of it: whoever reads its body answers, and closes."""
        self._owe_nothing()
        if self._free():
            self.transport.close()
            return
        self.cycle.keep_alive = False  # its answer is the last one, or that of the request before
        if self.cycle.scope is not self.scope:
            return
        path = self._write_called()
        if path is not None and why is TooMuchAtOnce:
            self._door.shed(path)
        cut_short(self.scope, why)  # type: ignore[arg-type]  # uvicorn has a type of its own
        self.cycle.message_event.set()

    def _refused_unparsed(self, data: bytes) -> bool:
        """Under four times the load that it bears, a server refuses three times as often as it works."""
        found = PLAIN_WRITE.match(data)
        if found is None or found.end() + int(found[2]) != len(data) or not self._free() or self.flow.write_paused:
            return False
        self._owe_nothing()
        self._door.refuse(found[1].decode("ascii"))
        self._write_now(REFUSAL)
        self.server_state.total_requests += 1
        self._goes = True
        self._heard = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._wait_for_more(self.timeout_keep_alive)
        return True

    def _write_now(self, answer: bytes) -> None:
        """Write an answer past the event loop: it would write only once all other connections have been read."""
        try:
            written = 0 if self.transport.get_write_buffer_size() else os.write(self._file, answer)
        except OSError:  # there is no room, or nobody: the transport knows what to do then
            written = 0
        if written < len(answer):
            self.transport.write(answer[written:])

    def _hand_over(self) -> None:
        """Let the process beside refuse what comes next on this connection; it is as if the client had left."""
        self._goes = False
        if self.transport.is_closing() or self.transport.get_write_buffer_size():
            return
        if self._between and self._free() and self._door.hand_over(self._file, takes_back=self._take_back):
            self.transport.close()

    async def _take_back(self, connection: socket.socket, data: bytes) -> None:
        """Go on with a connection that was handed over, from what came on it."""

        def again() -> SheddingProtocol:
            protocol = type(self)(self.config, self.server_state, self.app_state, self.loop)
            protocol._came_with = data
            return protocol

        try:
            await self.loop.connect_accepted_socket(again, connection)
        except OSError:  # it has gone
            connection.close()

    def _wait_for_more(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Hang up, unless something was refused meanwhile: that leaves the clock as it is, which is cheaper."""
        left = self._heard + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._wait_for_more(left)
        else:
            super().timeout_keep_alive_handler()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._between = False
        self._owe_nothing()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Refuse the request, or hand it on."""
        self._visit = None
        if self._refused:  # the connection was hung up on
            return
        path = self._write_called()
        if path is not None and self._door.closed and self._may_refuse():
            self._door.refuse(path)
            self._refuse()
            return
        if path is not None:
            self._visit = Visit(self._door, self.scope)  # type: ignore[arg-type]  # uvicorn has a type of its own
        super().on_headers_complete()

    def _write_called(self) -> str | None:
        """The path of the write that the head asks for, as the metrics name it; None for anything else."""
        found = _WRITES.match(self.url)
        if found is None or self.parser.get_method() not in _WRITING:
            return None
        path = found[1].decode("ascii")
        return _ONE if path.startswith("/v1/feedback/") else path

    def _may_refuse(self) -> bool:
        """Not out of turn: an answer before it may still be on its way."""
        return self._free() and not any(name in (b"origin", b"upgrade") for name, _ in self.headers)

    def _free(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self) -> None:
        self._refused = True
        # What the process beside would only give back stays here.
        self._plain = self.parser.get_method() == b"POST" and self.url in _PATHS
        stays = self.parser.should_keep_alive() and self._ends_soon() and not self.flow.write_paused
        self._write_now(REFUSAL if stays else _LAST_REFUSAL)
        if not stays:
            self.transport.close()

    def _ends_soon(self) -> bool:
        """Whether the rest of the request is short and sure to come."""
        heads = dict(self.headers)
        size = heads.get(b"content-length", b"0")  # the parser takes nothing but digits
        return not self.expect_100_continue and b"transfer-encoding" not in heads and int(size) <= MOST_READ_PAST

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body, or read past it."""
        if self._refused:
            return
        if self._visit is not None:
            self._visit.receive(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has come whole."""
        self._between = True
        self._owe_nothing()
        if self._refused:
            self._refused = self.transport.is_closing()
            self._goes = self._plain and not self._refused
            self.on_response_complete()
        else:
            if self._visit is not None:
                self._visit.come()
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer was given; with its writing the connection may give its place to another."""
        super().on_response_complete()
        if self._visit is None or not self._between or not self._free() or self.transport.is_closing():
            return
        if self._door.gives_place():
            self.loop.call_soon(self._hand_over)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        visit = visit_of(cycle.scope)  # type: ignore[arg-type]
        super()._start_asgi_task(cycle, app if visit is None else visit.around(app))  # type: ignore[arg-type]
