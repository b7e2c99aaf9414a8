"""When to refuse: how much work for writes the event loop has in hand, and whether it gets it done in time.

A burst is no overload: it is taken, and done with in a moment. Overload is when more came than a burst may be, or when
for a whole interval nothing could be begun in time: the least wait of an interval tells a standing queue from a burst
(Nichols and Jacobson, Controlling Queue Delay, 2012). From then on only so much is taken in hand that the loop comes
round every few milliseconds, until an interval passes in which nothing had to be refused.

Where a process beside refuses (``api/refuser.py``), the server keeps as many connections as it can serve. Those that it
has refused go there, and come back as there is room: it hardly refuses anything itself.
"""

import asyncio
import math
import time
from collections.abc import Callable, Collection
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from api.intake import Intake
from api.refuser import Refuser, TakesBack
from api.unfinished import Unfinished

INTERVAL_S = 0.05
MOST_WAIT_S = 0.1
# Work in units of about 50 us: a request costs two, and one more for each 10,000 bytes, since batches wait for a turn.
REQUEST_UNITS, BYTES_A_UNIT = 2.0, 10_000
MOST_UNITS, MOST_UNITS_OVERLOADED = 512.0, 44.0
# A refusal costs about a quarter of a unit. However many there are, it works for longer than it refuses.
UNITS_A_REFUSAL = 0.5
# Where a process beside refuses, so much is aimed at, and twice that may be in hand: whom a commit answers all come
# again at once.
AIM_BESIDE, MOST_UNITS_BESIDE = 128.0, 256.0
# As much as a burst may be, unanswered in so many intervals in a row, is no burst. If the event loop works for so much
# of that time, it is no slow database's doing either.
STANDING, BUSY = 4, 0.4
# So many connections an interval give their place to one that was refused: nobody is left out for ever.
TURNS = 1
_VISIT = "trimtab.visit"


def _units(requests: int, size: int) -> float:
    return REQUEST_UNITS * requests + size / BYTES_A_UNIT


