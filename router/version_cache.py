"""The last good version on disk, so that a server process starts while the database is down."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from router.artifact import PARTS, Artifact, DamagedArtifact, canonical_json, unpack
from router.version import RouterVersion
from telemetry.whole_files import write_whole


def write_cache(path: Path, artifact: Artifact, *, number: int) -> None:
    """Replace the cached version in one step: after a power cut there is the old file or the new one.

    Args:
        path: of the cache file; its folder is made.
        artifact: a version that was verified.
        number: its number in the registry.

    Raises:
        OSError: the disk does not take it.
    """
    header = {"number": number, "fingerprint": artifact.fingerprint, "manifest": artifact.manifest}
    write_whole(path, [canonical_json(header) + b"\n", *(artifact.parts[name] for name in PARTS)])


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
