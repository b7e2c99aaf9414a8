"""Many rows in one statement: arrays of columns, unfolded by the server in one round trip and one plan."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from sqlalchemy import Column, Table, TextClause, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def _array_type(column: Column[object]) -> str:
    # JSON travels as text: an array of jsonb would be adapted element by element.
    return "text" if isinstance(column.type, JSONB) else column.type.compile(dialect=_DIALECT)


def _selected(column: Column[object], expressions: Mapping[str, str]) -> str:
    if column.name in expressions:
        return expressions[column.name]
    return f"r.{column.name}::jsonb" if isinstance(column.type, JSONB) else f"r.{column.name}"


@lru_cache(maxsize=64)
def _statement(table: Table, names: tuple[str, ...], tail: str, expressions: tuple[tuple[str, str], ...]) -> TextClause:
    columns = [table.c[name] for name in names]
    arrays = ", ".join(f"cast(:{c.name} as {_array_type(c)}[])" for c in columns)
    selected = ", ".join(_selected(c, dict(expressions)) for c in columns)
    named = ", ".join(names)
    return text(
        f"insert into {table.name} ({named}) select {selected} from unnest({arrays}) as r({named}) {tail}"  # noqa: S608  # names of our own tables
    )


def insert_rows(
    table: Table,
    rows: Sequence[Mapping[str, object]],
    *,
    names: tuple[str, ...],
    tail: str = "",
    expressions: Mapping[str, str] | None = None,
) -> tuple[TextClause, dict[str, list[object]]]:
    """Return the statement that inserts ``rows`` and its parameters, one list a column.

    Args:
        table: where to.
        rows: one mapping a row; a missing key is null.
        names: the columns written, in order.
        tail: what follows the select, such as ``on conflict ... returning ...``.
        expressions: SQL for columns that are not taken as they come; ``r`` is the row.
    """
    statement = _statement(table, names, tail, tuple(sorted((expressions or {}).items())))
    return statement, {name: [row.get(name) for row in rows] for name in names}
