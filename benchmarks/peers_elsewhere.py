"""Peers that need an environment of their own: made once under a folder, run as a process on the same replay."""

import json
import os
import subprocess
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.outcomes_data import Ints, Outcomes

_SCRIPTS = Path(__file__).parent / "elsewhere"
PACKAGES: Mapping[str, str] = {"paretobandit": "paretobandit==0.1.1", "litellm": "litellm==1.110.2"}
_BESIDE = "numpy==2.4.6"
# LiteLLM would fetch a list of prices from the network otherwise.
_ENVIRONMENT = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
_LONGEST_RUN = 900


class PeerUnavailable(RuntimeError):
    """A peer could not be installed or run; the benchmark goes on without it."""


def run_peer(
    name: str, data: Outcomes, stream: Ints, *, seed: int, pleased_from: float, folder: Path
) -> list[dict[str, Any]]:
    """Run the peer on the stream in its order; one dictionary (name, reward, cost, shares) for each of its settings.

    Args:
        name: of ``PACKAGES``.
        data: what is replayed.
        stream: rows in the order in which they come.
        seed: of the peer's own chance.
        pleased_from: reward from which a thumb is up.
        folder: where environments are kept.

    Raises:
        PeerUnavailable: with the last line of what went wrong.
    """
    python = _environment(name, folder)
    with tempfile.TemporaryDirectory(prefix="trimtab-peer-") as scratch:
        replay = Path(scratch) / "replay.npz"
        np.savez(
            replay,
            X=data.X,
            reward=data.reward,
            cost=data.cost,
            prices=data.prices,
            models=np.array(data.models),
            texts=np.array(data.texts),
            stream=stream,
            score=data.score,
            seed=seed,
            pleased_from=pleased_from,
        )
        done = _run([str(python), str(_SCRIPTS / f"{name}_peer.py"), str(replay)], name)
    found: list[dict[str, Any]] = json.loads(done.splitlines()[-1])
    return found


def _environment(name: str, folder: Path) -> Path:
    """The Python of the peer's own environment, made and filled where it is not there yet."""
    home = folder / PACKAGES[name].replace("==", "-")
    python, ready = home / "bin" / "python", home / "ready"
    if not ready.exists():
        venv.create(home, with_pip=True, clear=True)
        _run([str(python), "-m", "pip", "install", "--quiet", PACKAGES[name], _BESIDE], name)
        ready.touch()
    return python


def _run(command: list[str], name: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | _ENVIRONMENT
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_LONGEST_RUN, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise PeerUnavailable(f"{name} took longer than {_LONGEST_RUN} s") from None
    if done.returncode:
        raise PeerUnavailable(f"{name}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return done.stdout


def default_folder() -> Path:
    """Where environments are kept: beside other caches of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "trimtab-benchmarks"
