"""Small disks for a Postgres to run on: one that can be full, and one whose power can be cut."""

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_WITHOUT_FLUSHING = 2


def _mount(*arguments: str | Path) -> None:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"disks cannot be mounted here: {done.stderr.strip()}")


def _unmount(place: Path) -> None:
    subprocess.run(["umount", place], check=True, capture_output=True)


@contextlib.contextmanager
def small_disk(place: Path, *, megabytes: int) -> Iterator["SmallDisk"]:
    """Move what lies in ``place`` to a small disk that is mounted there."""
    aside = place.with_name(f"{place.name}.aside")
    place.rename(aside)
    place.mkdir()
    try:
        _mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", place)
        subprocess.run(["cp", "-a", f"{aside}/.", place], check=True)
        owner = aside.stat()
        os.chown(place, owner.st_uid, owner.st_gid)
        place.chmod(0o700)
        yield SmallDisk(place)
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            _unmount(place)
        shutil.rmtree(aside)


@dataclass
class SmallDisk:
    """A mounted disk that can be filled to the last byte, and emptied again."""

    place: Path

    def fill(self) -> None:
        with (self.place / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(65_536)):
                pass

    def free(self) -> None:
        (self.place / "filler").unlink()


@contextlib.contextmanager
def disk_with_a_plug(image: Path, place: Path) -> Iterator["PluggedDisk"]:
    """An ext4 of its own at ``place``, in the file ``image``."""
    with image.open("wb") as file:
        file.truncate(400_000_000)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    place.mkdir(parents=True)
    _mount("-o", "loop", image, place)
    try:
        yield PluggedDisk(image, place)
    finally:
        _unmount(place)


@dataclass
class PluggedDisk:
    """A mounted ext4 whose power can be cut: what was not synced by then never was."""

    image: Path
    place: Path

    def pull(self) -> None:
        """Cut the power: from now on nothing more reaches the disk, and everything on it answers with an error."""
        handle = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSHING))
        finally:
            os.close(handle)

    def plug_in(self) -> None:
        """Mount what did reach the disk; the file system's own journal is replayed."""
        _unmount(self.place)
        _mount("-o", "loop", self.image, self.place)
