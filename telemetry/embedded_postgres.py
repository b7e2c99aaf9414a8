"""The embedded database: our own launcher over the binaries of a pip wheel.

The server listens on a unix socket in a 0700 folder only. Several processes may use one server: each is written down in
``users/``, and the last one to leave stops it. A server whose users were all killed is adopted by the next one.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psycopg

from telemetry.postgres_binaries import ServerUser, find_binaries, runnable_binaries, socket_folder, state_folder
from telemetry.postgres_log import bound_log, last_line, open_log

DATABASE = "trimtab"
START_RETRY_S = 20.0
_DYING_SECONDS = 5.0
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "unix_socket_permissions": "0700",
    "log_timezone": "UTC",
    "timezone": "UTC",
    # What an error is about may be what a person wrote, and nobody can erase it from a log.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


class PostgresFailed(RuntimeError):
    """The embedded Postgres did not start."""


class WrongDataFolder(RuntimeError):
    """The data folder cannot be used by this Postgres."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    state: Path
    binaries: Path
    user: ServerUser
    socket: Path

    @property
    def data(self) -> Path:
        return self.state / "data"

    @property
    def log(self) -> Path:
        return self.state / "postgres.log"

    def url(self, database: str = DATABASE) -> str:
        return f"postgresql://trimtab@/{database}?host={quote(str(self.socket), safe='')}"


@dataclass(slots=True, kw_only=True)
class EmbeddedPostgres:
    """A running embedded server and this process's claim on it."""

    home: Path
    url: str
    _place: _Place
    _claim: Path
    _process: subprocess.Popen[bytes] | None = field(default=None)

    def stop(self) -> None:
        """Give up this process's claim; the last user stops the server (fast: clients are cut, data is safe)."""
        with _locked(self._place.state):
            self._claim.unlink(missing_ok=True)
            if not _users(self._place.state):
                stop_server(self._place.data, process=self._process)
                with contextlib.suppress(OSError):  # it is made again by the next start
                    self._place.socket.rmdir()
            elif self._process is not None:
                self._process.returncode = 0  # others use it: it is not ours to wait for, and Popen would complain

    def restart_if_dead(self) -> bool:
        """Bring the server back if it died (it was killed, say), and bound its log. Returns whether it was started."""
        if self._process is not None:
            self._process.poll()  # reaps it
        with _locked(self._place.state):  # held until it answers, so that no other process starts a second one
            if server_pid(self._place.data) is not None:
                bound_log(self._place.log)
                return False
            if self._process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_DYING_SECONDS)  # it may be dying still, and would stay a zombie
            self._process = _wait_until_ready(self._place, _launch(self._place))
            return True


def start(home: Path, *, pg_bin: Path | None = None) -> EmbeddedPostgres:
    """Start the embedded server for ``home``, or adopt the one that runs, and return it with this process's claim.

    Raises:
        PostgresMissing: if no binaries are found.
        PostgresFailed: if the server ends while it starts (the message carries the last line of its log) or is hung.
        WrongDataFolder: if the data was made by another major version or belongs to another user.
    """
    user = ServerUser.choose()
    home.mkdir(parents=True, exist_ok=True)
    state = state_folder(home, user)
    state.mkdir(parents=True, exist_ok=True)
    _check_owner(state, os.geteuid())
    with _locked(state):
        place = _Place(
            state=state,
            binaries=runnable_binaries(find_binaries(pg_bin), user),
            user=user,
            socket=socket_folder(state, user),
        )
        _prepare(place)
        process = None if server_pid(place.data) is not None else _launch(place)
        process = _wait_until_ready(place, process)
        _create_database(place)
        claim = _claim(place.state)
    return EmbeddedPostgres(home=home, url=place.url(), _place=place, _claim=claim, _process=process)


def status(home: Path) -> tuple[int | None, tuple[int, ...]]:
    """Return the pid of the server of ``home`` (None when it does not run) and the pids of its users."""
    state = state_folder(home, ServerUser.choose())
    return server_pid(state / "data"), tuple(_users(state))


def server_pid(data: Path) -> int | None:
    """Return the pid of the server that runs on ``data``; a recycled pid is not taken for one.

    Raises:
        OSError: if it cannot be told whether one runs (this process has no file descriptor left, say). That is no
            "none runs": whoever starts a server then would take away the lock files of the one there is.
    """
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, NotADirectoryError, PermissionError, ProcessLookupError, ValueError, IndexError):
        return None
    return pid if os.fsencode(data) in arguments and state != "Z" else None


def stop_server(data: Path, *, process: subprocess.Popen[bytes] | None = None, timeout_s: float = 30.0) -> None:
    """Stop the server on ``data`` fast and cleanly, and wait until it is gone.

    One that does not stop in time is killed: what was committed stands in its log.
    """
    for number in (signal.SIGINT, signal.SIGKILL):  # SIGINT: fast shutdown
        pid = server_pid(data)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + timeout_s
        while server_pid(data) is not None and time.monotonic() < deadline:
            if process is not None:
                process.poll()
            time.sleep(0.02)
    if process is not None:
        process.wait(timeout=timeout_s)


