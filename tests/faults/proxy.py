"""A chaos proxy between a server and its Postgres: cuts, delays, swallows replies, holds connections half open.

It listens on loopback and forwards to the embedded server's unix socket. All its state belongs to one event loop in a
thread of its own; the methods may be called from any thread.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

Result = TypeVar("Result")
_CHUNK = 65_536
_COMMIT = b"COMMIT\0"


@dataclass(eq=False)
class _Link:
    """One connection of a client and the one to the server that stands for it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    mute: bool = False
    writes: bool = False

    def cut(self) -> None:
        for end in (self.client, self.server):
            end.transport.abort()


@dataclass
class ChaosProxy:
    """What happens to traffic; everything is forwarded untouched until told otherwise.

    Attributes:
        port: where it listens.
        delay: seconds that each piece waits on its way, in either direction.
        refusing: new connections are cut at once.
        at_commit: what happens to the next ``commits`` COMMITs of what was written: ``before`` cuts the connection
            before the server hears of it, ``after`` when it has committed, ``silent`` says nothing for ever, half open.
    """

    target: str
    port: int = 0
    delay: float = 0.0
    refusing: bool = False
    at_commit: str = ""
    commits: int = 0
    done: int = 0
    _links: set[_Link] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def cut_all(self) -> int:
        """Cut every connection there is; return how many."""
        return self._call(self._cut_all)

    def hold_all(self) -> None:
        """Let every connection that there is say nothing more, in either direction, and stay open."""
        self._call(self._hold_all)

    def at_next_commits(self, what: str, *, times: int) -> None:
        """Do ``what`` to the next ``times`` commits."""

        def arm() -> None:
            self.at_commit, self.commits, self.done = what, times, 0

        self._call(arm)

    def _call(self, work: Callable[[], Result]) -> Result:
        async def run() -> Result:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def _cut_all(self) -> int:
        links = list(self._links)
        for link in links:
            link.cut()
        return len(links)

    def _hold_all(self) -> None:
        for link in self._links:
            link.mute = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_unix_connection(self.target)
        except OSError:  # the server is dead
            writer.transport.abort()
            return
        link = _Link(client=writer, server=back)
        self._links.add(link)
        ways = (self._pump(link, reader, back, asked=True), self._pump(link, there, writer, asked=False))
        try:
            await asyncio.gather(*ways)
        except asyncio.CancelledError:  # the proxy ends
            return
        finally:
            link.cut()
            self._links.discard(link)

    async def _pump(
        self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, asked: bool
    ) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while data := await source.read(_CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                link.writes = link.writes or (asked and b"insert into" in data)
                if asked and self.commits and link.writes and _COMMIT in data:
                    await self._at_commit(link, data)
                if link.mute:
                    continue
                sink.write(data)
                await sink.drain()
        if not link.mute:
            link.cut()

    async def _at_commit(self, link: _Link, data: bytes) -> None:
        """Do what was asked for; nothing goes through this link any more."""
        self.commits -= 1
        self.done += 1
        link.mute = True
        if self.at_commit != "before":
            link.server.write(data)
            await link.server.drain()
            await asyncio.sleep(0.3)  # the server commits; its reply is lost
        if self.at_commit != "silent":
            link.cut()


@contextlib.contextmanager
def proxied(url: str) -> Iterator[tuple[ChaosProxy, str]]:
    """Run a proxy before the embedded server of ``url``; yield it and the URL that leads through it."""
    parts = urlsplit(url)
    proxy = ChaosProxy(target=f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432")
    loop = proxy._loop
    thread = threading.Thread(target=loop.run_forever, name="chaos-proxy")
    thread.start()
    listening = _in(loop, asyncio.start_server(proxy._serve, "127.0.0.1", 0))
    proxy.port = listening.sockets[0].getsockname()[1]
    try:
        yield proxy, f"postgresql://trimtab@127.0.0.1:{proxy.port}{parts.path}"
    finally:
        _in(loop, _end(proxy, listening))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(proxy: ChaosProxy, listening: asyncio.Server) -> None:
    listening.close()
    proxy._cut_all()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _in(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run_coroutine_threadsafe(work, loop).result(10)
