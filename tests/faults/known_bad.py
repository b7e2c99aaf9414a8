"""Known-bad builds: plant each fault into a copy of the source, and expect the tests to be red.

``python -m tests.faults.known_bad [NAME ...]`` prints a table and ends with 1 if a fault was planted that no test saw.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_LEFT_OUT = (".git", ".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".hypothesis", "build", "*.egg-info")
_TESTS_FAILED = 1
_ID = "(event.inference_id if isinstance(event, Inference) else event.feedback_id)"


@dataclass(frozen=True)
class Patch:
    """Text of a file that stands there exactly once, and what is put in its place."""

    path: str
    old: str
    new: str

    def apply(self, root: Path) -> None:
        """Change the file below ``root``.

        Raises:
            ValueError: the text is not there, or more than once.
        """
        file = root / self.path
        source = file.read_text()
        if source.count(self.old) != 1:
            raise ValueError(f"{self.path} has not exactly once: {self.old!r}")
        file.write_text(source.replace(self.old, self.new))


@dataclass(frozen=True)
class KnownBad:
    """A fault as somebody might write it, and the tests that must see it."""

    name: str
    patches: Sequence[Patch]
    tests: Sequence[str]


BUILDS = (
    KnownBad(
        "acknowledged before the commit",
        [
            Patch(
                "api/intake.py",
                "        try:\n            results = self._commit(entries, apart=False)\n        except DBAPIError",
                "        for entry in entries:\n"
                f'            entry.results = [StoreResult(id={_ID}, status="stored") for event in entry.events]\n'
                "        _answer(entries, None)\n"
                "        try:\n            results = self._commit(entries, apart=False)\n        except DBAPIError",
            )
        ],
        ["tests/faults/test_database_faults.py::test_connections_are_cut_again_and_again"],
    ),
    KnownBad(
        "synchronous_commit = off",
        [
            Patch("telemetry/database.py", '"synchronous_commit": "on"', '"synchronous_commit": "off"'),
            Patch("telemetry/embedded_postgres.py", '"synchronous_commit": "on"', '"synchronous_commit": "off"'),
        ],
        ["tests/faults/test_disk_faults.py::test_the_power_is_cut"],
    ),
    KnownBad(
        "fsync = off",
        [Patch("telemetry/embedded_postgres.py", '"fsync": "on"', '"fsync": "off"')],
        ["tests/faults/test_disk_faults.py::test_the_power_is_cut"],
    ),
    KnownBad(
        "no dedupe",
        [
            Patch(
                "telemetry/inferences.py",
                "f\"on conflict (inference_id) do update set {', '.join(sets)} where {condition}\"",
                '""',
            )
        ],
        ["tests/faults/test_database_faults.py::test_the_connection_is_cut_at_commit"],
    ),
    KnownBad(
        "dedupe marker before the row",
        [
            Patch(
                "api/intake.py",
                "        loop = asyncio.get_running_loop()\n        answer:",
                f"        ids = {{(type(event), {_ID}) for event in events}}\n"
                '        seen = self.__dict__.setdefault("_seen", set())\n'
                "        if ids <= seen:\n"
                f'            return [StoreResult(id={_ID}, status="duplicate") for event in events]\n'
                "        seen.update(ids)\n"
                "        loop = asyncio.get_running_loop()\n        answer:",
            )
        ],
        ["tests/faults/test_database_faults.py::test_connections_are_cut_again_and_again"],
    ),
    KnownBad(
        "pointer flipped before the parts are stored",
        [
            Patch(
                "router/registry.py",
                "    _store_parts(conn, number, artifact)\n    open_router(load(conn, number))\n",
                '    if status == "active":\n'
                '        _switch(conn, number, kind="publish", actor=actor, reason=reason)\n'
                "        conn.connection.driver_connection.commit()\n"
                "    _store_parts(conn, number, artifact)\n    open_router(load(conn, number))\n",
            ),
            Patch(
                "router/registry.py",
                'activation = _switch(conn, number, kind="publish", actor=actor, reason=reason)\n    return Pub',
                "activation = active(conn)\n    return Pub",
            ),
        ],
        [
            "tests/router/test_registry.py::test_nothing_of_a_publication_is_seen_before_the_commit",
            "tests/faults/test_version_faults.py::test_fifty_publications_in_a_minute_are_followed_one_whole_version_at_a_time",
        ],
    ),
    KnownBad(
        "hash check skipped",
        [Patch("router/artifact.py", 'if hashlib.sha256(data).hexdigest() != entry.get("sha256"):', "if False:")],
        ["tests/router/test_artifact.py::test_a_flipped_bit_anywhere_is_refused"],
    ),
    KnownBad(
        "unbounded queue",
        [
            Patch(
                "api/intake.py",
                "full = self._items + n > self._most_items or self._bytes + entry.size > self._most_bytes",
                "full = False",
            ),
            Patch("api/intake.py", " if coming > 0 else math.inf", " if False else math.inf"),
        ],
        ["tests/faults/test_edge_faults.py::test_overload_is_shed_at_once_and_everything_taken_is_stored"],
    ),
    KnownBad(
        "two learners without fencing",
        [
            Patch("router/registry.py", "    if found != token:", "    if False:"),
            Patch("learner/runs.py", "if self.lost.is_set():", "if False:"),
        ],
        ["tests/learner/test_night_processes.py::test_a_learner_that_wakes_after_its_lease_publishes_nothing"],
    ),
    KnownBad(
        "keys are compared by ==",
        [
            Patch(
                "api/keyring.py",
                "hmac.compare_digest(digest(presented), key.sha256 if key else _NOBODY)",
                "key is not None and digest(presented) == key.sha256",
            )
        ],
        ["tests/api/test_keyring.py::test_keys_and_tokens_are_compared_in_constant_time"],
    ),
    KnownBad(
        "keys are looked up by their digest",
        [
            Patch(
                "api/keyring.py",
                "        same = hmac.compare_digest(",
                "        return {one.sha256: one for one in self._keys.values()}.get(digest(presented))\n"
                "        same = hmac.compare_digest(",
            )
        ],
        ["tests/api/test_keyring.py::test_keys_and_tokens_are_compared_in_constant_time"],
    ),
    KnownBad(
        "a worker is wedged while health says fine",
        [Patch("api/routes/health.py", "(_STUCK if state.intake.stuck else None)", "None")],
        ["tests/faults/test_database_faults.py::test_replies_to_commit_never_come_though_the_connections_stay"],
    ),
    KnownBad(
        "a worker stays wedged",
        [Patch("telemetry/database.py", "statement_timeout_ms / 1000 + REPLY_SLACK_S", "None")],
        ["tests/faults/test_database_faults.py::test_replies_to_commit_never_come_though_the_connections_stay"],
    ),
)


def plant(build: KnownBad, folder: Path) -> Path:
    """Return a copy of the source below ``folder`` that has the fault."""
    copy = folder / "source"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    for patch in build.patches:
        patch.apply(copy)
    return copy


def try_build(build: KnownBad) -> tuple[bool, str, float]:
    """Return whether the tests were red, the last line they said, and the seconds it took."""
    with tempfile.TemporaryDirectory(prefix="known-bad-") as folder:
        source = plant(build, Path(folder))
        command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-m", "", "-p", "no:logging", *build.tests]
        began = time.monotonic()
        environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
        if done.returncode not in (0, _TESTS_FAILED):
            raise SystemExit(f"{build.name}: the tests could not be run.\n{done.stdout}{done.stderr}")
        reasons = [line[1:].strip() for line in done.stdout.splitlines() if line.startswith("E  ")]
        return done.returncode == _TESTS_FAILED, " ".join(reasons[:2]), time.monotonic() - began


def main() -> int:
    """Plant what was asked for, or all; return 1 if something stayed green."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only these; all when left out")
    chosen = [build for build in BUILDS if build.name in (names := parser.parse_args().names) or not names]
    green = 0
    print("| planted | tests | seen by |\n|---|---|---|", flush=True)
    for build in chosen:
        red, why, seconds = try_build(build)
        green += not red
        tests = ", ".join(f"`{test.split('::')[1]}`" for test in build.tests)
        print(f"| {build.name} | {'red' if red else 'GREEN'} in {seconds:.0f} s: {why[:90]} | {tests} |", flush=True)
    print(f"known-bad builds: {len(chosen) - green} red, {green} green")
    return 1 if green else 0


if __name__ == "__main__":
    sys.exit(main())
