"""semantic-router as a peer: liked questions are added as utterances. It runs in a Python of its own that has it."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.peers import Array, Ints, Learner, Log, Predict

NAME = "semantic_router"
_PROCESS = Path(__file__).with_name("semantic_router_process.py")


class SemanticRouterMissing(RuntimeError):
    """No Python with semantic-router answers."""


@contextmanager
def semantic_router(python: str | None) -> Iterator[Learner]:
    """Start the process and yield a learner like those of ``benchmarks.peers``.

    Args:
        python: an interpreter that has semantic-router >= 1.1 installed; None: this one.

    Raises:
        SemanticRouterMissing: it does not have it.
    """
    command = [python or sys.executable, "-u", str(_PROCESS)]
    with (
        tempfile.TemporaryDirectory(prefix="trimtab-semantic-router-") as folder,
        (Path(folder) / "errors").open("w") as errors,
    ):
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        except OSError as error:
            raise SemanticRouterMissing(f"{command[0]} cannot be started: {error.strerror}.") from None
        with process:
            if _answer(process) != "ready":
                process.wait()
                last = (Path(folder) / "errors").read_text().strip().split("\n")[-1]
                raise SemanticRouterMissing(f"{command[0]} does not have semantic-router: {last}")
            try:
                yield lambda log: _fitted(process, log, folder=Path(folder))
            finally:
                process.terminate()


def _fitted(process: "subprocess.Popen[str]", log: Log, *, folder: Path) -> Predict:
    liked, route = log.liked

    def predict(asked: Array) -> Ints:
        name = folder / "questions.npz"
        np.savez(name, liked=liked, route=route, asked=asked)
        assert process.stdin is not None
        process.stdin.write(f"{name}\n")
        process.stdin.flush()
        answer = _answer(process)
        if not answer:
            raise SemanticRouterMissing((folder / "errors").read_text().strip().split("\n")[-1])
        return np.asarray(np.load(answer), dtype=np.int64)

    return predict


def _answer(process: "subprocess.Popen[str]") -> str:
    """The next line that is an answer; the library prints some of its own."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "ready" or line.strip().endswith(".npy"):
            return line.strip()
    return ""
