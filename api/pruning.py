"""Pruning and erasing as the commands and the nightly run do it: batch by batch, each in a transaction of its own."""

import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, Engine

from telemetry.ids import keyed_hash
from telemetry.retention import (
    START,
    Found,
    Place,
    blank_comments,
    blank_texts,
    drop_texts_from_reports,
    find_comments,
    find_texts,
    prune_dead_letters,
    prune_rows,
    prune_stray_feedback,
)

BATCH = 500
_LOOKED_AT = 10 * BATCH  # rows a look; most nights find little among what is blank already
_ERASING_HOURS = 6.0
_T = TypeVar("_T")


def prune(engine: Engine, *, before: datetime | None, text_before: datetime | None) -> Counter[str]:
    """Delete what was received before ``before``, blank texts and embeddings before ``text_before``.

    Between two batches it waits as long as the batch took, so that the intake has the database at least half the time.
    """
    counts: Counter[str] = Counter()
    if before is not None:
        counts += _repeat(engine, lambda conn: prune_rows(conn, before=before, batch=BATCH))
        counts += _repeat(engine, lambda conn: prune_stray_feedback(conn, before=before, batch=BATCH))
    if text_before is not None:
        texts = partial(find_texts, before=text_before, most=_LOOKED_AT)
        counts += _walk(engine, texts, blank_texts)
        comments = partial(find_comments, before=text_before, most=_LOOKED_AT)
        counts += _walk(engine, comments, partial(blank_comments, before=text_before))
    oldest = max((moment for moment in (before, text_before) if moment is not None), default=None)
    if oldest is not None:
        counts += _repeat(engine, lambda conn: prune_dead_letters(conn, before=oldest, batch=BATCH))
    with engine.begin() as conn:
        return counts + drop_texts_from_reports(conn)


def _repeat(engine: Engine, work: Callable[[Connection], Counter[str]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    while (done := _rested(engine, work)).total():
        counts += done
    return counts


def _walk(engine: Engine, find: Callable[..., Found], blank: Callable[..., Counter[str]]) -> Counter[str]:
    """Go through what is old once; what somebody holds is passed, and found again by the next prune."""
    counts: Counter[str] = Counter()
    after: Place | None = START
    while after is not None:
        ids, after = _rested(engine, partial(find, after=after))
        for at in range(0, len(ids), BATCH):
            counts += _rested(engine, partial(blank, ids=ids[at : at + BATCH]))
    return counts


def _rested(engine: Engine, work: Callable[[Connection], _T]) -> _T:
    began = time.monotonic()
    with engine.begin() as conn:
        done = work(conn)
    time.sleep(time.monotonic() - began)
    return done


def erase(engine: Engine, user: str, *, key: bytes, actor: str, pruned: bool = False) -> Counter[str]:
    """Erase a person, with the learner held off meanwhile so that no night writes what it had read of them.

    Returns:
        How much of what; nothing for somebody of whom nothing is stored, and then nothing is changed, but with
        ``pruned`` the next version is learned anew: what was pruned since may have taught the one that serves.

    Raises:
        LeaseHeld: a night is at work, or began since the lease could not be renewed; nothing is erased then.
    """
    from learner import lease
    from learner.runs import Heartbeat
    from telemetry.erasure import close_erasure, erase_person, find_person, note_erasure

    with engine.begin() as conn:
        token = lease.acquire(conn, holder=f"{actor} erases a person")
    try:
        with Heartbeat(engine, token, hours=_ERASING_HOURS):
            with engine.begin() as conn:
                person = find_person(conn, user, hashed=lambda value: keyed_hash(value, key=key))
                counts = erase_person(conn, person)
                if not counts.total() and not pruned:
                    return counts
                number = note_erasure(conn, counts)
                if not lease.renew(conn, token):
                    raise lease.LeaseHeld(lease.LeaseHeld.__doc__)
            with engine.begin() as conn:
                close_erasure(conn, number)
    finally:
        with engine.begin() as conn:
            lease.release(conn, token)
    return counts
