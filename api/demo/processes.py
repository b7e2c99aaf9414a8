"""The demo's processes: a server in a home of its own, and commands beside it. None of them outlives the demo."""

import asyncio
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from api.cli.session import say
from api.demo.driving import DemoFailed
from api.demo.material import WrongDemoData
from api.settings import Settings
from telemetry import embedded_postgres
from telemetry.postgres_binaries import ServerUser, state_folder

# Without the working folder on Python's path: what lies there may be called api or json, too.
_TRIMTAB = (sys.executable, "-P", "-m", "api.cli.main")
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoHome:
    """The demo's folder, the environment of its processes, and the lock (a file descriptor) that keeps it ours."""

    folder: Path
    environment: dict[str, str]
    lock: int

    @property
    def log(self) -> Path:
        """What the server prints."""
        return self.folder / "serve.log"


@contextmanager
def fresh_home(settings: Settings, *, fleet: str) -> Iterator[DemoHome]:
    """Make an empty home with this fleet; at the end no database runs on it.

    Raises:
        WrongDemoData: another demo is using it.
    """
    folder = settings.home_folder / "demo"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name("demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the server inherits it: it holds as long as one lives
        except BlockingIOError:
            _, users = embedded_postgres.status(folder)
            who = f" (process {users[0]})" if users else ""
            raise WrongDemoData(f"Another demo is running{who}; end it first.") from None
        if folder.exists():
            embedded_postgres.remove(folder)
            shutil.rmtree(folder)
        folder.mkdir()
        (folder / "fleet.yaml").write_text(fleet, encoding="utf-8")
        try:
            yield DemoHome(folder=folder, environment=_environment(folder), lock=lock.fileno())
        finally:
            _stop_database(folder)


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "TRIMTAB_DATABASE_URL"}
    own = {"HOME": str(folder), "FLEET": str(folder / "fleet.yaml"), "HOST": "127.0.0.1"}
    own["ROLLOUT__MODE"] = "direct"  # a day takes seconds here: no canary could show anything before the next night
    return {**kept, **{f"TRIMTAB_{name}": value for name, value in own.items()}, "PYTHONUNBUFFERED": "1"}


def _stop_database(folder: Path) -> None:
    """Stop the database if it still runs and nobody uses it: its server was killed, or is ours and did not stop."""
    pid, users = embedded_postgres.status(folder)
    if pid is not None and not users:
        embedded_postgres.stop_server(state_folder(folder, ServerUser.choose()) / "data")


@contextmanager
def ended_by_signals() -> Iterator[list[signal.Signals]]:
    """Cancel this task at the first Ctrl-C, SIGTERM or SIGHUP, which is then in the list; what is ignored stays so."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    came: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        if task is not None and not came:  # a second one would break off the cleaning up
            came.append(number)
            task.cancel()

    watched = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    for number in watched:
        loop.add_signal_handler(number, end, number)
    try:
        yield came
    finally:
        for number in watched:
            loop.remove_signal_handler(number)


@asynccontextmanager
async def serving(home: DemoHome) -> AsyncIterator[tuple[str, Process]]:
    """Run ``trimtab serve`` on a free port; yield its address and process as soon as it answers.

    Raises:
        DemoFailed: it ended before it answered.
    """
    port = _free_port()
    with home.log.open("wb") as log:
        server = await asyncio.create_subprocess_exec(
            *(*_TRIMTAB, "serve", "--port", str(port)),
            env=home.environment,
            stdin=DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # the terminal's Ctrl-C is for the demo, which ends it in order
            pass_fds=(home.lock,),
        )
    try:
        address = f"http://127.0.0.1:{port}"
        await _wait_until_ready(server, address, log=home.log)
        yield address, server
    finally:
        await _end(server)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _wait_until_ready(server: Process, address: str, *, log: Path) -> None:
    say("Starting the database and the server, building version 1 from the fleet's examples ...")
    began = time.monotonic()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
        while server.returncode is None:
            try:
                async with http.get(f"{address}/readyz") as answer:
                    if answer.status == 200:
                        say(f"Ready after {time.monotonic() - began:.0f} s.")
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(0.1)
    raise DemoFailed(f"The server ended: {_last_line(log.read_text(encoding='utf-8', errors='replace'))}")


async def run_command(home: DemoHome, *arguments: str) -> tuple[int, str, str]:
    """Run one of our commands, as cron would; return its exit code, its output and the last line of its errors."""
    process = await asyncio.create_subprocess_exec(
        *(*_TRIMTAB, *arguments),
        env=home.environment,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
    )
    try:
        output, errors = await process.communicate()
    finally:
        await _end(process)
    return process.returncode or 0, output.decode(), _last_line(errors.decode("utf-8", "replace"))


def show_command(home: DemoHome, *arguments: str) -> None:
    """Run one of our commands as a user would: it prints where we print."""
    sys.stdout.flush()
    subprocess.run([*_TRIMTAB, *arguments], env=home.environment, stdin=DEVNULL, check=False)


async def _end(process: Process) -> None:
    """End a process in order, and wait until it is gone."""
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


def _last_line(printed: str) -> str:
    lines = printed.strip().splitlines()
    return lines[-1] if lines else "it said nothing"
