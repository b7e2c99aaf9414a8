"""Erase a person: everything logged under their id, their votes, their traces elsewhere. The caller commits."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, func, insert, select, text, update

from telemetry.retention import ERASED, scrub_reports
from telemetry.tables import erasure

_FOUND = text("""
select inference_id, session_id from inference where end_user = :person
union select inference_id, session_id from inference join inference_alias a using (inference_id)
      where a.kind = 'end_user' and a.value = :person
""")
# What names them by an id that others have as well counts for nobody, and may be about them.
_THEIR_FEEDBACK = """feedback where inference_id = any(:ids) or submitter = any(:submitters)
      or (resolution <> 'resolved' and (target_kind, target_value) in (
          select 'inference_id', unnest(cast(:names as text[]))
          union select kind, value from inference_alias where inference_id = any(:ids)))"""
_TEXTS = text(f"""
select unnest(array[query, answer]) from inference_payload where inference_id = any(:ids)
union select text from segment where inference_id = any(:ids)
union select comment from {_THEIR_FEEDBACK}
""")  # noqa: S608
_OTHERS_TEXTS = text("""
select query from inference_payload where query = any(:texts)
union select answer from inference_payload where answer = any(:texts)
union select text from segment where text = any(:texts)
union select query from golden_query where query = any(:texts)
""")
_THEIR_GOLDEN = """golden_query where inference_id = any(:ids) or people && :submitters
      or feedback_id in (select feedback_id from feedback where submitter = any(:submitters))"""
_GOLDEN = text(f"select query from {_THEIR_GOLDEN}")  # noqa: S608
_DELETE = {  # in this order: golden queries follow feedback
    "golden_queries": text(f"delete from {_THEIR_GOLDEN}"),  # noqa: S608
    "feedback": text(f"delete from {_THEIR_FEEDBACK}"),  # noqa: S608
    "dead_letters": text("""
        delete from dead_letter where exists (
            select from unnest(cast(:marks as bytea[])) as mark where position(mark in raw) > 0)
        """),
    "inferences": text("delete from inference where inference_id = any(:ids)"),
}
_ASKED_AGAIN = text("""
update mined_failure set evidence = jsonb_set(evidence, '{asked_again_as}', to_jsonb(cast(:erased as text)))
where evidence ->> 'asked_again_as' = any(:names)
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What is known of a person: the keyed hash of their id, all inferences under it, and who their votes came as."""

    ids: list[UUID]
    submitters: list[str]
    marks: list[bytes]


def find_person(conn: Connection, user: str, *, hashed: Callable[[str], str]) -> Person:
    """Return what is stored under ``user``, the plain id as the clients send it; ``hashed`` is the keyed hash."""
    person = hashed(user)
    rows = conn.execute(_FOUND, {"person": person}).all()
    sessions = {row.session_id for row in rows if row.session_id is not None}
    ids = [row.inference_id for row in rows]
    marks = [person.encode(), json.dumps(user).encode(), *(str(key).encode() for key in ids)]
    return Person(ids=ids, submitters=[person, *(hashed(f"session {s}") for s in sorted(sessions))], marks=marks)


def erase_person(conn: Connection, person: Person) -> Counter[str]:
    """Delete all of a person and return how much of what; nothing says afterwards whom it was about.

    Their inferences go with decision, texts, embeddings, aliases, mined failures and the feedback on them; so do their
    votes on others' inferences, golden queries made of theirs or by their correction, dead letters that name them, and
    their texts and ids in reports and in what was mined of others. A golden query that somebody wrote stays, though
    they asked the same.
    """
    values: dict[str, object] = {
        "ids": person.ids,
        "names": [str(key) for key in person.ids],
        "submitters": person.submitters,
    }
    texts = [t for t in conn.execute(_TEXTS, values).scalars() if t]
    values |= {"texts": texts, "marks": person.marks}
    golden = [repr(query[:80])[1:-1] for query in conn.execute(_GOLDEN, values).scalars()]  # as the gate quotes them
    counts = Counter({name: conn.execute(statement, values).rowcount for name, statement in _DELETE.items()})
    conn.execute(_ASKED_AGAIN, {"names": values["names"], "erased": ERASED})
    shared = set(conn.execute(_OTHERS_TEXTS, {"texts": texts}).scalars())  # somebody else said the same
    counts += scrub_reports(conn, texts=set(texts) - shared, inside=golden, ids=frozenset(map(str, person.ids)))
    return counts


def note_erasure(conn: Connection, counts: Counter[str]) -> int:
    """Write down that somebody was erased, which the next night heeds; return its number."""
    statement = insert(erasure).values(counts=dict(counts)).returning(erasure.c.erasure_id)
    return int(conn.execute(statement).scalar_one())


def close_erasure(conn: Connection, erasure_id: int) -> None:
    """Set its time to now, when its deletions are committed: whatever was read before is older than that."""
    statement = update(erasure).where(erasure.c.erasure_id == erasure_id)
    conn.execute(statement.values(erased_at=func.clock_timestamp()))


def last_erasure(conn: Connection) -> datetime | None:
    """Return when somebody was erased last, None for never."""
    found: datetime | None = conn.execute(select(func.max(erasure.c.erased_at))).scalar_one()
    return found