@contextlib.contextmanager
def _locked(state: Path) -> Iterator[None]:
    with (state / "launcher.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _prepare(place: _Place) -> None:
    place.socket.mkdir(mode=0o700, exist_ok=True)
    if place.user.switch:
        os.chown(place.socket, place.user.uid, place.user.gid)
    if place.socket.stat().st_uid != place.user.uid:
        raise WrongDataFolder(f"{place.socket} belongs to another user; remove it, or set TMPDIR to a folder of yours.")
    if not (place.data / "PG_VERSION").exists():
        _initialise(place)
    _check_data_folder(place)


def _initialise(place: _Place) -> None:
    """Make the data folder beside its final place and move it there, so that a half-made one is never used."""
    for half_made in place.state.glob("data.new-*"):
        shutil.rmtree(half_made)
    fresh = place.state / f"data.new-{os.getpid()}-{time.monotonic_ns()}"
    fresh.mkdir(mode=0o700)
    if place.user.switch:
        os.chown(fresh, place.user.uid, place.user.gid)
    made = _run(
        place,
        "initdb",
        *("-D", str(fresh), "-U", "trimtab", "-E", "UTF8", "--locale=C", "--auth=trust", "--data-checksums"),
    )
    if made.returncode:
        raise PostgresFailed(f"The embedded Postgres could not make its data folder: {last_line(made.stderr)}")
    fresh.rename(place.data)


def _check_owner(folder: Path, uid: int) -> None:
    owner = folder.stat().st_uid
    if owner != uid:
        raise WrongDataFolder(
            f"The data in {folder} belongs to user id {owner}; run as that user, or set TRIMTAB_HOME to another folder."
        )


def _check_data_folder(place: _Place) -> None:
    _check_owner(place.data, place.user.uid)
    theirs = (place.data / "PG_VERSION").read_text().strip()
    ours = _run(place, "postgres", "--version").stdout.split()[-1].decode()
    if ours.split(".")[0] != theirs:
        raise WrongDataFolder(
            f"The data in {place.data} was made by Postgres {theirs}, this is {ours};"
            f" set TRIMTAB_PG_BIN to the binaries of version {theirs}, or TRIMTAB_HOME to another folder."
        )


def _run(place: _Place, program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    done: subprocess.CompletedProcess[bytes] = subprocess.run(
        [place.binaries / program, *arguments],
        capture_output=True,
        cwd="/",
        env=_environment(),
        check=False,
        **place.user.popen_arguments(),  # type: ignore[call-overload]
    )
    return done


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C", "TZ": "UTC"}


def _launch(place: _Place) -> subprocess.Popen[bytes]:
    """Start the server in a session of its own, so that a signal to our group does not reach it."""
    if server_pid(place.data) is None:
        for name in (place.data / "postmaster.pid", place.socket / ".s.PGSQL.5432.lock"):
            _forget_recycled_pid(name)
    settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
    with open_log(place.log) as log:
        process: subprocess.Popen[bytes] = subprocess.Popen(
            [place.binaries / "postgres", "-D", str(place.data), "-k", str(place.socket), *settings],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=_environment(),
            start_new_session=True,
            **place.user.popen_arguments(),  # type: ignore[call-overload]
        )
    return process


def _forget_recycled_pid(file: Path) -> None:
    """Remove a lock file that names a living process, which is not the server: Postgres would take it for one.

    The file of a dead server stays, for by it Postgres finds old backends that still hold the server's memory.
    """
    try:
        pid = int(file.read_text().split("\n", 1)[0])
    except FileNotFoundError:
        return
    except ValueError:
        pid = os.getpid()  # cut short by a crash: as good as recycled
    if Path(f"/proc/{pid}").exists():
        file.unlink(missing_ok=True)


def _wait_until_ready(place: _Place, process: subprocess.Popen[bytes] | None) -> subprocess.Popen[bytes] | None:
    """Wait as long as the server says that it starts: crash recovery may take minutes. Returns the process, if ours.

    A server that was killed leaves backends behind that hold its memory for a moment; starting is then tried again.
    """
    give_up = time.monotonic() + START_RETRY_S
    while True:
        try:
            psycopg.connect(place.url("postgres"), connect_timeout=5).close()
            return process
        except psycopg.OperationalError as error:
            if "the database system is" in str(error):  # starting up, recovering, shutting down
                give_up = time.monotonic() + START_RETRY_S
            dead = server_pid(place.data) is None if process is None else process.poll() is not None
            if time.monotonic() > give_up:
                raise PostgresFailed(_why_not_ready(place, process, dead=dead)) from error
            if dead:
                time.sleep(0.3)
                process = _launch(place)
        time.sleep(0.02)


def _why_not_ready(place: _Place, process: subprocess.Popen[bytes] | None, *, dead: bool) -> str:
    if dead:
        return f"The embedded Postgres did not start: {last_line(place.log.read_bytes())} (see {place.log})"
    pid = server_pid(place.data) if process is None else process.pid
    return f"The embedded Postgres runs but does not answer; end it with kill -9 {pid}, then start again."


def _create_database(place: _Place) -> None:
    with psycopg.connect(place.url("postgres"), autocommit=True) as connection:
        if not connection.execute("select 1 from pg_database where datname = %s", (DATABASE,)).fetchone():
            connection.execute(f"create database {DATABASE}")


def _started_at(pid: int) -> str | None:
    """Ticks since boot when ``pid`` started: with it, a recycled pid is told from the one that was written down."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # not OSError: without file descriptors nobody is dead
        return None
    return None if fields[0] == "Z" else fields[19]


def _claim(state: Path) -> Path:
    folder = state / "users"
    folder.mkdir(exist_ok=True)
    claim = folder / f"{os.getpid()}-{_started_at(os.getpid())}-{time.monotonic_ns()}"
    claim.touch()
    return claim


def _users(state: Path) -> list[int]:
    """Pids of the living users; what the dead left behind is removed."""
    living = []
    for claim in (state / "users").glob("*-*-*"):
        pid, started, _ = claim.name.split("-")
        if _started_at(int(pid)) == started:
            living.append(int(pid))
        else:
            claim.unlink(missing_ok=True)
    return living


def remove(home: Path) -> None:
    """Stop the server of ``home`` whoever uses it, and delete its data."""
    state = state_folder(home, ServerUser.choose())
    if state.exists():
        stop_server(state / "data")
        shutil.rmtree(state)
