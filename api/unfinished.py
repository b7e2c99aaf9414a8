"""Requests that have not come whole: how long they are waited for, and how much of them is held meanwhile.

A connection that says nothing keeps a file number, half a body keeps memory, and both cost whoever sends them nothing.
"""

import asyncio
from itertools import islice, takewhile
from typing import Protocol

from starlette.types import Scope

from api.errors import TooMuchAtOnce, TooSlow

PATIENCE_S = 60.0  # for the first byte of a new connection, and from there for the rest of each request
MOST_BYTES = 64_000_000
# So many are hung up on at a time, and then others have their turn.
_MOST_AT_ONCE, _PAUSE_S = 200, 0.1
# So much may still be held once room was made.
_FULL = 7 / 8
# Less than this of a request is not counted while no more of it comes: clients often send the head by itself.
LITTLE = 4_096
_WHY = "trimtab.cut_short"


class Sender(Protocol):
    """A connection that owes something."""

    def hang_up(self, why: type[Exception]) -> None:
        """Wait no longer, and release what is held."""


class Unfinished:
    """The connections that owe a request or the rest of one. Belongs to one event loop.

    There is one timer for all of them, and a request that comes in one piece is never seen here.
    """

    def __init__(self) -> None:
        self.patience_s, self.most_bytes = PATIENCE_S, MOST_BYTES
        self.bytes = 0
        self._since: dict[Sender, float] = {}  # in order: who has owed for longest is the first
        self._held: dict[Sender, int] = {}
        self._looking = False

    def owe(self, sender: Sender, *, now: float) -> None:
        """From now on, by the event loop's clock, it owes."""
        self._since[sender] = now
        if not self._looking:
            self._looking = True
            self._look_in(self.patience_s)

    def hold(self, sender: Sender, size: int) -> None:
        """So many bytes more are held of it, who owes; where that is too much, those who hold most are refused."""
        self._held[sender] = self._held.get(sender, 0) + size
        self.bytes += size
        if self.bytes > self.most_bytes:
            self._make_room()

    def release(self, sender: Sender) -> None:
        """It owes nothing any more; nothing of its request is held here."""
        self._since.pop(sender, None)
        self.bytes -= self._held.pop(sender, 0)

    def _make_room(self) -> None:
        """Refuse the largest until some is free; to look through all for every byte more would be too much work."""
        for sender in sorted(self._held, key=self._held.__getitem__, reverse=True):
            if self.bytes <= _FULL * self.most_bytes:
                return
            sender.hang_up(TooMuchAtOnce)

    def _look_in(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """Hang up on those that took too long."""
        before = asyncio.get_running_loop().time() - self.patience_s
        late = takewhile(lambda sender: self._since[sender] <= before, self._since)
        for sender in list(islice(late, _MOST_AT_ONCE)):
            sender.hang_up(TooSlow)
        first = next(iter(self._since.values()), before + self.patience_s)
        self._look_in(max(_PAUSE_S, first - before))


def cut_short(scope: Scope, why: type[Exception]) -> None:
    """Say to whoever reads the body of this request that no more of it is waited for.

    Args:
        scope: the request's.
        why: the kind of error; an error itself would hold what was read of the body, by way of its traceback.
    """
    scope[_WHY] = why


def why_cut_short(scope: Scope) -> type[Exception] | None:
    """Return why no more of this request's body is waited for; None while it is."""
    why: type[Exception] | None = scope.get(_WHY)
    return why
