"""The demo as a real process: it shows the loop and cleans up, whoever ends it; wrong files are one sentence."""

import contextlib
import gzip
import json
import os
import pty
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from api.cli.main import main
from telemetry import embedded_postgres
from tests.api.cli.processes import TRIMTAB, environment, signals_as_at_a_terminal, trimtab, wait_for

pytestmark = pytest.mark.slow
ONE_NIGHT = ("demo", "--nights", "1", "--per-night")
# Everybody votes and nobody slips, so that a night with so few questions has enough to publish.
CLEAR_VOTES = ("--rated", "1", "--flipped", "0")
ANY_COST = {"TRIMTAB_LEARNER__MOST_DEARER": "1"}
NO_SPLITTER = {"TRIMTAB_LEARNER__SPLITTER_EXAMPLES": "0"}  # it takes most of the start


def rows(*routes, train=14, test=4):
    """Rows of a labelled file."""
    return [
        {"text": f"{split} question {i} about {route}", "split": split, "domain": route}
        for route in routes
        for split, count in (("train", train), ("test", test))
        for i in range(count)
    ]


def json_lines(found):
    return "".join(json.dumps(row) + "\n" for row in found).encode()


def processes_of(home, *, named=""):
    """The processes of this home (it stands in their arguments or environment) that have this argument, if any."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (folder / "cmdline").read_bytes()
            wanted = not named or named.encode() in arguments.split(b"\0")
            about = os.fsencode(home) in arguments + (folder / "environ").read_bytes()
            if about and wanted and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


@pytest.fixture
def home(tmp_path):
    yield tmp_path
    embedded_postgres.remove(tmp_path / "demo")


@dataclass(kw_only=True)
class Demo:
    """A demo of a labelled file, at a terminal of its own."""

    home: Path
    process: subprocess.Popen[bytes]
    terminal: int
    printed: str = field(default="")

    def shows(self, text):
        """Whether it has printed this."""
        with contextlib.suppress(OSError):  # nothing new, or nobody left at the other end
            while more := os.read(self.terminal, 65536):
                self.printed += more.decode(errors="replace")
        return text in self.printed

    def wait_for(self, text):
        wait_for(lambda: self.shows(text) or self.process.poll() is not None, seconds=240)
        assert self.shows(text), self.printed

    def end(self, number):
        """Send a signal to the terminal's processes, as Ctrl-C does, and return the exit code."""
        os.killpg(self.process.pid, number)
        code = self.process.wait(180)
        self.shows("")
        return code


