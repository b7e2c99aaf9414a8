"""The launcher with real servers and real processes that are really killed."""

import contextlib
import gc
import json
import os
import pwd
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import unquote

import psycopg
import pytest

from telemetry import embedded_postgres, postgres_binaries, postgres_log
from telemetry.embedded_postgres import PostgresFailed, WrongDataFolder, server_pid, start, status
from telemetry.postgres_binaries import (
    ServerUser,
    find_binaries,
    reachable_by_others,
    runnable_binaries,
    state_folder,
)

REPOSITORY = Path(__file__).resolve().parents[2]
ROOT = os.geteuid() == 0
NOBODY = pwd.getpwnam("nobody")
PACKAGES = Path(psycopg.__file__).parents[1]
only_root = pytest.mark.skipif(not ROOT, reason="only root can become or make another user")


@pytest.fixture(scope="module")
def made_home():
    """A home that every user may reach, its data made once."""
    with reachable_folder() as folder:
        start(folder / "home").stop()
        yield folder / "home"


@pytest.fixture
def home(made_home):
    """The home with its server stopped."""
    assert status(made_home) == (None, ())
    yield made_home
    stop_whoever_runs(made_home)


@contextlib.contextmanager
def reachable_folder():
    folder = Path(tempfile.mkdtemp(prefix="trimtab-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        for data in folder.rglob("data"):
            embedded_postgres.stop_server(data)
        shutil.rmtree(folder)


def stop_whoever_runs(home):
    embedded_postgres.stop_server(data_of(home))
    wait_for(lambda: not status(home)[1])


def data_of(home):
    return state_folder(home, ServerUser.choose()) / "data"


def wait_for(condition, *, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def interpreter():
    """A Python of our version that every user can run, with our packages; the test is skipped where there is none."""
    system = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
    for python in (Path(sys.executable).resolve(), system):
        if python.exists() and all(map(reachable_by_others, (python, REPOSITORY, PACKAGES))):
            return python
    pytest.skip("no Python of this version, or not this checkout, can be reached by an ordinary user")


@contextlib.contextmanager
def process(home, *, as_nobody=False, **more):
    """A user of the embedded server of ``home`` in a process of its own; yields it with what it printed."""
    other = {"user": NOBODY.pw_uid, "group": NOBODY.pw_gid, "extra_groups": []} if as_nobody else {}
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{PACKAGES}", "PYTHONDONTWRITEBYTECODE": "1", **more}
    command = [interpreter() if as_nobody else sys.executable, Path(__file__).with_name("embedded_user.py"), home]
    with subprocess.Popen(
        command, env=environment, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **other
    ) as started:
        yield started
        with contextlib.suppress(BrokenPipeError):
            started.stdin.close()


def said(user):
    return json.loads(user.stdout.readline())


def leave(user):
    user.stdin.close()
    assert user.wait(30) == 0


def write_row(url):
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table if not exists kept (n serial)")
        return connection.execute("insert into kept default values returning n").fetchone()[0]


def rows(url):
    with psycopg.connect(url) as connection:
        return {row[0] for row in connection.execute("select n from kept")}


def processes_of(data):
    """Pids of the server on ``data`` and of its children."""
    pid = server_pid(data)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def uid_of(pid):
    return Path(f"/proc/{pid}").stat().st_uid


@only_root
def test_for_root_the_server_and_its_data_belong_to_nobody(home):
    server = start(home)
    data = home / "postgres/data"
    assert data_of(home) == data
    assert {data.stat().st_uid, uid_of(server_pid(data))} == {NOBODY.pw_uid}
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    server.stop()


@only_root
def test_for_root_a_closed_home_stays_closed_and_the_data_lies_elsewhere(tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    modes = [stat.S_IMODE(folder.stat().st_mode) for folder in (home, *home.parents)]
    server = start(home)
    try:
        assert not data_of(home).is_relative_to(tmp_path)
        assert uid_of(status(home)[0]) == NOBODY.pw_uid
        assert [stat.S_IMODE(folder.stat().st_mode) for folder in (home, *home.parents)] == modes
        assert write_row(server.url) == 1
    finally:
        server.stop()
        embedded_postgres.remove(home)
    assert not data_of(home).exists()


@only_root
def test_an_ordinary_user_may_have_a_home_longer_than_a_socket_path_may_be(home):
    with reachable_folder() as folder:
        long_home = folder / ("a long name " * 10)
        (long_home / "postgres").mkdir(parents=True)
        subprocess.run(["cp", "-a", data_of(home), long_home / "postgres/data"], check=True)  # belongs to nobody
        for made in (long_home, long_home / "postgres"):
            os.chown(made, NOBODY.pw_uid, NOBODY.pw_gid)
        with process(long_home, as_nobody=True) as user:
            got = said(user)
            assert "error" not in got, got
            assert got["uid"] == uid_of(got["server"]) == (long_home / "postgres/data").stat().st_uid == NOBODY.pw_uid
            assert write_row(got["url"]) > 0
            sockets = Path(unquote(got["url"].partition("host=")[2]))
            assert sockets.is_dir()
            leave(user)
        assert not alive(got["server"])
        assert not sockets.exists()


def test_processes_with_other_folders_for_temporary_files_share_the_server_of_a_long_home(home):
    with reachable_folder() as folder, reachable_folder() as one, reachable_folder() as another:
        for made in (one, another):
            made.chmod(0o777)
        long_home = folder / ("a long name " * 10)
        data = state_folder(long_home, ServerUser.choose()) / "data"
        data.parent.mkdir(parents=True)
        subprocess.run(["cp", "-a", data_of(home), data], check=True)
        with process(long_home, TMPDIR=str(one)) as first, process(long_home, TMPDIR=str(another)) as second:
            urls = [said(user)["url"] for user in (first, second)]
            assert urls[0] == urls[1]
            assert write_row(urls[1]) > 0
            server = server_pid(data)
            os.kill(server, signal.SIGKILL)  # who brings it back must bring it back where the others look
            wait_for(lambda: not alive(server))
            with process(long_home, TMPDIR=str(another)) as third:
                assert said(third)["url"] == urls[0]
                assert rows(urls[0])
                for user in (third, second, first):
                    leave(user)
        assert server_pid(data) is None


@only_root
def test_the_home_of_another_user_is_refused_in_a_sentence(home):
    with process(home, as_nobody=True) as user:
        got = said(user)
    assert (got["error"], got["sentence"].count(".")) == ("WrongDataFolder", 1)
    assert "belongs to user id 0; run as that user, or set TRIMTAB_HOME to another folder." in got["sentence"]


@only_root
def test_programs_in_a_folder_that_is_closed_to_others_run_from_a_copy(tmp_path, monkeypatch):
    """So it is when root keeps the project, and in it the wheel, at home."""
    found = find_binaries(None)
    package = found.parents[1]
    closed = tmp_path / "closed"
    for folder in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(folder, closed / folder.name, symlinks=True)
    closed.chmod(0o700)
    user = ServerUser.choose()
    with reachable_folder() as folder:
        monkeypatch.setattr(postgres_binaries, "ROOT_STATE", folder / "state")
        binaries = runnable_binaries(closed / found.relative_to(package.parent), user)
        assert binaries.is_relative_to(folder)
        assert runnable_binaries(closed / found.relative_to(package.parent), user) == binaries
        for name in ("initdb", "postgres"):
            command = [binaries / name, "--version"]
            done = subprocess.run(command, capture_output=True, check=False, **user.popen_arguments())
            assert (done.returncode, done.stderr) == (0, b"")


@only_root
def test_data_of_another_owner_is_refused_in_a_sentence(home):
    data, owner = data_of(home), data_of(home).stat().st_uid
    os.chown(data, 12345, -1)
    try:
        with pytest.raises(WrongDataFolder, match="belongs to user id 12345; run as that user, or set TRIMTAB_HOME"):
            start(home)
    finally:
        os.chown(data, owner, -1)
    start(home).stop()


def test_data_of_another_major_version_is_refused_in_a_sentence(home):
    version = data_of(home) / "PG_VERSION"
    ours = version.read_text()
    version.write_text("12\n")
    try:
        with pytest.raises(WrongDataFolder, match=r"was made by Postgres 12, this is \d+.*; set TRIMTAB_PG_BIN"):
            start(home)
    finally:
        version.write_text(ours)
    start(home).stop()


@pytest.mark.parametrize("postgres_too", [False, True])
def test_after_kill_9_of_its_only_user_the_next_one_adopts_or_restarts_the_server(home, postgres_too):
    with process(home) as user:
        got = said(user)
        kept = write_row(got["url"])
        user.kill()
    assert user.wait(30) == -signal.SIGKILL
    assert status(home) == (got["server"], ())
    if postgres_too:
        os.kill(got["server"], signal.SIGKILL)
        wait_for(lambda: not alive(got["server"]))
    server = start(home)
    assert (status(home)[0] == got["server"]) is not postgres_too
    assert kept in rows(server.url)
    server.stop()
    assert status(home) == (None, ())


def test_after_kill_9_of_postgres_its_user_brings_it_back_with_every_row(home):
    server = start(home)
    kept = write_row(server.url)
    assert not server.restart_if_dead()
    with psycopg.connect(server.url) as busy:  # its backend lives on for a moment
        os.kill(status(home)[0], signal.SIGKILL)
        wait_for(lambda: status(home)[0] is None)
        assert server.restart_if_dead()
        with pytest.raises(psycopg.OperationalError):
            busy.execute("select 1")
    assert kept in rows(server.url)
    server.stop()
    assert status(home) == (None, ())


@pytest.fixture
def full(home):
    """A running server, and a way to leave this process so many file descriptors and no more."""
    server = start(home)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    @contextlib.contextmanager
    def leaving(number):
        free = os.open("/dev/null", os.O_RDONLY)  # the lowest that is free; all below it are taken
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + number, before[1]))
        try:
            yield server
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    yield leaving
    server.stop()


@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_a_process_without_file_descriptors_never_takes_a_server_that_runs_for_a_dead_one(home, full, left):
    pid, data = status(home)[0], data_of(home)
    with full(left) as server:
        if left == 0:
            with pytest.raises(OSError, match="Too many open files"):
                server_pid(data)
        with contextlib.suppress(OSError):
            assert not server.restart_if_dead()
    assert status(home)[0] == pid
    assert not server.restart_if_dead()
    assert rows(server.url) is not None


def log_of(home):
    return data_of(home).with_name("postgres.log")


def refuse(url, value):
    """Let the server refuse a row with this value."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table if not exists once (value text unique)")
        for _ in range(2):
            statement = f"insert into once values ('{value}')"  # values stand in statements of other programs
            try:
                connection.execute(statement)
            except psycopg.errors.UniqueViolation:
                return


def test_the_servers_log_keeps_no_values_and_only_its_owner_reads_it(home):
    log = log_of(home)
    log.chmod(0o644)  # as earlier releases made it
    server = start(home)
    refuse(server.url, "canary")
    server.stop()
    assert "violates unique constraint" in log.read_text()
    assert "canary" not in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    log.unlink()
    start(home).stop()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_the_servers_log_is_bounded_while_it_runs_and_when_it_starts(home, monkeypatch):
    monkeypatch.setattr(postgres_log, "LOG_BYTES", 1_000)
    log, kept = log_of(home), log_of(home).with_name("postgres.log.1")
    log.write_text("long ago\n" * 10_000 + "just now\n")
    server = start(home)
    assert (kept.stat().st_size, kept.read_text()[-9:]) == (1_000, "just now\n")
    while log.stat().st_size <= 1_000:
        refuse(server.url, "x")
    assert not server.restart_if_dead()
    assert (log.stat().st_size, kept.stat().st_size) == (0, 1_000)
    assert "violates unique constraint" in kept.read_text()
    refuse(server.url, "x")
    server.stop()
    assert "violates unique constraint" in log.read_text().splitlines()[0]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_why_it_does_not_start_is_said_in_the_servers_own_words(home, monkeypatch):
    monkeypatch.setattr(embedded_postgres, "START_RETRY_S", 0.5)
    data_of(home).chmod(0o755)
    try:
        with pytest.raises(PostgresFailed, match=r"did not start: .*FATAL: .* has invalid permissions \(see .*log\)"):
            start(home)
    finally:
        data_of(home).chmod(0o700)
    start(home).stop()


def test_the_lock_files_of_a_server_that_runs_are_never_taken_for_those_of_a_dead_one(home):
    server = start(home)
    pid = status(home)[0]
    second = embedded_postgres._launch(server._place)
    assert second.wait(30) == 1  # it sees the first one's lock file
    assert status(home)[0] == pid
    server.stop()


def test_who_started_it_may_leave_before_the_others_do(home):
    starter, other = start(home), start(home)
    starter.stop()
    del starter
    gc.collect()  # a process that is given up while it runs is a warning, and warnings are errors here
    assert rows(other.url) is not None
    other.stop()
    assert status(home) == (None, ())


@pytest.mark.parametrize("named", ["a dead process", "a living process", "a zombie", "nothing"])
def test_lock_files_that_were_left_behind_do_not_keep_the_server_from_starting(home, named):
    state = data_of(home).parent
    with subprocess.Popen(["sleep", "20"], **ServerUser.choose().popen_arguments()) as other:
        if named in ("a dead process", "a zombie"):
            other.kill()
            wait_for(lambda: not alive(other.pid))
        if named == "a dead process":
            other.wait()
        text = "" if named == "nothing" else f"{other.pid}\n{state / 'data'}\n1\n5432\n{state / 'socket'}\n\n"
        locks = (state / "data/postmaster.pid", state / "socket/.s.PGSQL.5432.lock")
        try:
            locks[1].parent.mkdir(exist_ok=True)
            for lock in locks:
                lock.write_text(text)
                os.chown(lock, data_of(home).stat().st_uid, -1)
            began = time.monotonic()
            server = start(home)
            assert time.monotonic() - began < 5
            assert status(home)[0] not in (None, other.pid)
            server.stop()
            assert alive(other.pid) == (named in ("a living process", "nothing"))
        finally:
            other.kill()
            for lock in locks:
                lock.unlink(missing_ok=True)


def test_processes_that_start_it_at_once_share_one_server_and_the_last_to_leave_stops_it():
    with reachable_folder() as folder, contextlib.ExitStack() as stack:
        home = folder / "home"
        (data_of(home).parent).mkdir(parents=True)
        (data_of(home).parent / "data.new-1-1").mkdir()  # left by a process that was killed while it made the data
        users = [stack.enter_context(process(home)) for _ in range(3)]
        got = [said(user) for user in users]
        assert len({(answer["server"], answer["url"]) for answer in got}) == 1
        pid, pids = status(home)
        assert (pid, sorted(pids)) == (got[0]["server"], sorted(user.pid for user in users))
        everything = processes_of(data_of(home))
        leave(users[0])
        users[1].kill()
        users[1].wait(30)
        write_row(got[0]["url"])
        leave(users[2])
        wait_for(lambda: not any(map(alive, everything)), seconds=5)
        assert status(home) == (None, ())
        assert list(data_of(home).parent.glob("data.new-*")) == []


def test_one_process_may_use_it_twice(home):
    first, second = start(home), start(home)
    first.stop()
    write_row(second.url)
    second.stop()
    assert status(home) == (None, ())
    first.stop()  # a second time, which does nothing


def test_a_server_that_is_hung_is_named_in_a_sentence_and_can_still_be_stopped(home, monkeypatch):
    server = start(home)
    pid = status(home)[0]
    monkeypatch.setattr(embedded_postgres, "START_RETRY_S", 0.5)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(PostgresFailed, match=f"does not answer; end it with kill -9 {pid}, then start again"):
        start(home)
    embedded_postgres.stop_server(data_of(home), process=server._process, timeout_s=1)
    assert not alive(pid)
    server.stop()
