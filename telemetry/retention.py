"""How long things are kept: old rows and old texts go in small batches, a person goes whole. The caller commits.

Batches take only rows that nobody holds (``skip locked``): they wait for nobody, the intake for one of them at most.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Column, Connection, TextClause, select, text, update

from telemetry.tables import learner_run, notification, router_version

Place = tuple[datetime, UUID]  # when a row was received, and its id
Found = tuple[list[UUID], Place | None]  # ids in order, and the place to go on behind; None at the end
START: Place = (datetime.min.replace(tzinfo=UTC), UUID(int=0))
ERASED = "[erased]"
_ID = re.compile("[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_OLD_INFERENCES = text(
    "select inference_id from inference where received_at < :before order by received_at limit :batch"
    " for update skip locked"
)
_THEIR_FEEDBACK = text("""
delete from feedback where (feedback_id, revision) in (
    select feedback_id, revision from feedback where inference_id = any(:ids) for update skip locked)
""")
_DELETE_INFERENCES = text("delete from inference where inference_id = any(:ids)")
_STRAY_FEEDBACK = text("""
delete from feedback where (feedback_id, revision) in (
    select feedback_id, revision from feedback f
    where received_at < :before and not exists (select from inference i where i.inference_id = f.inference_id)
    order by received_at limit :batch for update skip locked)
""")
_DEAD_LETTERS = text("""
delete from dead_letter where dead_letter_id = any(array(
    select dead_letter_id from dead_letter where received_at < :before
    order by dead_letter_id limit :batch for update skip locked))
""")
_NEXT = """
select {key} as key, received_at, {holds} as holds from (
    select * from {table} where (received_at, {key}) > (:since, :after) and received_at < :before
    order by received_at, {key} limit :most) n
order by received_at, {key}
"""
# Counted and not asked with exists, which a plan may answer by reading all payloads for every batch.
_HOLDS = """(select count(*) from inference_payload p
    where p.inference_id = n.inference_id and num_nonnulls(p.query, p.answer, p.embedding) > 0)
  + (select count(*) from segment s where s.inference_id = n.inference_id and num_nonnulls(s.text, s.embedding) > 0) > 0
"""
_TEXTS = text(_NEXT.format(table="inference", key="inference_id", holds=_HOLDS))
_COMMENTS = text(_NEXT.format(table="feedback", key="feedback_id", holds="comment is not null"))
_BLANK_PAYLOADS = text("""
update inference_payload set query = null, answer = null, embedding = null, encoder = null, redaction = 'erased'
where inference_id in (
    select inference_id from inference_payload
    where inference_id = any(:ids) and num_nonnulls(query, answer, embedding) > 0 for update skip locked)
returning inference_id
""")
_BLANK_SEGMENTS = text("""
update segment set text = null, embedding = null where (inference_id, segment_index) in (
    select inference_id, segment_index from segment
    where inference_id = any(:ids) and num_nonnulls(text, embedding) > 0 for update skip locked)
returning inference_id
""")
_BLANK_COMMENTS = text("""
update feedback set comment = null where (feedback_id, revision) in (
    select feedback_id, revision from feedback
    where feedback_id = any(:ids) and received_at < :before and comment is not null for update skip locked)
""")
_SAME_TEXT = text("""
select query from inference_payload where query = any(:texts)
union select text from segment where text = any(:texts)
""")
_PRUNABLE = text("""
with times as (select cast(:before as timestamptz) as before, cast(:text_before as timestamptz) as text_before)
select (select count(*) from inference, times where received_at < before) as inferences,
       (select count(*) from times, feedback f left join inference i using (inference_id)
        where coalesce(i.received_at, f.received_at) < before) as feedback,
       (select count(*) from times, inference i
        where received_at < text_before and coalesce(received_at >= before, true)
              and (exists (select from inference_payload p where p.inference_id = i.inference_id
                                  and num_nonnulls(p.query, p.answer, p.embedding) > 0)
                   or exists (select from segment s where s.inference_id = i.inference_id
                                     and num_nonnulls(s.text, s.embedding) > 0))) as texts,
       (select count(*) from times, feedback f left join inference i using (inference_id)
        where f.received_at < text_before and f.comment is not null
              and coalesce(coalesce(i.received_at, f.received_at) >= before, true)) as comments,
       (select count(*) from dead_letter, times where received_at < greatest(before, text_before)) as dead_letters
