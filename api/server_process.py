"""The server's processes: database, first version, uvicorn workers, supervision, the nightly run."""

import errno
import gc
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time as clock
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, time

import structlog
import uvicorn
from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError

from api.app import create_app
from api.cli.serving import run_prepare
from api.cli.session import say
from api.database import OpenDatabase, open_database
from api.draining import DrainingWorkers, drain_when_stopped
from api.logging_setup import configure_logging
from api.metrics import FOLDER_VARIABLE, counting_together, metrics_folder
from api.protocol import SheddingProtocol
from api.rollouts import looked_after
from api.schedule import next_run
from api.settings import Settings, WrongSetting, read_settings
from api.state import ServerState
from router.registry import active
from telemetry.api_keys import read_keys
from telemetry.database import DatabaseUnavailable, create_engine
from telemetry.embedded_postgres import EmbeddedPostgres, PostgresFailed

_WATCH_SECONDS = 0.3
_NIGHT_WATCH_SECONDS = 1.0
_LONGEST_REST = 60.0
_ANSWER_SECONDS = 10
_MOST_FILES = 65_536
_GC_THRESHOLDS = (20_000, 10, 10)
_SWITCH_SECONDS = 0.001


def run_server(settings: Settings, *, workers: int, learn_at: time | None) -> int:
    """Serve until told to stop; return the exit code."""
    signal.signal(signal.SIGTERM, _end)  # uvicorn raises it again when it is done; then everything is put away
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # the terminal was closed; nohup has it ignored
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    configure_logging(settings.log_level)
    _raise_file_limit()
    with ExitStack() as stack:
        # The port is taken before anything is started, unless others can reach it: then only once there are keys.
        listening = stack.enter_context(_listen(settings)) if settings.loopback else None
        opened = _open(stack, settings)
        url = opened.url if opened else str(settings.database_url)
        environment = settings.child_environment(database_url=url)
        keys = _count_keys(opened, settings)
        listening = listening or stack.enter_context(_listen(settings))
        if opened and (code := run_prepare(environment, fleet=settings.fleet_path)):
            return code
        stack.callback(say, "Stopped; everything acknowledged is stored.")
        stack.enter_context(_helpers(opened, environment, learn_at=learn_at))
        stack.enter_context(looked_after(settings, url))
        _introduce(settings, listening, opened, workers=workers, learn_at=learn_at, keys=keys)
        return _serve(settings, listening, url, workers=workers)


def _open(stack: ExitStack, settings: Settings) -> OpenDatabase | None:
    """Open the database; None when it is one of others' and away, for deciding needs none."""
    try:
        return stack.enter_context(open_database(settings, upgrade=True))
    except DatabaseUnavailable as error:
        if settings.database_url is None:
            raise
        say(f"{error} Until then the last good version decides, or the fleet's rules, and nothing can be logged.")
        return None


@contextmanager
def _helpers(opened: OpenDatabase | None, environment: dict[str, str], *, learn_at: time | None) -> Iterator[None]:
    """Run what works beside the server, and stop it at the end."""
    stop = threading.Event()
    helpers: list[tuple[Callable[..., None], tuple[object, ...]]] = []
    if opened is None:
        helpers.append((_prepare_later, (environment, stop)))
    elif opened.embedded is not None:
        helpers.append((_keep_database, (opened.embedded, stop)))
    if learn_at is not None:
        helpers.append((learn_nightly, (learn_at, environment, stop)))
    threads = [threading.Thread(target=work, args=arguments, name=work.__name__) for work, arguments in helpers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _raise_file_limit() -> None:
    """Let this process and those that it starts open as many files as they may: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _end(_number: int, _frame: object) -> None:
    raise SystemExit(0)


def _listen(settings: Settings) -> socket.socket:
    """Take the port.

    Raises:
        SystemExit: the port is taken, or the address is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise SystemExit(
                f"trimtab: {settings.host} cannot be listened on: it is no address of this machine; see --host."
            ) from None
        why = (error.strerror or "").lower()
        raise SystemExit(f"trimtab: Port {settings.port} cannot be used ({why}); choose another with --port.") from None
    listening.listen(2048)
    listening.set_inheritable(True)
    return listening


def _count_keys(opened: OpenDatabase | None, settings: Settings) -> int | None:
    """Return how many API keys there are, None where that is not known now.

    Raises:
        WrongSetting: others could reach the server, and there is none.
    """
    if opened is None:
        return None
    with opened.engine.connect() as conn:
        keys = read_keys(conn)
    if not keys and not settings.loopback:
        raise WrongSetting(
            f"There are no API keys, so only loopback is served, and {settings.host} is open to others;"
            " make a key with trimtab keys create."
        )
    return len(keys)


def _serve(settings: Settings, listening: socket.socket, url: str, *, workers: int) -> int:
    config = uvicorn.Config(
        "api.server_process:worker_app" if workers > 1 else create_app(settings, database_url=url, started=_begin),
        factory=workers > 1,
        workers=workers,
        loop="uvloop",
        http=SheddingProtocol,
        access_log=False,
        proxy_headers=False,  # nothing here trusts what a client says of its address
        log_level="warning",
        timeout_graceful_shutdown=_ANSWER_SECONDS,
        backlog=2048,
    )
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):
        if workers > 1:
            with counting_together(settings.home_folder) as folder:
                os.environ.update(settings.child_environment(database_url=url))  # the workers read it
                os.environ[FOLDER_VARIABLE] = str(folder)
                DrainingWorkers(config, sockets=[listening]).run()
        else:
            server.run(sockets=[listening])
            return 0 if server.started else 1
    return 0


