"""Pruning and erasing as the commands and the nightly run do it: batch by batch, each in a transaction of its own."""

import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, Engine

from telemetry.ids import keyed_hash
from telemetry.retention import (
    blank_stray_comments,
    blank_texts,
    drop_texts_from_reports,
    prune_dead_letters,
    prune_rows,
    prune_stray_feedback,
)

BATCH = 500
_ERASING_HOURS = 6.0
_NIL = UUID(int=0)


def prune(engine: Engine, *, before: datetime | None, text_before: datetime | None) -> Counter[str]:
    """Delete what was received before ``before``, blank texts and embeddings before ``text_before``.

    Between two batches it waits as long as the batch took, so that the intake has the database at least half the time.
    """
    counts: Counter[str] = Counter()
    if before is not None:
        counts += _repeat(engine, lambda conn: prune_rows(conn, before=before, batch=BATCH))
        counts += _repeat(engine, lambda conn: prune_stray_feedback(conn, before=before, batch=BATCH))
    if text_before is not None:
        counts += _blank(engine, before=text_before)
    oldest = [moment for moment in (before, text_before) if moment is not None]
    with engine.begin() as conn:
        if oldest:
            counts += prune_dead_letters(conn, before=max(oldest))
        return counts + drop_texts_from_reports(conn)


def _repeat(engine: Engine, batch: Callable[[Connection], Counter[str]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    while True:
        began = time.monotonic()
        with engine.begin() as conn:
            done = batch(conn)
        if not done.total():
            return counts
        counts += done
        time.sleep(time.monotonic() - began)


def _blank(engine: Engine, *, before: datetime) -> Counter[str]:
    counts: Counter[str] = Counter()
    after: UUID | None = _NIL
    while after is not None:
        began = time.monotonic()
        with engine.begin() as conn:
            done, after = blank_texts(conn, before=before, after=after, batch=BATCH)
        counts += done
        time.sleep(time.monotonic() - began)
    with engine.begin() as conn:
        return counts + blank_stray_comments(conn, before=before)


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