class Door:
    """Decides whether a write may come in, before anything of it is parsed. Belongs to one event loop.

    Args:
        intake: the queue behind it; what waits there costs the loop nothing.
        count: is told the path of writes that were refused, and how many.
        refuser: has the connections of what was refused, where a process beside may refuse.
        clock: seconds, monotonic.
        worked: seconds of processor time that the event loop's thread has had.
    """

    def __init__(
        self,
        intake: Intake,
        *,
        count: Callable[[str, int], None],
        refuser: Refuser | None = None,
        clock: Callable[[], float] = time.monotonic,
        worked: Callable[[], float] = time.thread_time,
    ) -> None:
        self._intake, self._count, self.refuser, self.clock, self._worked = intake, count, refuser, clock, worked
        self.requests = self.bytes = 0
        self.unfinished = Unfinished()
        self.under_way: Collection[object] = ()  # requests of all kinds, as the connections know them
        self.overloaded = False
        self._least_wait, self._ends = math.inf, -math.inf
        self._refused = self._in_a_row = self._turns = 0
        self._most_in_hand = self._most_unanswered = 0.0
        self._least_room = math.inf
        self._standing, self._stands_since = 0, (0.0, 0.0)
        self._watching = self.draining = False
        self._among: set[Any] = set()

    @property
    def alone(self) -> bool:
        """Whether one request is all that there is to do."""
        return len(self.under_way) == 1

    @property
    def writes(self) -> int:
        """Writes that have come whole and are neither in the queue nor answered."""
        return self.requests - self._intake.storing

    @property
    def in_hand(self) -> float:
        """Work that the loop has before it, in units."""
        return _units(self.writes, self.bytes - self._intake.storing_bytes)

    @property
    def unanswered(self) -> float:
        """What has come whole and is not answered, in units: what is in hand, and what waits to be stored."""
        return _units(self.requests, self.bytes)

    @property
    def closed(self) -> bool:
        """Whether one more write is too much now."""
        self.look_back()
        room = self._intake.room
        self._least_room = min(self._least_room, room)
        return self.in_hand >= self._most or room < 1

    @property
    def _most(self) -> float:
        """How much work may be in hand."""
        if not self.overloaded:
            return MOST_UNITS
        if self._beside:
            return MOST_UNITS_BESIDE
        return MOST_UNITS_OVERLOADED + UNITS_A_REFUSAL * self._in_a_row

    def refuse(self, path: str) -> None:
        """Take down that a write was refused."""
        self._refused += 1
        self._in_a_row += 1
        self._count(path, 1)

    def shed(self, path: str) -> None:
        """Take down that a write was let in and is refused by the application: it counts the answer."""
        self._intake.shed(1, batch=path.endswith(":batch"))

    @property
    def _beside(self) -> bool:
        return self.refuser is not None and self.refuser.ready

    def hand_over(self, file: int, *, takes_back: TakesBack) -> bool:
        """Let the process beside have a connection; see ``Refuser.take``."""
        if self.refuser is None or not self.refuser.take(file, takes_back=takes_back):
            return False
        if not self._watching:
            self._watch(self.refuser)
        return True

    def stand_among(self, connections: set[Any]) -> None:
        """Stand among a server's connections for those that the process beside has, so as to hear when it stops."""
        if not self.draining:
            connections.add(self)
            self._among = connections

    def shutdown(self) -> None:
        """The server stops: nobody waits any more for room that there will not be."""
        self.draining = True
        self._among.discard(self)
        if self.refuser is not None:
            self.refuser.end()

    def _watch(self, refuser: Refuser) -> None:
        """Look back although nothing comes here: all who could come may be there."""
        self.look_back()
        refuser.look_after()
        self._watching = refuser.holding > 0
        if self._watching:
            asyncio.get_running_loop().call_later(INTERVAL_S, self._watch, refuser)

    def gives_place(self) -> bool:
        """Whether a connection on which a write was just answered makes room for another."""
        if self._turns < 1:
            return False
        self._turns -= 1
        return True

    def take_in(self, size: int) -> None:
        """Take down that a write has come whole."""
        self.requests += 1
        self.bytes += size
        self._most_in_hand = max(self._most_in_hand, self.in_hand)
        self._most_unanswered = max(self._most_unanswered, self.unanswered)

    def waited(self, seconds: float) -> None:
        """Take down that work on a write begins, so long after it had come whole."""
        self.look_back()
        self._in_a_row = 0
        self._least_wait = min(self._least_wait, seconds)

    def look_back(self) -> None:
        """Judge the interval that has ended, if one has."""
        now = self.clock()
        if now < self._ends:
            return
        self.count_refused_beside()
        waits = self._stands(now) or MOST_WAIT_S < self._least_wait < math.inf
        self.overloaded = self._refused > 0 or waits
        self._ends, self._least_wait, self._refused = now + INTERVAL_S, math.inf, 0
        if self.refuser is not None:
            self._share_places(self.refuser)
        self._most_in_hand, self._most_unanswered, self._least_room = self.in_hand, self.unanswered, self._intake.room

    def _stands(self, now: float) -> bool:
        """Whether too much has stood unanswered for too long while the event loop was busy."""
        worked = self._worked()
        if not self._beside or self._most_unanswered < MOST_UNITS or now - self._ends > INTERVAL_S:
            self._standing, self._stands_since = 0, (now, worked)
            return False
        self._standing += 1
        if self._standing < STANDING:
            return False
        began, worked_before = self._stands_since
        if worked - worked_before >= BUSY * (now - began):
            return True
        self._standing, self._stands_since = 0, (now, worked)
        return False

    def _share_places(self, refuser: Refuser) -> None:
        """Ask connections back for half of the room that there always was, or have as many go as were too many."""
        aim = AIM_BESIDE if self.overloaded else MOST_UNITS
        room = min((aim - self._most_in_hand) / REQUEST_UNITS, self._least_room)
        refuser.invite(max(0, int((room + 1) / 2)))
        self._turns = TURNS + max(0, int(-room / 4)) if self.overloaded and self._beside else 0

    def count_refused_beside(self) -> None:
        """Take down what the process beside has refused since."""
        for path, number in self.refuser.refused() if self.refuser is not None else ():
            self._refused += number
            self._count(path, number)


class Visit:
    """One write that was let in: it comes whole, work on it begins, it leaves. Slow bodies are nobody's work."""

    __slots__ = ("_came", "_door", "_left", "_size")

    def __init__(self, door: Door, scope: Scope) -> None:
        self._door, self._size, self._left = door, 0, False
        self._came: float | None = None
        scope[_VISIT] = self

    def receive(self, size: int) -> None:
        """So many bytes of its body have come."""
        self._size += size

    def come(self) -> None:
        """It has come whole."""
        if not self._left:
            self._came = self._door.clock()
            self._door.take_in(self._size)

    def begin(self) -> None:
        """Work on it begins."""
        if self._came is not None:
            self._door.waited(self._door.clock() - self._came)

    def leave(self) -> None:
        """It was answered, or nobody waits for it any more."""
        self._left = True
        if self._came is not None:
            self._door.requests -= 1
            self._door.bytes -= self._size

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return the application for this one call, after which the visit is over, whatever happens."""

        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            finally:
                self.leave()

        return call


def visit_of(scope: Scope) -> Visit | None:
    """Return the visit that a request is; None where there is no door, or none for this call."""
    visit: Visit | None = scope.get(_VISIT)
    return visit


def work_begins(scope: Scope) -> None:
    """Say that a request, read whole, is begun."""
    if (visit := visit_of(scope)) is not None:
        visit.begin()
