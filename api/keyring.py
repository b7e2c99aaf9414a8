"""The API keys as this process knows them: read every second, kept on disk, so that they work without the database."""

import asyncio
import hmac
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from telemetry.api_keys import ApiKey, digest, keys_from_json, keys_to_json, read_keys
from telemetry.database import create_engine
from telemetry.whole_files import write_whole

POLL_SECONDS = 1.0
_PATIENCE_SECONDS = 3.0
_STATEMENT_TIMEOUT_MS = 3_000
_OVERDUE_SECONDS = 5.0  # so soon a revoked key is refused
_NOBODY = bytes(32)
# What else may go wrong between a connection and the keys of its rows; none of it may end the following of the list.
_UNFORESEEN = (OSError, RuntimeError, ValueError, TypeError, LookupError)


class Keyring:
    """All keys, by their id.

    A process that has never seen the list, neither from the database nor on disk, knows of no key: ``known`` is False.
    The list is read in a thread and on a connection that nothing else uses: whatever readers do, a revocation is heard.

    Args:
        url: of the database.
        home: the folder whose ``cache/`` keeps the last known list (hashes, no keys).
    """

    def __init__(self, url: str, *, home: Path) -> None:
        self._engine = create_engine(url, pool_size=1, statement_timeout_ms=_STATEMENT_TIMEOUT_MS)
        self._cache = home / "cache" / "api-keys.json"
        self._keys: Mapping[str, ApiKey] = {}
        self._written = self._unwritten = ""
        self.known = False
        self._heard, self._overdue = time.monotonic(), False
        self._asked, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="keyring", daemon=True)

    async def start(self) -> None:
        """Read the list, from the database or else from disk, and follow it from then on."""
        with suppress(OSError, ValueError):
            self._take(keys_from_json(self._cache.read_text(encoding="utf-8")))
        self._thread.start()
        await asyncio.to_thread(self._asked.wait, _PATIENCE_SECONDS)

    async def stop(self) -> None:
        """Stop following; a hung database is not waited for."""
        self._stopping.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, _PATIENCE_SECONDS)
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

    def _follow(self) -> None:
        while not self._stopping.is_set():
            self._refresh()
            self._asked.set()
            self._stopping.wait(POLL_SECONDS)

    def _refresh(self) -> None:
        """Read the list; while the database is away, the last one goes on being used."""
        try:
            with self._engine.connect() as conn:
                keys = read_keys(conn)
        except SQLAlchemyError:
            self._tell(heard=False)
        except _UNFORESEEN as error:
            structlog.get_logger().error("keys_not_read", error=type(error).__name__)
            self._tell(heard=False)
        else:
            self._take(keys)
            self._tell(heard=True)
            self._keep(keys_to_json(keys))

    def _tell(self, *, heard: bool) -> None:
        """Log once that the list is out of date, and once that it is not any more."""
        silent = time.monotonic() - self._heard
        if heard and self._overdue:
            structlog.get_logger().info("keys_followed_again", seconds=round(silent))
        elif not heard and not self._overdue and silent >= _OVERDUE_SECONDS:
            structlog.get_logger().warning("keys_not_followed", seconds=round(silent))
        if heard:
            self._heard = time.monotonic()
        self._overdue = not heard and silent >= _OVERDUE_SECONDS

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
