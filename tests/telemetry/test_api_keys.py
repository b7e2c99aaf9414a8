from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from telemetry.api_keys import (
    WrongKeyRequest,
    create_key,
    digest,
    keys_from_json,
    keys_to_json,
    read_keys,
    revoke_key,
)


def make(connection, name="gateway", scopes=("decide",), **more):
    return create_key(connection, name=name, scopes=scopes, created_by="a test", **more)


def test_a_key_is_kept_as_its_sha256_alone(connection):
    made, key = make(connection)
    row = connection.execute(text("select t::text from api_key t")).scalar_one()
    secret = key.split("_", 2)[2]
    assert secret not in row
    assert len(secret) >= 43
    assert digest(key).hex() in row
    assert made.sha256 == digest(key)


def test_no_two_usable_keys_share_a_name_and_a_revoked_one_gives_it_back(connection):
    make(connection)
    with pytest.raises(WrongKeyRequest, match="revoke it first"):
        make(connection)
    revoke_key(connection, "gateway")
    make(connection)
    assert [key.revoked_at is None for key in read_keys(connection)] == [False, True]


@pytest.mark.parametrize("scopes", [[], ["everything"], ["read", "READ"]])
def test_a_key_without_scopes_or_with_unknown_ones_is_not_made(connection, scopes):
    with pytest.raises(WrongKeyRequest, match="one of ingest, feedback, decide, read, publish"):
        make(connection, scopes=scopes)


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "feedback-token"])
def test_a_key_has_a_name_that_can_be_shown(connection, name):
    with pytest.raises(WrongKeyRequest, match="name"):
        make(connection, name=name)


def test_only_a_key_that_is_there_and_not_revoked_can_be_revoked(connection):
    made, _ = make(connection)
    assert revoke_key(connection, made.key_id).revoked_at is not None
    for name in (made.key_id, "gateway", "nobody"):
        with pytest.raises(WrongKeyRequest, match="no such key"):
            revoke_key(connection, name)


def test_a_key_is_usable_until_it_expires_or_is_revoked(connection):
    now = datetime.now(UTC)
    made, _ = make(connection, expires_at=now + timedelta(hours=1))
    assert made.usable(now)
    assert not made.usable(now + timedelta(hours=1))
    assert not revoke_key(connection, "gateway").usable(now)


def test_the_list_on_disk_says_the_same_as_the_table_and_nothing_else_is_taken_for_it(connection):
    make(connection, scopes=("read", "publish"), limits={"rate": 2.5}, expires_at=datetime.now(UTC))
    make(connection, name="second")
    revoke_key(connection, "second")
    assert keys_from_json(keys_to_json(read_keys(connection))) == read_keys(connection)
    for wrong in ("", "[1]", "[{}]", '{"a": 1}', "null"):
        with pytest.raises(ValueError, match=r".+"):
            keys_from_json(wrong)
