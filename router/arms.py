"""Which of two versions decides for a session: sticky, by hash, nested as the share grows."""

import hashlib
from dataclasses import dataclass
from typing import Literal

from router.scoring import Router

Mode = Literal["shadow", "canary", "holdout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arms:
    """The version that serves and, where a second one is at work beside it, that one.

    ``mode`` says what ``side`` does: ``shadow`` decides for nobody, ``canary`` is the newer version and decides for
    ``share`` of the sessions, ``holdout`` is the older one and does the same.
    """

    main: Router
    side: Router | None = None
    mode: Mode | None = None
    share: float = 0.0

    def pick(self, session: str) -> tuple[Router, Router | None]:
        """The router that decides for this session, and the other one, which says what it would have done."""
        if self.side is None:
            return self.main, None
        newer = self.main if self.mode == "holdout" else self.side
        if in_share(session, version=newer.version.number, share=self.share, held_out=self.mode == "holdout"):
            return self.side, self.main
        return self.main, self.side


def in_share(session: str, *, version: int, share: float, held_out: bool) -> bool:
    """Whether a session belongs to the share that is tried on (or held out from) the new ``version``.

    A session's place in [0, 1) depends on the version, so that it is not always the same people who try. The canary
    takes it from below and the hold-out from above: whoever has the new version keeps it from 5 to 98 percent.
    """
    digest = hashlib.sha256(f"{version}:{session}".encode("utf-8", "replace")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return place >= 1 - share if held_out else place < share