def worker_app() -> FastAPI:
    """Build the application in a worker process, from the environment that the parent made."""
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    settings = read_settings()
    configure_logging(settings.log_level)
    counting = metrics_folder(settings.home_folder, server=os.getppid())
    return create_app(settings, database_url=str(settings.database_url), started=_begin, counting=counting)


def _begin(state: ServerState) -> None:
    """Be ready to serve for long, and to stop in order."""
    settle()
    drain_when_stopped(state)


def settle() -> None:
    """Prepare this process for a long life of short requests.

    What was loaded at the start is garbage never again: looking through it all stopped every request for 100 ms. And a
    flusher that works hands the interpreter to the event loop sooner than after the usual five milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_SECONDS)


def _end_with_parent() -> None:
    """Stop this worker in order when the process that started it was killed; else it would hold the port for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        for _ in range(2):  # the second time it does not drain: another server may want the port
            os.kill(os.getpid(), signal.SIGTERM)
            clock.sleep(_WATCH_SECONDS)


def _introduce(
    settings: Settings,
    listening: socket.socket,
    opened: OpenDatabase | None,
    *,
    workers: int,
    learn_at: time | None,
    keys: int | None,
) -> None:
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    embedded = opened is not None and opened.embedded is not None
    say(f"Trimtab serves on {address}  (API: {address}/docs)")
    if opened is not None:
        say(f"  version   {_serving_version(opened)}")
    say(f"  database  {f'embedded, under {settings.home_folder}' if embedded else 'as set by TRIMTAB_DATABASE_URL'}")
    say(f"  learning  {f'every night at {learn_at:%H:%M}' if learn_at else 'when you run trimtab learn'}")
    if workers > 1:
        say(f"  processes {workers}")
    unknown = "every call but for health, once they are known" if not settings.loopback else "calls, once there is one"
    asked = unknown if keys is None else "every call but for health needs one" if keys else ""
    say(f"  keys      {asked or 'none: it answers this machine only, and whoever is on it'}")
    say("  Ctrl-C stops it.")


def _serving_version(opened: OpenDatabase) -> str:
    with opened.engine.connect() as conn:
        activation = active(conn)
    return f"{activation.version} ({activation.reason})" if activation else "none"


def _keep_database(embedded: EmbeddedPostgres, stop: threading.Event) -> None:
    """Bring the embedded database back whenever it dies, and try again for as long as that does not work."""
    while not stop.wait(_WATCH_SECONDS):
        try:
            if embedded.restart_if_dead():
                structlog.get_logger().warning("database_restarted")
        except (PostgresFailed, OSError) as error:
            structlog.get_logger().error("database_not_restarted", error=str(error))


def _prepare_later(environment: dict[str, str], stop: threading.Event) -> None:
    """Migrate and prepare as soon as the database can be reached, and again until that has worked."""
    engine, rest = create_engine(environment["TRIMTAB_DATABASE_URL"], pool_size=1), _WATCH_SECONDS
    while not stop.wait(rest):
        try:
            engine.connect().close()
            code = _run(environment, stop, "prepare")
        except SQLAlchemyError:
            continue
        except OSError as error:
            structlog.get_logger().error("prepare_not_started", error=str(error))
        else:
            structlog.get_logger().info("prepared_late", exit_code=code)
            if code == 0:
                break
        rest = min(2 * rest, _LONGEST_REST)  # the database may have gone again; a wrong setting stays wrong
    engine.dispose()


def learn_nightly(at: time, environment: dict[str, str], stop: threading.Event) -> None:
    """Run the night in a process of its own; a trigger that was slept through is made up for once."""
    due = next_run(datetime.now(UTC), at)
    while not stop.wait(_NIGHT_WATCH_SECONDS):
        if datetime.now(UTC) < due:
            continue
        began = clock.monotonic()
        try:
            code = _run(environment, stop, "learn", "--json")
            structlog.get_logger().info("night_ended", exit_code=code, seconds=round(clock.monotonic() - began))
            if environment.get("TRIMTAB_KEEP_DAYS") or environment.get("TRIMTAB_KEEP_TEXT_DAYS"):
                code = _run(environment, stop, "prune", "--json")
                structlog.get_logger().info("prune_ended", exit_code=code)
        except OSError as error:
            structlog.get_logger().error("night_not_started", error=str(error))
        due = next_run(datetime.now(UTC), at)


def _run(environment: dict[str, str], stop: threading.Event, *command: str) -> int:
    """Run one of our commands and return its exit code; a server that stops does not wait for it."""
    whole = [sys.executable, "-m", "api.cli.main", *command]
    with subprocess.Popen(whole, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not stop.wait(_WATCH_SECONDS):
            pass
        process.terminate()
    return process.returncode
