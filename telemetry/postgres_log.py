"""The log of the embedded database: for its owner only, and bounded."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import BinaryIO

LOG_BYTES = 10_000_000


def open_log(log: Path) -> BinaryIO:
    """Open the log for a server that starts; it is bounded first."""
    bound_log(log)
    return open(log, "ab", opener=_for_us_only)


def bound_log(log: Path) -> None:
    """Empty a log that has become long and keep its newest part beside it; the server writes on at the end.

    On a full disk nothing can be kept, and a log that stays long would be worse than none.
    """
    with contextlib.suppress(OSError):
        if log.stat().st_size <= LOG_BYTES:
            return
        with log.open("r+b") as long, open(f"{log}.1", "wb", opener=_for_us_only) as kept:
            long.seek(-LOG_BYTES, os.SEEK_END)
            try:
                shutil.copyfileobj(long, kept)
            finally:
                long.truncate(0)


def _for_us_only(path: str, flags: int) -> int:
    """Open a file for its owner only, also one that was made for all."""
    file = os.open(path, flags, 0o600)
    os.fchmod(file, 0o600)
    return file


def last_line(output: bytes) -> str:
    """Return the last line that a program said."""
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
