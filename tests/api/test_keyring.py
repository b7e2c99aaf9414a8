"""The list of keys as a process follows it, and what it keeps of each caller."""

import asyncio
import hmac
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from api import admission, keyring
from api.admission import Admission
from api.feedback_tokens import TokenSigner, WrongToken
from api.keyring import Keyring
from telemetry.api_keys import ApiKey, create_key
from telemetry.ids import new_id


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


def make(engine: Engine, name: str) -> str:
    with engine.begin() as conn:
        return create_key(conn, name=name, scopes=["decide"], created_by="a test")[1]


def following(engine: Engine, home: Path) -> Keyring:
    return Keyring(engine.url.render_as_string(hide_password=False), home=home)


def test_a_list_that_could_not_be_read_at_the_start_is_read_later(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "POLL_SECONDS", 0.05)
    key = make(engine, "one")

    def rename(old: str, new: str) -> None:
        with engine.begin() as conn:
            conn.execute(text(f"alter table if exists {old} rename to {new}"))

    async def follow() -> None:
        ring = following(engine, tmp_path)
        await ring.start()
        try:
            assert (ring.known, ring.find(key)) == (False, None)
            rename("not_there_yet", "api_key")
            await until(lambda: ring.find(key))
        finally:
            await ring.stop()

    rename("api_key", "not_there_yet")
    try:
        asyncio.run(follow())
    finally:
        rename("not_there_yet", "api_key")


def test_a_failure_that_nobody_foresaw_does_not_end_the_following_of_the_list(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "POLL_SECONDS", 0.05)
    read, failures = keyring.read_keys, [RuntimeError("can't start new thread"), ValueError(), KeyError()]

    def fail_at_first(*arguments: object) -> list[ApiKey]:
        if failures:
            raise failures.pop()
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(keyring, "read_keys", fail_at_first)

    async def follow() -> None:
        ring = following(engine, tmp_path)
        await ring.start()
        try:
            key = make(engine, "one")
            await until(lambda: ring.find(key))
        finally:
            await ring.stop()

    asyncio.run(follow())


def test_a_list_that_could_not_be_kept_on_disk_is_kept_once_it_can(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "POLL_SECONDS", 0.05)
    make(engine, "one")
    (tmp_path / "cache").write_text("a file where the folder should be")

    async def follow() -> None:
        ring = following(engine, tmp_path)
        await ring.start()
        try:
            (tmp_path / "cache").unlink()
            await until(lambda: (tmp_path / "cache" / "api-keys.json").exists())
        finally:
            await ring.stop()

    asyncio.run(follow())


def test_it_is_logged_once_that_the_list_is_not_followed_and_once_that_it_is_again(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(keyring, "_OVERDUE_SECONDS", 0.3)

    def rename(old: str, new: str) -> None:
        with engine.begin() as conn:
            conn.execute(text(f"alter table if exists {old} rename to {new}"))

    async def follow() -> list[str]:
        ring = following(engine, tmp_path)
        with capture_logs() as logs:
            await ring.start()
            try:
                rename("api_key", "away_for_now")
                await until(lambda: logs)
                await asyncio.sleep(0.5)
                rename("away_for_now", "api_key")
                await until(lambda: len(logs) > 1)
            finally:
                rename("away_for_now", "api_key")
                await ring.stop()
        return [entry["event"] for entry in logs]

    assert asyncio.run(follow()) == ["keys_not_followed", "keys_followed_again"]


def test_a_list_that_cannot_be_kept_on_disk_leaves_no_files_there(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "POLL_SECONDS", 0.05)
    make(engine, "one")
    cache = tmp_path / "cache"
    (cache / "api-keys.json" / "in the way").mkdir(parents=True)

    async def follow() -> None:
        ring = following(engine, tmp_path)
        await ring.start()
        try:
            newer = make(engine, "two")
            await until(lambda: ring.find(newer))
        finally:
            await ring.stop()

    asyncio.run(follow())
    assert [file.name for file in cache.iterdir()] == ["api-keys.json"]


def test_keys_and_tokens_are_compared_in_constant_time(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is presented, whole digests go through the comparison that takes as long for every answer, once."""
    key, compared = make(engine, "one"), []
    compare = hmac.compare_digest

    def watched(a: bytes, b: bytes) -> bool:
        compared.append((type(a), len(a), type(b), len(b)))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    signer = TokenSigner(key=bytes(32), hours=1)
    token = str(signer.issue(new_id(), end_user=None, session_id="s"))

    async def ask() -> list[bool]:
        ring = following(engine, tmp_path)
        await ring.start()
        try:
            presented = (key, key[:-1] + ("a" if key[-1] != "a" else "b"), f"tt_{'0' * 12}_{key[16:]}", "tt_x", "")
            return [ring.find(text) is not None for text in presented]
        finally:
            await ring.stop()

    assert asyncio.run(ask()) == [True, False, False, False, False]
    assert compared == [(bytes, 32, bytes, 32)] * 5
    compared.clear()
    signer.read(token)
    with pytest.raises(WrongToken):
        TokenSigner(key=bytes([1]) * 32, hours=1).read(token)
    assert compared == [(bytes, 16, bytes, 16)] * 2


def test_of_too_many_callers_the_one_that_was_silent_longest_is_forgotten(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "_MOST_METERS", 2)
    keys = {name: make(engine, name) for name in ("busy", "other", "third")}

    async def ask() -> list[bool]:
        ring = following(engine, tmp_path)
        await ring.start()
        door = Admission(ring, TokenSigner(key=bytes(32), hours=1), closed=True, rate=0.001, concurrency=9)

        def admitted(name: str) -> bool:
            head = [(b"authorization", f"Bearer {keys[name]}".encode())]
            return isinstance(door.admit({"method": "POST", "path": "/v1/route", "headers": head}), tuple)

        try:
            return [admitted(name) for name in ("busy", "other", "busy", "third", "busy")]
        finally:
            await ring.stop()

    assert asyncio.run(ask()) == [True, True, False, True, False]
