"""The server's side of the process that refuses (``api/refuser_process.py``): hands connections over, takes them back.

Refusing in the server costs two system calls each, and the interpreter lock is given up in both while flushers want it:
at four times the load that it bears, a third of its time. Beside it, refusing costs it nothing, and is never late.
"""

import asyncio
import math
import os
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import structlog

from api.refuser_process import (
    AWAKE,
    CAME_BACK,
    CLOSED,
    HAND_OVER,
    INVITED,
    MOST_READ,
    PATHS,
    READY,
    REFUSED,
    SHARED_BYTES,
    shared_numbers,
)

_AGAIN_S, _NOT_STARTED_S = 1.0, 60.0
_STOP_S = 2.0
# Asleep for so long, and seen so that often in a row: a machine that was suspended wakes up with both.
_ASLEEP_MS, _ASLEEP_LOOKS = 5000, 20
# File numbers that the process needs for itself.
_OWN_FILES = 32
_MOST_AT_ONCE = 32
TakesBack = Callable[[socket.socket, bytes], Coroutine[Any, Any, None]]


class Refuser:
    """Belongs to one event loop. The process starts with the first connection, and again if it dies.

    Args:
        answer: what is said to a write.
    """

    def __init__(self, *, answer: bytes) -> None:
        self._answer = answer
        self._channel: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._file: int | None = None
        self._asleep = 0
        self._room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OWN_FILES
        self._numbers = memoryview(bytearray(SHARED_BYTES)).cast("q")
        self._told = [0] * len(PATHS)
        self._handed = self._back = 0
        self._not_before = self._keep_alive = 0.0
        self._takes_back: TakesBack
        self._tasks: set[asyncio.Task[None]] = set()
        self.ready = False

    @property
    def holding(self) -> int:
        """How many connections it has."""
        return self._handed - self._back - self._numbers[CLOSED]

    def start(self, *, keep_alive: float) -> None:
        """Start the process, where there is none: once too much has come there is no time for it.

        Args:
            keep_alive: seconds after which a silent connection is closed.
        """
        self._keep_alive = keep_alive
        if self._channel is not None or time.monotonic() < self._not_before or not hasattr(select, "epoll"):
            return
        try:
            if self._file is None:
                self._file = os.memfd_create("trimtab-refuser")
                os.truncate(self._file, SHARED_BYTES)
                self._numbers = shared_numbers(self._file)
            channel, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            self._could_not_start(error)
            return
        self._channel = channel
        channel.setblocking(False)
        channel.send(self._answer)
        asyncio.get_running_loop().add_reader(channel, self._hear, channel)
        self._go_on(self._run(channel, its, self._file))

    def take(self, file: int, *, takes_back: TakesBack) -> bool:
        """Hand a connection over; False where that cannot be done now.

        Args:
            file: its number; the caller closes its own.
            takes_back: gets the connection again, with the bytes that came on it.
        """
        if self.holding >= self._room:
            return False
        if self._channel is None or not self.ready:
            self.start(keep_alive=self._keep_alive)
            return False
        self._takes_back = takes_back
        try:
            socket.send_fds(self._channel, [HAND_OVER], [file])
        except OSError:
            return False
        self._handed += 1
        return True

    def invite(self, most: int) -> None:
        """From now on so many connections that write may come back."""
        self._numbers[INVITED] = self._numbers[CAME_BACK] + most

    def refused(self) -> Iterator[tuple[str, int]]:
        """Yield what it has refused since it was asked last: path and number."""
        for i, path in enumerate(PATHS):
            number = self._numbers[REFUSED + i]
            if number > self._told[i]:
                self._told[i], before = number, self._told[i]
                yield path, number - before

    def look_after(self) -> None:
        """Kill the process where it hangs: whoever waits for it may then try again."""
        asleep = self.ready and time.monotonic() * 1000 - self._numbers[AWAKE] > _ASLEEP_MS
        self._asleep = self._asleep + 1 if asleep else 0
        if self._asleep > _ASLEEP_LOOKS and self._process is not None:
            self._process.kill()

    def end(self) -> None:
        """End the process for good; the connections that it has end with it."""
        self._not_before = math.inf
        self._let_go()

    async def stop(self) -> None:
        """End the process, and wait until it has."""
        self.end()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._file is not None:
            os.close(self._file)
            self._file = None

    async def _run(self, channel: socket.socket, its: socket.socket, numbers: int) -> None:
        """Start the process, in a thread: the event loop has no time for it."""
        with its:
            files = [its.fileno(), numbers]
            command = [sys.executable, "-P", "-m", "api.refuser_process", *map(str, files), str(self._keep_alive)]
            try:
                process = await asyncio.to_thread(
                    subprocess.Popen, command, pass_fds=files, stdin=subprocess.DEVNULL, process_group=0
                )
            except OSError as error:
                self._let_go()
                self._could_not_start(error)
                return
        if self._channel is channel:
            self._process = process
        else:  # the server has stopped meanwhile
            await asyncio.to_thread(_reap, process)

    def _could_not_start(self, error: OSError) -> None:
        structlog.get_logger().warning("refuser_not_started", error=str(error))
        self._not_before = max(self._not_before, time.monotonic() + _NOT_STARTED_S)

    def _hear(self, channel: socket.socket) -> None:
        """Take back what came, a part of it at a time: others are waiting too."""
        for _ in range(_MOST_AT_ONCE):
            try:
                data, files, _, _ = socket.recv_fds(channel, MOST_READ, 1)
            except BlockingIOError:
                return
            except ConnectionResetError:  # said once; what was given back before it died is there still
                continue
            except OSError:
                data, files = b"", []
            if not data:
                self._end()
                return
            if data == READY and not files:
                self.ready = True
            else:
                self._back += 1  # also where there was no file number left for it, and it was closed on its way
            for file in files:
                self._go_on(self._takes_back(socket.socket(fileno=file), data))

    def _go_on(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end(self) -> None:
        """The process has ended: what it held is closed, and the server refuses by itself until there is another."""
        structlog.get_logger().warning("refuser_ended", connections=self.holding)
        self._not_before = max(self._not_before, time.monotonic() + _AGAIN_S)
        self._let_go()

    def _let_go(self) -> None:
        """Go on without the process."""
        process, channel = self._process, self._channel
        self._process = self._channel = None
        self.ready, self._asleep = False, 0
        self._handed = self._back + self._numbers[CLOSED]
        if channel is not None:
            asyncio.get_running_loop().remove_reader(channel)
            channel.close()
        if process is not None:
            self._go_on(asyncio.to_thread(_reap, process))


def _reap(process: "subprocess.Popen[bytes]") -> None:
    """Wait for a process that is to end."""
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
