"""API keys: who may call what. Only their SHA-256 is kept; the key itself is shown once, when it is made."""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from telemetry.tables import api_key

SCOPES = ("ingest", "feedback", "decide", "read", "publish")
TOKEN_PRINCIPAL = "feedback-token"  # noqa: S105  # who brought feedback that came with a feedback token
_PREFIX = "tt"


class WrongKeyRequest(ValueError):
    """The key cannot be made or revoked as asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key as it is kept.

    ``limits`` may hold ``rate`` (requests a second), ``concurrency`` and ``body_bytes``. Times are aware.
    """

    key_id: str
    name: str
    sha256: bytes
    scopes: tuple[str, ...]
    limits: Mapping[str, float]
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def usable(self, now: datetime) -> bool:
        """Tell whether it is neither revoked nor expired at ``now``."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def digest(key: str) -> bytes:
    """Return what is kept of a key; it has 256 random bits, so a plain hash cannot be searched back."""
    return hashlib.sha256(key.encode()).digest()


def create_key(
    conn: Connection,
    *,
    name: str,
    scopes: Sequence[str],
    created_by: str,
    expires_at: datetime | None = None,
    limits: Mapping[str, float] | None = None,
) -> tuple[ApiKey, str]:
    """Make a key and return what is kept of it, and the key itself, which cannot be had again; the caller commits.

    Raises:
        WrongKeyRequest: the name is taken by a key that is not revoked, or a scope is unknown.
    """
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        raise WrongKeyRequest(f"A key needs scopes, each one of {', '.join(SCOPES)}.")
    if not 0 < len(name) <= 200 or not name.isprintable() or name == TOKEN_PRINCIPAL:
        raise WrongKeyRequest("A key's name has up to 200 printable characters and is not feedback-token.")
    key_id = secrets.token_hex(6)
    key = f"{_PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
    row: dict[str, object] = {
        "key_id": key_id,
        "name": name,
        "sha256": digest(key),
        "scopes": sorted(set(scopes), key=SCOPES.index),
    }
    row |= {"limits": dict(limits or {}), "created_by": created_by, "expires_at": expires_at}
    try:
        with conn.begin_nested():
            made = conn.execute(insert(api_key).values(row).returning(api_key)).mappings().one()
    except IntegrityError:
        raise WrongKeyRequest("There is a key of this name; revoke it first, or choose another name.") from None
    return _key(made), key


def read_keys(conn: Connection) -> list[ApiKey]:
    """Return all keys, oldest first, those that are expired or revoked too."""
    return [_key(row) for row in conn.execute(select(api_key).order_by(api_key.c.created_at)).mappings()]


def revoke_key(conn: Connection, name_or_id: str) -> ApiKey:
    """Revoke the key of this name or id; the caller commits.

    Raises:
        WrongKeyRequest: there is none that is not revoked.
    """
    named = or_(api_key.c.name == name_or_id, api_key.c.key_id == name_or_id)
    statement = update(api_key).where(named, api_key.c.revoked_at.is_(None)).returning(api_key)
    row = conn.execute(statement.values(revoked_at=func.clock_timestamp())).mappings().first()
    if row is None:
        raise WrongKeyRequest("There is no such key that could be revoked; trimtab keys list shows those there are.")
    return _key(row)


def _key(row: RowMapping) -> ApiKey:
    return ApiKey(**{**row, "sha256": bytes(row["sha256"]), "scopes": tuple(row["scopes"])})


def keys_to_json(keys: Sequence[ApiKey]) -> str:
    """Return keys as text that ``keys_from_json`` reads; it holds no secret, only hashes."""

    def plain(value: Any) -> Any:
        return value.hex() if isinstance(value, bytes) else value.isoformat() if isinstance(value, datetime) else value

    return json.dumps([{f.name: plain(getattr(key, f.name)) for f in fields(ApiKey)} for key in keys])


def keys_from_json(text: str) -> list[ApiKey]:
    """Return the keys that ``keys_to_json`` wrote.

    Raises:
        ValueError: it is something else.
    """
    try:
        return [_key_of_json(entry) for entry in json.loads(text)]
    except (TypeError, KeyError, AttributeError):
        raise ValueError("This is no list of keys.") from None


def _key_of_json(entry: Mapping[str, Any]) -> ApiKey:
    times = {n: entry[n] and datetime.fromisoformat(entry[n]) for n in ("created_at", "expires_at", "revoked_at")}
    return ApiKey(**{**entry, **times, "sha256": bytes.fromhex(entry["sha256"]), "scopes": tuple(entry["scopes"])})
