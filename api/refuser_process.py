"""A process that says no: connections whose writes were too much wait here, and are refused until they are asked back.

It gets the connections themselves, over a socket (``SCM_RIGHTS``), and gives back each that sends anything but a plain
write, with what was read of it. It imports nothing but the standard library, since it starts while there is no time.
"""

import contextlib
import mmap
import os
import re
import select
import signal
import socket
import sys
import time

PATHS = ("/v1/inferences", "/v1/inferences:batch", "/v1/feedback")
# A whole head that says nothing but what it must: a header that could change its end or its answer is left out.
_ODD = rb"content-length|transfer-encoding|connection(?!: keep-alive\r)|proxy-connection|expect|upgrade|origin"
_HEADER = rb"(?:(?!%b)[a-z][a-z0-9-]*: [ -~]*\r\n)*" % _ODD
PLAIN_WRITE = re.compile(
    rb"POST (%b) HTTP/1\.1\r\n(?i:%bcontent-length: (\d{1,7})\r\n%b)\r\n"
    % ("|".join(PATHS).encode("ascii"), _HEADER, _HEADER)
)
MOST_READ_PAST = 2_000_000
MOST_READ = 65_536
# What both processes see, one number each: how many may come back, how many did so, how many were closed here, the
# millisecond in which this process was last awake, and what was refused of each path. Each number has one writer.
INVITED, CAME_BACK, CLOSED, AWAKE, REFUSED = range(5)
SHARED_BYTES = 8 * (REFUSED + len(PATHS))
READY, HAND_OVER = b"r", b"h"
_LOOK_S, _RETRY_S = 1.0, 0.005


def shared_numbers(file: int) -> "memoryview[int]":
    """Return the numbers that both processes see, in an open file of ``SHARED_BYTES``."""
    return memoryview(mmap.mmap(file, SHARED_BYTES)).cast("q")


class Waiting:
    """The connections that wait here, by file number.

    Args:
        channel: to the server that they come from.
        numbers: what both processes see.
        answer: what is said to a write.
        keep_alive: seconds after which a silent connection is closed.
    """

    def __init__(self, channel: socket.socket, numbers: "memoryview[int]", *, answer: bytes, keep_alive: float) -> None:
        self._channel, self._numbers, self._answer, self._keep_alive = channel, numbers, answer, keep_alive
        self._slots = {path.encode("ascii"): slot for slot, path in enumerate(PATHS, REFUSED)}
        self._poll = select.epoll()
        self._poll.register(channel, select.EPOLLIN)
        self._heard: dict[int, float] = {}
        self._to_skip: dict[int, int] = {}
        self._to_return: dict[int, bytes] = {}
        self._now = time.monotonic()

    def serve(self) -> None:
        """Refuse until the server is gone."""
        look = self._now + _LOOK_S
        while True:
            events = self._poll.poll(_RETRY_S if self._to_return else _LOOK_S)
            self._now = time.monotonic()
            self._numbers[AWAKE] = int(self._now * 1000)
            for file, _ in events:
                if file != self._channel.fileno():
                    self._hear(file)
                elif not self._take():
                    return
            for file, data in list(self._to_return.items()):
                if not self._send(file, data):
                    break
            if self._now >= look:
                look = self._now + _LOOK_S
                self._close_silent()

    def _take(self) -> bool:
        """Take a connection; False when there is nobody any more who could send one."""
        try:
            message, files, _, _ = socket.recv_fds(self._channel, 1, 1)
        except BlockingIOError:
            return True
        except OSError:
            return False
        for file in files:
            self._heard[file] = self._now
            self._poll.register(file, select.EPOLLIN)
        if message and not files:  # there may be no more files in this process: it was closed on its way
            self._numbers[CLOSED] += 1
        return bool(message)

    def _hear(self, file: int) -> None:
        try:
            data = os.read(file, MOST_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(file)
            return
        self._heard[file] = self._now
        skip = self._to_skip.pop(file, 0)
        if skip >= len(data):
            self._skip(file, skip - len(data))
        else:
            self._refuse(file, data[skip:] if skip else data)

    def _refuse(self, file: int, data: bytes) -> None:
        """Refuse a plain write, unless it was invited; everything else is the server's."""
        found = PLAIN_WRITE.match(data)
        left = -1 if found is None else int(found[2]) - (len(data) - found.end())
        if found is None or not 0 <= left <= MOST_READ_PAST:
            self._return_later(file, data)
        elif self._numbers[INVITED] > self._numbers[CAME_BACK] and self._send(file, data):
            self._numbers[CAME_BACK] += 1
        else:
            self._numbers[self._slots[found[1]]] += 1
            self._skip(file, left)
            self._say(file)

    def _say(self, file: int) -> None:
        try:
            written = os.write(file, self._answer)
        except OSError:
            written = 0
        if written < len(self._answer):  # it reads none of its answers
            self._close(file)

    def _skip(self, file: int, left: int) -> None:
        """So much of the body has not come yet."""
        if left:
            self._to_skip[file] = left

    def _return_later(self, file: int, data: bytes) -> None:
        """Hear nothing more from a connection until it is back."""
        self._poll.unregister(file)
        self._to_return[file] = data
        self._send(file, data)

    def _send(self, file: int, data: bytes) -> bool:
        """Give a connection back with what was read of it; False where the server takes nothing now."""
        try:
            socket.send_fds(self._channel, [data], [file])
        except OSError:
            return False
        self._forget(file)
        return True

    def _close(self, file: int) -> None:
        self._numbers[CLOSED] += 1
        self._forget(file)

    def _forget(self, file: int) -> None:
        del self._heard[file]
        self._to_skip.pop(file, None)
        if self._to_return.pop(file, None) is None:
            self._poll.unregister(file)  # closing is not enough: the server has it too
        os.close(file)

    def _close_silent(self) -> None:
        silent = [file for file, heard in self._heard.items() if heard + self._keep_alive < self._now]
        for file in silent:
            if file not in self._to_return:
                self._close(file)


def main() -> None:
    """Serve over the channel and the numbers whose files are named, until the channel ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # it ends when the server does, not before
        signal.signal(number, signal.SIG_IGN)
    channel, file, keep_alive = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    server, numbers = socket.socket(fileno=channel), shared_numbers(file)
    answer = server.recv(MOST_READ)
    server.setblocking(False)
    numbers[AWAKE] = int(time.monotonic() * 1000)
    with contextlib.suppress(OSError):  # it has ended meanwhile
        server.send(READY)
    Waiting(server, numbers, answer=answer, keep_alive=keep_alive).serve()


if __name__ == "__main__":
    main()
