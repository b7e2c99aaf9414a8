"""The demo: a real server with an embedded database, users over HTTP, nights that learn, a rollback at the end."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from api.cli.session import say, show_table
from api.demo.driving import DemoFailed, Driver, Score, Traffic
from api.demo.material import Material, Question, WrongDemoData, labelled_material, sample_material
from api.demo.simulated_users import Habits
from api.settings import Settings
from telemetry import embedded_postgres
from telemetry.failure_kinds import FAILURE_KINDS

SAMPLE_NIGHTS, SAMPLE_REQUESTS = 5, 600
DATA_NIGHTS, DATA_REQUESTS = 6, 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What the command line says."""

    once: bool
    data: Path | None
    label: str
    nights: int | None
    per_night: int | None
    rated: float
    flipped: float
    seed: int


@dataclass(frozen=True, slots=True)
class _Night:
    traffic: Traffic
    result: dict[str, Any]
    score: Score
    mined: dict[str, int]


def run_demo(settings: Settings, options: DemoOptions) -> int:
    """Run the demo and return the exit code."""
    material = (
        sample_material()
        if options.data is None
        else labelled_material(options.data, label=options.label, seed=options.seed)
    )
    home = _fresh_home(settings)
    fleet = home / "fleet.yaml"
    fleet.write_text(material.fleet, encoding="utf-8")
    say(f"The demo keeps everything in {home}, made anew each time; your own data is not touched.")
    port = _free_port()
    environment = _environment(home, fleet)
    log = (home / "serve.log").open("wb")
    command = [sys.executable, "-m", "api.cli.main", "serve", "--port", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_until_ready(server, address, log=home / "serve.log")
        asyncio.run(_days_and_nights(address, environment, home, material, options))
        say(f"The server answers on {address} (try {address}/docs).")
        if options.once or not sys.stdin.isatty() or not sys.stdout.isatty():
            return 0
        say(f"Ctrl-C ends it. Commands see the same data with TRIMTAB_HOME={home}")
        return server.wait()
    except KeyboardInterrupt:
        return 0
    except DemoFailed as error:
        sys.stderr.write(f"trimtab: the demo stopped: {error} The server's log is {home / 'serve.log'}.\n")
        return 1
    finally:
        _stop(server)
        log.close()


def _fresh_home(settings: Settings) -> Path:
    """An empty folder for this demo.

    Raises:
        WrongDemoData: another demo is running there.
    """
    home = settings.home_folder / "demo"
    if home.exists():
        _, users = embedded_postgres.status(home)
        if users:
            raise WrongDemoData(f"Another demo is running (process {users[0]}); end it first.")
        embedded_postgres.remove(home)
        shutil.rmtree(home)
    home.mkdir(parents=True)
    return home


def _environment(home: Path, fleet: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k != "TRIMTAB_DATABASE_URL"}
    return {**kept, "TRIMTAB_HOME": str(home), "TRIMTAB_FLEET": str(fleet), "PYTHONUNBUFFERED": "1"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(server: "subprocess.Popen[bytes]", address: str, *, log: Path) -> None:
    import urllib.request

    say("Starting the database and the server, building version 1 from the fleet's examples ...")
    began = time.monotonic()
    while server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=2):  # noqa: S310  # our own server
                say(f"Ready after {time.monotonic() - began:.0f} s.")
                return
        except OSError:
            time.sleep(0.1)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise DemoFailed(f"The server ended: {lines[-1] if lines else 'it said nothing'}")


def _stop(server: "subprocess.Popen[bytes]") -> None:
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


async def _days_and_nights(
    address: str, environment: dict[str, str], home: Path, material: Material, options: DemoOptions
) -> None:
    sample = options.data is None
    count = options.nights or (SAMPLE_NIGHTS if sample else DATA_NIGHTS)
    per_night = options.per_night or (SAMPLE_REQUESTS if sample else DATA_REQUESTS)
    habits = Habits(rated=options.rated, flip=options.flipped)
    driver = Driver(address, habits=habits, fallback=material.fallback, seed=options.seed)
    say(f"{len(material.traffic)} questions for traffic, {len(material.tests)} that are never sent and only score.")
    first = await driver.score(material.tests)
    say(f"Version 1, from examples alone: {_score_words(first)}.")
    nights: list[_Night] = []
    for number, questions in enumerate(_days(material.traffic, count=count, per_night=per_night, seed=options.seed), 1):
        say(f"Day {number}: {len(questions)} questions ...")
        traffic = await driver.send(questions)
        say(f"Night {number}: learning from {traffic.requests} requests and {traffic.votes} votes ...")
        result = _learn(environment, home / "report" / f"night-{number}.md")
        await driver.wait_for_version(result["version"])
        before = nights[-1].result["counts"]["failures"] if nights else {}
        now = result["counts"]["failures"]
        score = await driver.score(material.tests)
        mined = {kind: n - before.get(kind, 0) for kind, n in now.items() if n > before.get(kind, 0)}
        nights.append(_Night(traffic, result, score, mined))
        say(f"  {result['sentence']}")
    _show_nights(first, nights)
    await _roll_back(driver, environment, nights)
    pages = sorted((home / "report").glob("night-*.md"), key=lambda page: page.stat().st_mtime)
    say(f"The last night's report: {pages[-1] if pages else '(none was written)'}")


def _days(traffic: Sequence[Question], *, count: int, per_night: int, seed: int) -> list[list[Question]]:
    """Each day's questions: everything new comes first, then the same questions come again in another order."""
    rng = np.random.default_rng(seed + 1)
    order: list[int] = []
    while len(order) < count * per_night:
        order += rng.permutation(len(traffic)).tolist()
    return [[traffic[i] for i in order[day * per_night : (day + 1) * per_night]] for day in range(count)]


def _learn(environment: dict[str, str], report: Path) -> dict[str, Any]:
    """Run the real command, as cron would."""
    command = [sys.executable, "-m", "api.cli.main", "learn", "--json", "--report", str(report)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        lines = done.stderr.strip().splitlines()
        raise DemoFailed(f"The night failed: {lines[-1] if lines else f'exit code {done.returncode}'}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _score_words(score: Score) -> str:
    words = [f"{score.accuracy:.1%} of unseen questions go to the right route"]
    if score.splits_right is not None:
        words.append(f"{score.splits_right:.0%} of those that span routes are split right")
    if score.nobody_right is not None:
        words.append(f"{score.nobody_right:.0%} of those for nobody go to the fallback")
    return ", ".join(words)


def _show_nights(first: Score, nights: list[_Night]) -> None:
    rows: list[list[object]] = [["-", "", "", "", *_cells(first), "from the fleet", 1]]
    for number, night in enumerate(nights, 1):
        counts = [night.traffic.requests, night.traffic.votes, sum(night.mined.values())]
        rows.append([number, *counts, *_cells(night.score), night.result["verdict"], night.result["version"]])
    columns = ["night", "requests", "votes", "failures", "accuracy", "splits", "nobody", "verdict", "version"]
    show_table("Night by night, scored on questions that were never sent", columns, rows)
    kinds = [kind for kind in FAILURE_KINDS if any(kind in night.mined for night in nights)]
    mined: list[list[object]] = [[kind, *(night.mined.get(kind, 0) for night in nights)] for kind in kinds]
    show_table("New failures by kind", ["kind", *(f"night {i}" for i in range(1, len(nights) + 1))], mined)


def _cells(score: Score) -> list[object]:
    shares = (score.accuracy, score.splits_right, score.nobody_right)
    return ["" if share is None else f"{share:.1%}" for share in shares]


async def _roll_back(driver: Driver, environment: dict[str, str], nights: list[_Night]) -> None:
    newest = max(night.result["version"] for night in nights)
    if newest == 1:
        say("No night was published, so there is nothing to roll back.")
        return
    body = {"reason": "the demo shows a rollback", "actor": "demo"}
    done = await driver.post("/v1/router/rollback", body)
    seconds = await driver.wait_for_version(done["version"])
    say(f"Rolled back from version {newest} to {done['version']}; decisions followed after {1000 * seconds:.0f} ms.")
    say(f"To go forward again: trimtab activate {newest} --reason ...  The history:")
    sys.stdout.flush()
    subprocess.run([sys.executable, "-m", "api.cli.main", "history"], env=environment, check=False)
