"""How a server that was told to stop goes out of readiness first, for load balancers, and serves on meanwhile."""

import asyncio
import signal
import socket
import time
from types import FrameType

from uvicorn import Config
from uvicorn.supervisors import Multiprocess

from api.state import ServerState

_WATCH_SECONDS = 0.3


def drain_when_stopped(state: ServerState) -> None:
    """Have SIGTERM take this process out of readiness first; it ends ``drain_seconds`` later.

    Ctrl-C and a second SIGTERM do not wait. Is called once uvicorn hears signals, which it does in its own way.
    """
    stop = signal.getsignal(signal.SIGTERM)
    assert callable(stop)  # noqa: S101  # uvicorn's
    loop = asyncio.get_running_loop()

    def drain(number: int, frame: FrameType | None) -> None:
        state.draining = True
        signal.signal(signal.SIGTERM, stop)
        if state.settings.drain_seconds:
            loop.call_soon_threadsafe(loop.call_later, state.settings.drain_seconds, stop, number, frame)
        else:
            stop(number, frame)

    signal.signal(signal.SIGTERM, drain)


class DrainingWorkers(Multiprocess):
    """The worker processes. While they drain, Ctrl-C and a second SIGTERM are passed on, as their second signal.

    A closed terminal stops them, as it stops a server of one process, unless it was to be ignored (nohup).
    """

    def __init__(self, config: Config, sockets: list[socket.socket]) -> None:
        heeded = signal.getsignal(signal.SIGHUP)
        super().__init__(config, sockets)
        if heeded is signal.SIG_IGN:
            signal.signal(signal.SIGHUP, heeded)

    def handle_hup(self) -> None:
        """The terminal was closed. uvicorn would replace all workers, one by one, and hear nothing meanwhile."""
        self.handle_term()

    def handle_int(self) -> None:
        """Ctrl-C: nobody waits."""
        super().handle_int()
        self.signal_queue.append(signal.SIGINT)

    def handle_term(self) -> None:
        """The first SIGTERM is passed on by uvicorn; another one stays in the queue."""
        if self.should_exit.is_set():
            self.signal_queue.append(signal.SIGTERM)
        super().handle_term()

    def join_all(self) -> None:
        """Wait until all have ended."""
        while any(process.process.is_alive() for process in self.processes):
            time.sleep(_WATCH_SECONDS)
            if {signal.SIGINT, signal.SIGTERM} & set(self.signal_queue):
                self.terminate_all()
