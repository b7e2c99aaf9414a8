"""The demo: a real server with an embedded database, users over HTTP, nights that learn, a rollback at the end."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from api.cli.session import say, show_table
from api.demo.driving import DemoFailed, Driver, Score, Traffic
from api.demo.material import Material, Question, labelled_material, sample_material
from api.demo.processes import DemoHome, ended_by_signals, fresh_home, run_command, serving, show_command
from api.demo.simulated_users import Habits
from api.settings import Settings
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
    """Run the demo and return the exit code: 0, 1 when it failed, 128 and the signal's number when it was ended."""
    material = (
        sample_material()
        if options.data is None
        else labelled_material(options.data, label=options.label, seed=options.seed)
    )
    with fresh_home(settings, fleet=material.fleet) as home:
        say(f"The demo keeps everything in {home.folder}, made anew each time; your own data is not touched.")
        try:
            return asyncio.run(_demonstrate(home, material, options))
        except DemoFailed as error:
            sys.stderr.write(f"trimtab: the demo stopped: {error} The server's log is {home.log}.\n")
            return 1


async def _demonstrate(home: DemoHome, material: Material, options: DemoOptions) -> int:
    with ended_by_signals() as came:
        try:
            async with serving(home) as (address, server):
                await _days_and_nights(address, home, material, options)
                if not options.once and os.isatty(0) and os.isatty(1):
                    say(f"The server goes on answering on {address} (try {address}/docs); Ctrl-C ends it.")
                    return await _until_ended(server)
            say(f"The server is stopped; it goes on where it was with: TRIMTAB_HOME={home.folder} trimtab serve")
            return 0
        except asyncio.CancelledError:
            name = came[0].name if came else "its task"
            with suppress(OSError):  # the terminal may be gone
                sys.stderr.write(f"trimtab: the demo was ended by {name} before it was done; its server is stopped.\n")
            return 128 + came[0] if came else 1


async def _until_ended(server: Process) -> int:
    try:
        await server.wait()
    except asyncio.CancelledError:
        with suppress(OSError):
            say("The demo ends; its server is stopped, its data stays until the next demo.")
        return 0
    raise DemoFailed("The server ended.")


async def _days_and_nights(address: str, home: DemoHome, material: Material, options: DemoOptions) -> None:
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
        result = await _learn(home, home.folder / "report" / f"night-{number}.md")
        await driver.wait_for_version(result["version"])
        before = nights[-1].result["counts"]["failures"] if nights else {}
        now = result["counts"]["failures"]
        score = await driver.score(material.tests)
        mined = {kind: n - before.get(kind, 0) for kind, n in now.items() if n > before.get(kind, 0)}
        nights.append(_Night(traffic, result, score, mined))
        say(f"  {result['sentence']}")
    _show_nights(first, nights)
    await _roll_back(driver, home, nights)
    pages = sorted((home.folder / "report").glob("night-*.md"), key=lambda page: page.stat().st_mtime)
    say(f"The last night's report: {pages[-1] if pages else '(none was written)'}")


def _days(traffic: Sequence[Question], *, count: int, per_night: int, seed: int) -> list[list[Question]]:
    """Each day's questions: everything new comes first, then the same questions come again in another order."""
    rng = np.random.default_rng(seed + 1)
    order: list[int] = []
    while len(order) < count * per_night:
        order += rng.permutation(len(traffic)).tolist()
    return [[traffic[i] for i in order[day * per_night : (day + 1) * per_night]] for day in range(count)]


async def _learn(home: DemoHome, report: Path) -> dict[str, Any]:
    """Run the real command, as cron would."""
    code, output, error = await run_command(home, "learn", "--json", "--report", str(report))
    if code not in (0, 3):
        raise DemoFailed(f"The night failed: {error}")
    result: dict[str, Any] = json.loads(output)
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


async def _roll_back(driver: Driver, home: DemoHome, nights: list[_Night]) -> None:
    newest = max(night.result["version"] for night in nights)
    if newest == 1:
        say("No night was published, so there is nothing to roll back.")
        return
    body = {"reason": "the demo shows a rollback", "actor": "demo"}
    done = await driver.post("/v1/router/rollback", body)
    seconds = await driver.wait_for_version(done["version"])
    say(f"Rolled back from version {newest} to {done['version']}; decisions followed after {1000 * seconds:.0f} ms.")
    say(f"To go forward again: TRIMTAB_HOME={home.folder} trimtab activate {newest} --reason '...'  The history:")
    show_command(home, "history")
