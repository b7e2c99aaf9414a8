"""Files that are there whole or not at all."""

import os
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_ABANDONED_SECONDS = 3600.0  # no write takes so long: who began it was killed


def write_whole(path: Path, parts: Iterable[bytes]) -> None:
    """Replace a file in one step, for the owner alone: after a power cut there is the old one or the new one.

    Several processes may do so at once. What killed ones had begun is removed.

    Args:
        path: of the file; its folder is made.
        parts: its bytes, in pieces.

    Raises:
        OSError: the disk does not take it; nothing of it is left there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    handle, draft = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(draft).unlink()
        raise


def _remove_abandoned(path: Path) -> None:
    for draft in path.parent.glob(f"{path.name}.????????"):
        with suppress(OSError):  # another process was faster
            if time.time() - draft.stat().st_mtime > _ABANDONED_SECONDS:
                draft.unlink()
