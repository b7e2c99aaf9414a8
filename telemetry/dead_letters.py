"""What could not be stored: kept whole, listed, never dropped."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, RowMapping, func, insert, select

from telemetry.tables import dead_letter, feedback, inference


def quarantine(conn: Connection, *, endpoint: str, reason_code: str, raw: bytes) -> int:
    """Keep ``raw`` with the reason why it was not stored; return its number."""
    statement = insert(dead_letter).values(endpoint=endpoint, reason_code=reason_code, raw=raw)
    return int(conn.execute(statement.returning(dead_letter.c.dead_letter_id)).scalar_one())


def list_dead_letters(conn: Connection, *, after: int | None = None, limit: int = 100) -> Sequence[RowMapping]:
    """Return dead letters, newest first, from before the number ``after``; of ``raw`` only how many bytes it has."""
    length = func.jsonb_build_object("bytes", func.octet_length(dead_letter.c.raw)).label("raw")
    columns = [length if column.name == "raw" else column for column in dead_letter.columns]
    statement = select(*columns).order_by(dead_letter.c.dead_letter_id.desc()).limit(limit)
    if after is not None:
        statement = statement.where(dead_letter.c.dead_letter_id < after)
    return conn.execute(statement).mappings().all()


def counts(conn: Connection) -> Mapping[str, int]:
    """Return how many inferences and feedback revisions are stored, and how many events are quarantined."""
    tables = {"inferences": inference, "feedback": feedback, "quarantined": dead_letter}
    return {name: int(conn.execute(select(func.count()).select_from(t)).scalar_one()) for name, t in tables.items()}
