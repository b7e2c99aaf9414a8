"""The last good version on disk, so that a server process starts while the database is down."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from router.artifact import PARTS, Artifact, DamagedArtifact, canonical_json, unpack
from router.version import RouterVersion


def write_cache(path: Path, artifact: Artifact, *, number: int) -> None:
    """Replace the cached version in one step: after a power cut there is the old file or the new one.

    Args:
        path: of the cache file; its folder is made.
        artifact: a version that was verified.
        number: its number in the registry.

    Raises:
        OSError: the disk does not take it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"number": number, "fingerprint": artifact.fingerprint, "manifest": artifact.manifest}
    # Several server processes share the folder, so each writes a file of its own before the rename.
    handle, draft = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(canonical_json(header) + b"\n")
            for name in PARTS:
                file.write(artifact.parts[name])
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except OSError:
        Path(draft).unlink(missing_ok=True)  # it is tried again and again: drafts would fill the disk
        raise


def read_cache(path: Path) -> RouterVersion | None:
    """The cached version, verified; None where nothing was cached.

    Raises:
        DamagedArtifact: the file is not what was written.
        OSError: the disk does not give it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    head, _, body = data.partition(b"\n")
    try:
        header = json.loads(head)
        manifest, fingerprint, number = header["manifest"], header["fingerprint"], int(header["number"])
        parts = _slices(manifest, body)
    except (ValueError, KeyError, TypeError):
        raise DamagedArtifact("cache", "its first line cannot be read") from None
    return unpack(manifest, parts, fingerprint=fingerprint, number=number)


def _slices(manifest: Mapping[str, Any], body: bytes) -> dict[str, bytes]:
    parts, at = {}, 0
    for name in PARTS:
        size = int(manifest["parts"][name]["bytes"])
        parts[name] = body[at : at + size]
        at += size
    return parts
