"""Ids and keyed hashes."""

import hmac
import os
import time
from uuid import UUID


def new_id() -> UUID:
    """Return a UUIDv7 (RFC 9562): 48 bits of milliseconds, then 74 random bits, so that ids sort by time."""
    value = (time.time_ns() // 1_000_000 & 0xFFFF_FFFF_FFFF) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def keyed_hash(value: str, *, key: bytes) -> str:
    """Return the HMAC-SHA256 of a person's id as 32 hexadecimal digits: the same person stays one, nobody is named."""
    return hmac.digest(key, value.encode(), "sha256").hex()[:32]
