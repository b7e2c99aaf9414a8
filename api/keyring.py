"""The API keys as this process knows them: read every second, kept on disk, so that they work without the database."""

import asyncio
import hmac
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog
from anyio import to_thread
from sqlalchemy.exc import SQLAlchemyError

from telemetry.api_keys import ApiKey, digest, keys_from_json, keys_to_json, read_keys
from telemetry.database import create_engine
from telemetry.whole_files import write_whole

POLL_SECONDS = 1.0
_PATIENCE_SECONDS = 3.0
_NOBODY = bytes(32)
# What else may go wrong between a thread and the keys of its rows; none of it may end the following of the list.
_UNFORESEEN = (OSError, RuntimeError, ValueError, TypeError, LookupError)


class Keyring:
    """All keys, by their id.

    A process that has never seen the list, neither from the database nor on disk, knows of no key: ``known`` is False.

    Args:
        url: of the database.
        home: the folder whose ``cache/`` keeps the last known list (hashes, no keys).
    """

    def __init__(self, url: str, *, home: Path) -> None:
        self._engine = create_engine(url, pool_size=1)
        self._cache = home / "cache" / "api-keys.json"
        self._keys: Mapping[str, ApiKey] = {}
        self._written = self._unwritten = ""
        self.known = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the list, from the database or else from disk, and follow it from then on."""
        await self._refresh()
        if not self.known:
            with suppress(OSError, ValueError):
                self._take(keys_from_json(self._cache.read_text(encoding="utf-8")))
        self._task = asyncio.create_task(self._follow(), name="keyring")

    async def stop(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        self._engine.dispose()

    @property
    def any(self) -> bool:
        """Whether there is a key, be it expired or revoked: from the first one on, calls need one."""
        return bool(self._keys)

    def find(self, presented: str) -> ApiKey | None:
        """Return the key that was presented, usable or not; None for one that is not known. Takes constant time."""
        key = self._keys.get(presented.split("_", 2)[1] if presented.count("_") > 1 else "")
        same = hmac.compare_digest(digest(presented), key.sha256 if key else _NOBODY)
        return key if same else None

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self._refresh()

    async def _refresh(self) -> None:
        """Read the list; while the database is away, the last one goes on being used."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                keys = await to_thread.run_sync(self._read, abandon_on_cancel=True)
        except (SQLAlchemyError, TimeoutError):
            return
        except _UNFORESEEN as error:
            structlog.get_logger().error("keys_not_read", error=type(error).__name__)
            return
        self._take(keys)
        self._keep(keys_to_json(keys))

    def _read(self) -> list[ApiKey]:
        with self._engine.connect() as conn:
            return read_keys(conn)

    def _take(self, keys: Sequence[ApiKey]) -> None:
        self._keys = {key.key_id: key for key in keys}
        self.known = True

    def _keep(self, text: str) -> None:
        """Write the list to disk when it has changed, for the owner alone, in one step."""
        if text == self._written:
            return
        try:
            write_whole(self._cache, [text.encode()])
            self._written, self._unwritten = text, ""
        except OSError as error:  # tried again each second, told once
            if text != self._unwritten:
                structlog.get_logger().warning("keys_not_cached", error=str(error.strerror))
            self._unwritten = text


def why_unusable(key: ApiKey) -> str | None:
    """Return in a sentence why a key cannot be used now, None when it can."""
    if key.revoked_at is not None:
        return "This API key was revoked; ask for another one."
    return None if key.usable(datetime.now(UTC)) else "This API key has expired; ask for another one."
