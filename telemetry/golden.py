"""Golden queries: what must always go where it belongs. Kept by people; a thumbs-down can become one."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, select, text

from telemetry.tables import golden_query, inference_payload

_MOST_CHARACTERS = 20_000
_LATEST = """
select distinct on (feedback_id) feedback_id, op, correction, segment_index, received_at from feedback
where {} order by feedback_id, revision desc
"""
_PUT = text("""
insert into golden_query (golden_id, query, routes, added_by, inference_id, feedback_id, people)
values (:golden_id, :query, :routes, :added_by, :inference_id, :feedback_id, array(
    select end_user from inference where inference_id = :inference_id and end_user is not null
    union select value from inference_alias where inference_id = :inference_id and kind = 'end_user'
    union select submitter from feedback where feedback_id = :feedback_id and submitter is not null))
on conflict (golden_id) do update set routes = excluded.routes, added_by = excluded.added_by,
    feedback_id = excluded.feedback_id
""")
_LIST = text(f"""
select golden_id, query, routes, added_by, inference_id, feedback_id, added_at
from golden_query g left join lateral ({_LATEST.format("feedback_id = g.feedback_id")}) said using (feedback_id)
where (cast(:after as text) is null or golden_id > :after)
      and (said.op is null or (said.op <> 'withdraw' and array[said.correction] = g.routes))
order by golden_id limit :limit
""")  # noqa: S608
_CORRECTION = text(f"""
select feedback_id, correction from ({_LATEST.format("inference_id = :inference_id")}) said
where op <> 'withdraw' and correction is not null
      and (segment_index is null  -- of a part alone it does not say where the whole belongs
           or not exists (select from inference where inference_id = :inference_id and segment_count > 1))
order by received_at desc limit 1
""")  # noqa: S608


class UnknownGolden(LookupError):
    """There is no golden query with this id; trimtab golden list shows those there are."""


class NotGolden(ValueError):
    """This cannot become a golden query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenQuery:
    """A query and the routes of its segments in order; one route: it is not split.

    ``feedback_id`` is the correction that says where it belongs; None: whoever added it says so.
    """

    golden_id: str
    query: str
    routes: tuple[str, ...]
    added_by: str
    inference_id: UUID | None = None
    feedback_id: UUID | None = None
    added_at: datetime | None = None


def golden(query: str, routes: Iterable[str], *, by: str, inference_id: UUID | None = None) -> GoldenQuery:
    """Return a golden query; its id is a hash of the text, so that one query is there once.

    Raises:
        NotGolden: there is no text or no route, or the text is too long or has a NUL or half a character.
    """
    named = tuple(routes)
    if not query.strip() or not can_be_kept(query) or len(query) > _MOST_CHARACTERS:
        raise NotGolden(f"A golden query is a text of 1 to {_MOST_CHARACTERS:,} characters.")
    if not named or not all(isinstance(route, str) and route and can_be_kept(route) for route in named):
        raise NotGolden("A golden query names at least one route.")
    key = hashlib.sha256(query.encode("utf-8", "replace")).hexdigest()[:16]
    return GoldenQuery(golden_id=key, query=query, routes=named, added_by=by, inference_id=inference_id)


def can_be_kept(value: str) -> bool:
    """Whether the database can keep it: it has neither a NUL nor half a character, which JSON can spell."""
    return not any(sign == "\0" or "\ud800" <= sign <= "\udfff" for sign in value)


def put_golden(conn: Connection, queries: Sequence[GoldenQuery]) -> None:
    """Add golden queries; one that is there already gets the new routes. The caller commits.

    Whose words they are stays as it was: an operator's, or those of who asked and may want to be erased, be it when the
    log is pruned.
    """
    for item in queries:
        conn.execute(_PUT, {**asdict(item), "routes": list(item.routes)})


def remove_golden(conn: Connection, golden_id: str) -> None:
    """Take a golden query out; the caller commits.

    Raises:
        UnknownGolden: there is none with this id.
    """
    if conn.execute(delete(golden_query).where(golden_query.c.golden_id == golden_id)).rowcount == 0:
        raise UnknownGolden(UnknownGolden.__doc__)


def list_golden(conn: Connection, *, after: str | None = None, limit: int | None = None) -> list[GoldenQuery]:
    """Return the golden queries that hold, in the order of their ids, from behind ``after``.

    One that a correction was promoted into holds as long as that correction: not when it was withdrawn since or names
    another route. What the log has pruned was not taken back.
    """
    rows = conn.execute(_LIST, {"after": after, "limit": limit}).mappings()
    return [GoldenQuery(**{**row, "routes": tuple(row["routes"])}) for row in rows]


def promoted(conn: Connection, inference_id: UUID, routes: Sequence[str], *, by: str) -> GoldenQuery:
    """Return the golden query that a judged inference becomes; without ``routes`` what its newest correction named.

    Raises:
        NotGolden: its text was not kept, or nothing says where it belongs.
    """
    of_it = inference_payload.c.inference_id == inference_id
    text_of_it = conn.execute(select(inference_payload.c.query).where(of_it)).scalar_one_or_none()
    if text_of_it is None:
        raise NotGolden("There is no such inference, or its text was not kept; add the query by itself.")
    if routes:
        return golden(text_of_it, routes, by=by, inference_id=inference_id)
    said = conn.execute(_CORRECTION, {"inference_id": inference_id}).one_or_none()
    if said is None:
        raise NotGolden("No correction says where this question belongs; name the route.")
    item = golden(text_of_it, [said.correction], by=by, inference_id=inference_id)
    return replace(item, feedback_id=said.feedback_id)


def parse_golden(raw: bytes, *, source: str, by: str) -> list[GoldenQuery]:
    """Read ``golden.jsonl``: one object a line, ``{"query": ..., "routes": [...]}``.

    Raises:
        NotGolden: in one sentence, with the line.
    """
    found: list[GoldenQuery] = []
    lines: dict[str, int] = {}
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = raw.count(b"\n", 0, error.start) + 1
        raise NotGolden(f"{source}, line {place}: It is not UTF-8; save the file as UTF-8.") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("query"), str):
                raise NotGolden('It must look like {"query": "...", "routes": ["..."]}.')
            routes = row.get("routes")
            item = golden(row["query"], routes if isinstance(routes, list) else [], by=by)
            if any(other.golden_id == item.golden_id and other.routes != item.routes for other in found):
                raise NotGolden(f"Line {lines[item.golden_id]} sends the same query elsewhere; keep one of the two.")
            lines[item.golden_id] = number
            found.append(item)
        except (NotGolden, json.JSONDecodeError) as error:
            why = str(error) if isinstance(error, NotGolden) else "It is not JSON."
            raise NotGolden(f"{source}, line {number}: {why}") from None
    return found


def golden_lines(queries: Iterable[GoldenQuery]) -> str:
    """Return ``golden.jsonl`` of these queries; ``parse_golden`` reads it."""
    rows = ({"query": item.query, "routes": list(item.routes)} for item in queries)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