""")


def prune_rows(conn: Connection, *, before: datetime, batch: int) -> Counter[str]:
    """Delete up to ``batch`` inferences received before ``before``, with all that hangs on them; return how many."""
    ids = list(conn.execute(_OLD_INFERENCES, {"before": before, "batch": batch}).scalars())
    if not ids:
        return Counter()
    votes = conn.execute(_THEIR_FEEDBACK, {"ids": ids}).rowcount
    return Counter(inferences=conn.execute(_DELETE_INFERENCES, {"ids": ids}).rowcount, feedback=votes)


def prune_stray_feedback(conn: Connection, *, before: datetime, batch: int) -> Counter[str]:
    """Delete up to ``batch`` old revisions of feedback whose inference is not there (any more)."""
    return Counter(feedback=conn.execute(_STRAY_FEEDBACK, {"before": before, "batch": batch}).rowcount)


def prune_dead_letters(conn: Connection, *, before: datetime, batch: int) -> Counter[str]:
    """Delete up to ``batch`` old dead letters; they hold texts."""
    return Counter(dead_letters=conn.execute(_DEAD_LETTERS, {"before": before, "batch": batch}).rowcount)


def find_texts(conn: Connection, *, before: datetime, after: Place, most: int) -> Found:
    """Return which of the next ``most`` old inferences hold texts or embeddings, they or their segments."""
    return _find(conn, _TEXTS, before=before, after=after, most=most)


def find_comments(conn: Connection, *, before: datetime, after: Place, most: int) -> Found:
    """Return which of the next ``most`` old revisions of feedback hold a comment, whatever it is on."""
    return _find(conn, _COMMENTS, before=before, after=after, most=most)


def _find(conn: Connection, statement: TextClause, *, before: datetime, after: Place, most: int) -> Found:
    rows = conn.execute(statement, {"before": before, "since": after[0], "after": after[1], "most": most}).all()
    found = list(dict.fromkeys(row.key for row in rows if row.holds))
    return found, (rows[-1].received_at, rows[-1].key) if len(rows) == most else None


def blank_texts(conn: Connection, ids: Sequence[UUID]) -> Counter[str]:
    """Blank texts and embeddings of these inferences and of their segments; return how many had any."""
    parts = (_BLANK_PAYLOADS, _BLANK_SEGMENTS)
    return Counter(texts=len({key for part in parts for key in conn.execute(part, {"ids": ids}).scalars()}))


def blank_comments(conn: Connection, ids: Sequence[UUID], *, before: datetime) -> Counter[str]:
    """Blank the comments in old revisions of this feedback; return how many there were."""
    return Counter(comments=conn.execute(_BLANK_COMMENTS, {"ids": ids, "before": before}).rowcount)


def count_prunable(conn: Connection, *, before: datetime | None, text_before: datetime | None) -> Mapping[str, int]:
    """Return how much pruning would delete or blank now."""
    return dict(conn.execute(_PRUNABLE, {"before": before, "text_before": text_before}).mappings().one())


def drop_texts_from_reports(conn: Connection) -> Counter[str]:
    """Blank in the reports of nights what is in the log no more; return how many documents were changed."""
    shown = {text for _, _, report in _documents(conn) for text in _shown_texts(report)}
    present = set(conn.execute(_SAME_TEXT, {"texts": sorted(shown)}).scalars()) if shown else set()
    return scrub_reports(conn, texts=shown - present - {ERASED})


def scrub_reports(
    conn: Connection, *, texts: Iterable[str], inside: Iterable[str] = (), ids: frozenset[str] = frozenset()
) -> Counter[str]:
    """Blank ``texts``, and ``inside`` of longer ones, and drop what is said of the inferences ``ids``, and their names.

    Returns:
        How many reports, reasons, errors and notifications were changed.
    """
    gone, parts, changed = frozenset(texts), tuple(inside), 0
    if not gone and not parts and not ids:
        return Counter()
    for column, key, document in _documents(conn):
        clean = _scrubbed(document, gone, parts, ids)
        if clean != document:
            where = next(iter(column.table.primary_key)) == key
            conn.execute(update(column.table).where(where).values({column.name: clean}))
            changed += 1
    return Counter(reports=changed)


def _documents(conn: Connection) -> list[tuple[Column[Any], Any, Any]]:
    found = []
    night = (learner_run.c.report, learner_run.c.reasons, learner_run.c.error)
    for column in (*night, router_version.c.report, notification.c.body):
        key = next(iter(column.table.primary_key))
        rows = conn.execute(select(key, column).where(column.is_not(None)))
        found += [(column, row[0], row[1]) for row in rows]
    return found


def _shown_texts(report: Any) -> list[str]:
    changed = report.get("changed") if isinstance(report, Mapping) else None
    return [query["text"] for query in (changed or {}).get("queries") or ()]


def _scrubbed(value: Any, gone: frozenset[str], inside: tuple[str, ...], ids: frozenset[str]) -> Any:
    if isinstance(value, str):
        if value in gone:
            return ERASED
        for part in inside:
            value = value.replace(part, ERASED)
        return _ID.sub(lambda found: ERASED if found[0] in ids else found[0], value)
    if isinstance(value, Mapping):
        return {name: _scrubbed(inner, gone, inside, ids) for name, inner in value.items()}
    if isinstance(value, list):
        kept = [v for v in value if not (isinstance(v, Mapping) and v.get("inference_id") in ids)]
        return [_scrubbed(inner, gone, inside, ids) for inner in kept]
    return value
