"""Encodings for concurrent requests: one thread encodes what waits in one batch; those of the newest texts are kept.

To hand a text to the thread and to be woken by it costs a fifteenth of encoding it: who asks alone is spared that.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from router.encoder import BATCH, Encoder, Encoding

CACHE_BYTES = 32_000_000
# So few characters hold the event loop up for some milliseconds only.
_SHORT = 160
_CALM_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A text to encode, with or without hidden states, and who waits for it."""

    text: str
    hidden: bool
    found: "asyncio.Future[Encoding]"


class Encodings:
    """The encodings of one encoder. All but the encoder itself belongs to the event loop.

    Args:
        encoder: works in the executor's thread, and in the event loop's for who asks alone.
        executor: of one thread.
        alone: tells whether nothing else is asked of this process now.
    """

    def __init__(self, encoder: Encoder, executor: Executor, *, alone: Callable[[], bool] = bool) -> None:
        self._encoder, self._executor, self._alone = encoder, executor, alone
        self._crowded = float("-inf")
        self._kept: OrderedDict[str, Encoding] = OrderedDict()
        self._bytes = 0
        self._waiting: list[_Wanted] = []
        self._working: asyncio.Task[None] | None = None

    def kept(self, text: str, *, hidden: bool) -> Encoding | None:
        """Return the encoding of a text if it is there, with hidden states where these are asked for."""
        found = self._kept.get(text)
        if found is None or (hidden and found.hidden is None):
            return None
        self._kept.move_to_end(text)
        return found

    async def read(self, text: str, *, hidden: bool) -> Encoding:
        """Return the encoding of a text; an exact repeat costs nothing."""
        found = self.kept(text, hidden=hidden)
        if found is not None:
            return found
        if self._is_calm() and len(text) <= _SHORT:
            found = self._encoder.encode([text], hidden=hidden)[0]
            self._keep(text, found)
            return found
        wanted = _Wanted(text, hidden, asyncio.get_running_loop().create_future())
        self._waiting.append(wanted)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await wanted.found

    def _is_calm(self) -> bool:
        """Whether nobody else has asked anything for a while: between two of many there is often a moment of calm."""
        now = asyncio.get_running_loop().time()
        if not self._alone():
            self._crowded = now
        return now - self._crowded >= _CALM_SECONDS

    async def _work(self) -> None:
        """Encode batch after batch: while one is handed out and decided, the next one is encoded."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            try:
                found = await loop.run_in_executor(self._executor, _encoded, self._encoder, batch)
            except Exception as error:  # noqa: BLE001  # the request edge: nobody may wait for ever
                for wanted in batch:
                    if not wanted.found.done():
                        wanted.found.set_exception(error)
            else:
                loop.call_soon(self._hand_out, deque(zip(batch, found, strict=True)))

    def _hand_out(self, found: "deque[tuple[_Wanted, Encoding]]") -> None:
        """Wake one who waits at a time: to decide for a whole batch at a stretch would hold up everybody else."""
        wanted, encoding = found.popleft()
        if found:
            asyncio.get_running_loop().call_soon(self._hand_out, found)
        self._keep(wanted.text, encoding)
        if not wanted.found.done():  # else nobody waits any more
            wanted.found.set_result(encoding)

    def _keep(self, text: str, encoding: Encoding) -> None:
        old = self._kept.pop(text, None)
        self._kept[text] = encoding
        self._bytes += _size(text, encoding) - (0 if old is None else _size(text, old))
        while self._bytes > CACHE_BYTES:
            text, encoding = self._kept.popitem(last=False)
            self._bytes -= _size(text, encoding)


def _encoded(encoder: Encoder, batch: Sequence[_Wanted]) -> list[Encoding]:
    """Encode each text once, whoever wants it."""
    hidden = {wanted.text: False for wanted in batch}
    hidden.update({wanted.text: True for wanted in batch if wanted.hidden})
    found = dict(zip(hidden, encoder.encode(list(hidden), hidden=any(hidden.values())), strict=True))
    bare = {text: Encoding(embedding=found[text].embedding) for text, with_states in hidden.items() if not with_states}
    found.update(bare)
    return [found[wanted.text] for wanted in batch]


def _size(text: str, encoding: Encoding) -> int:
    hidden = 0 if encoding.hidden is None else encoding.hidden.nbytes
    return 4 * len(text) + encoding.embedding.nbytes + hidden + 500