@pytest.fixture
def demo(home):
    data = home / "questions.jsonl"
    data.write_bytes(json_lines(rows("bank", "travel")))
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    with signals_as_at_a_terminal():
        process = subprocess.Popen(
            [*TRIMTAB, *ONE_NIGHT, "100", "--data", str(data)],
            env=environment(home, TERM="dumb", COLUMNS="160", **NO_SPLITTER),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
    os.close(theirs)
    yield Demo(home=home, process=process, terminal=ours)
    if process.poll() is None:
        process.terminate()
        process.wait(180)
    os.close(ours)


def test_a_demo_without_a_terminal_shows_the_whole_loop_and_ends_by_itself(home):
    done = trimtab(home, *ONE_NIGHT, "200", *CLEAR_VOTES, **ANY_COST)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert processes_of(home) == []
    assert "Version 1, from examples alone" in done.stdout
    assert re.search(r"│ 1 +│ 2\d\d +│ \d+ +│ \d+ +│ \d+\.\d% +│ \d+\.\d% +│ \d+\.\d% +│ published", done.stdout)
    assert re.search(r"│ thumbs_down +│ \d+", done.stdout)
    assert re.search(r"Rolled back from version 2 to 1; decisions followed after \d+ ms", done.stdout)
    assert re.search(r"│ 3 .*│ 1 .*│ rollback │ demo .*│ the demo shows a rollback", done.stdout)

    page = Path(re.search(r"report: (\S+\.md)", done.stdout).group(1))
    pictures = re.findall(r"!\[.*\]\((.+)\)", page.read_text())
    assert pictures
    assert all((page.parent / name).read_bytes().startswith(b"\x89PNG") for name in pictures)

    named = Path(re.search(r"TRIMTAB_HOME=(\S+) trimtab serve", done.stdout).group(1))
    history = json.loads(trimtab(named, "history", "--json").stdout)
    assert sorted(row["version"] for row in history["activations"]) == [1, 1, 2]


def test_at_a_terminal_the_server_goes_on_until_ctrl_c_and_no_second_demo_takes_its_place(demo):
    demo.wait_for("Ctrl-C ends it.")
    assert processes_of(demo.home, named="serve")
    second = trimtab(demo.home, "demo")
    assert second.returncode == 2
    assert re.fullmatch(r"trimtab: Another demo is running \(process \d+\); end it first\.\n", second.stderr)
    assert demo.end(signal.SIGINT) == 0
    assert "The demo ends" in demo.printed
    assert processes_of(demo.home) == []


@pytest.mark.parametrize(
    ("moment", "number", "code"),
    [
        ("Starting the database", signal.SIGHUP, 129),
        ("Starting the database", signal.SIGTERM, 143),
        ("Day 1", signal.SIGINT, 130),
        ("Night 1", signal.SIGINT, 130),
    ],
)
def test_a_demo_that_is_ended_early_says_so_and_leaves_no_process(demo, moment, number, code):
    demo.wait_for(moment)
    wait_for(lambda: embedded_postgres.status(demo.home / "demo")[0], seconds=180)
    assert demo.end(number) == code
    assert f"trimtab: the demo was ended by {number.name} before it was done" in demo.printed
    assert "Traceback" not in demo.printed
    assert processes_of(demo.home) == []


def test_when_the_server_is_killed_the_demo_ends_and_the_database_with_it(demo):
    demo.wait_for("Day 1")
    for server in processes_of(demo.home, named="serve"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, signal.SIGKILL)
    assert demo.process.wait(180) == 1
    assert demo.shows("trimtab: the demo stopped:"), demo.printed
    assert demo.shows("The server's log is"), demo.printed
    assert processes_of(demo.home) == []


BOTH = json_lines(rows("bank", "travel"))
WRONG_FILES = {
    "missing": (None, "no such file"),
    "empty": (b"", "its rows need text, split and the field 'domain'"),
    "binary": (b"\x00\xff\xfe" * 99, "not a file of JSON lines"),
    "nested without end": (b"[" * 100_000, "not a file of JSON lines"),
    "gzip in name only": (BOTH, "not a file of JSON lines"),
    "broken gzip": (gzip.compress(BOTH)[:-20], "not a file of JSON lines"),
    "no such label": (BOTH.replace(b"domain", b"topic"), "the field 'domain' (choose another field with --label)"),
    "no test split": (BOTH.replace(b'"test"', b'"val"'), "no questions of these routes in split 'test'"),
    "no names of routes": (json_lines(rows("bank", " my travel ")), "' my travel ': must be one line of printable"),
    "one route": (json_lines(rows("bank")), "at least two values of 'domain'"),
    "few questions": (json_lines(rows("bank", "travel", train=10)), "over 10 questions each in split 'train'"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_file_that_makes_no_demo_is_told_in_one_sentence_and_changes_nothing(case, tmp_path, monkeypatch, capsys):
    content, problem = WRONG_FILES[case]
    data = tmp_path / ("data.jsonl.gz" if "gzip" in case else "data.jsonl")
    if content is not None:
        data.write_bytes(content)
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "argv", ["trimtab", "demo", "--once", "--data", str(data)])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert re.fullmatch(rf"trimtab: {re.escape(str(data))}: .*\.\n", printed.err)
    assert problem in printed.err
    assert printed.out == ""
    assert not (tmp_path / "home").exists()
