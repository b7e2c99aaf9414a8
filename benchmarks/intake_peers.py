"""Durable feedback at two peers, each in an environment of its own: Phoenix annotations and MLflow assessments."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.real_server import play

_READY_SECONDS = 180
_TARGETS = 200
_TRIES = 5
_AT = "2026-11-24T10:00:00+00:00"


def measure_peers(*, folder: Path, **plan: Any) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield each peer's name and metrics; one that cannot be installed or run is left out, and why is printed."""
    for name, package, measure in (("phoenix", "arize-phoenix", _phoenix), ("mlflow", "mlflow", _mlflow)):
        try:
            programs = _environment(folder / name, package)
            seen = measure(programs, folder / name, plan)
        except (subprocess.CalledProcessError, OSError, RuntimeError) as error:
            print(f"{name} could not be measured: {error}")
            continue
        if not seen["good"]["count"]:
            print(f"{name} could not be measured: it answered {seen['statuses']}")
            continue
        yield (
            f"{name} feedback",
            {
                "rate": seen["good_in_time"] / seen["seconds"],
                **{f"{share}_ms": seen["good"][share] for share in ("p50", "p95", "p99")},
                "failed": float(sum(n for status, n in seen["statuses"].items() if status[0] != "2")),
                "load": os.getloadavg()[0],
            },
        )


def _environment(folder: Path, package: str) -> Path:
    """Make a virtual environment with the package, where it is not there yet; return its folder of programs."""
    programs = folder / "bin"
    if not (programs / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"pip install {package}: {done.stderr.strip().splitlines()[-1]}")
        (programs / "installed").touch()
    return programs


def _phoenix(programs: Path, folder: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Annotations with ``sync=true``, which answers after the row is stored (SQLite)."""
    port = _free_port()
    settings = {
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(_free_port()),
        "PHOENIX_WORKING_DIR": str(folder / f"data-{port}"),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    with _running([str(programs / "phoenix"), "serve"], folder, settings=settings):
        _wait_for(port, "/healthz")
        spans = [_span(number) for number in range(1, _TARGETS + 1)]
        _call(port, "/v1/projects", {"name": "benchmark"})
        for at in range(0, _TARGETS, 100):
            _call(port, "/v1/projects/benchmark/spans", {"data": spans[at : at + 100]})
        time.sleep(5)  # spans are stored after they are answered
        result = '"name":"thumb","annotator_kind":"HUMAN","identifier":"u-#","result":{"label":"up","score":1}'
        requests = [
            ["POST", "/v1/span_annotations?sync=true", f'{{"data":[{{"span_id":"{number:016x}",{result}}}]}}']
            for number in range(1, _TARGETS + 1)
        ]
        return play({**plan, "kind": "given", "port": port, "requests": requests})


def _span(number: int) -> dict[str, Any]:
    ids = {"trace_id": f"{number:032x}", "span_id": f"{number:016x}"}
    times = {"start_time": _AT, "end_time": _AT}
    return {"name": "q", "context": ids, "span_kind": "LLM", **times, "status_code": "OK", "attributes": {}}


def _mlflow(programs: Path, folder: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Assessments of traces, over MLflow's own REST call, on its default store (SQLite)."""
    port = _free_port()
    store = f"sqlite:///{folder}/data-{port}.db"
    command = [str(programs / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "2"]
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "PATH": f"{programs}:{os.environ['PATH']}"}
    with _running([*command, "--backend-store-uri", store], folder, settings=settings):
        _wait_for(port, "/health")
        traces = [f"tr-{number:032x}" for number in range(1, _TARGETS + 1)]
        for trace in traces:
            _call(port, "/api/3.0/mlflow/traces", {"trace": {"trace_info": _trace(trace)}})
        source = {"source_type": "HUMAN", "source_id": "u-#"}
        said = {"assessment_name": "thumb", "source": source, "feedback": {"value": True}}
        requests = [
            [
                "POST",
                f"/api/3.0/mlflow/traces/{trace}/assessments",
                json.dumps({"assessment": {**said, "trace_id": trace, "create_time": _AT, "last_update_time": _AT}}),
            ]
            for trace in traces
        ]
        return play({**plan, "kind": "given", "port": port, "requests": requests})


def _trace(trace: str) -> dict[str, Any]:
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}
    return {"trace_id": trace, "trace_location": place, "request_time": _AT, "state": "OK", "execution_duration": "1s"}


@contextmanager
def _running(command: list[str], folder: Path, *, settings: Mapping[str, str]) -> Iterator[None]:
    with (folder / "peer.log").open("ab") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **settings}, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(process.pid, 15)
        process.wait(timeout=60)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _wait_for(port: int, path: str) -> None:
    give_up = time.monotonic() + _READY_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).close()
            return
        except OSError:
            if time.monotonic() > give_up:
                raise RuntimeError(f"it did not answer on {path} in {_READY_SECONDS} s") from None
            time.sleep(0.5)


def _call(port: int, path: str, body: object) -> None:
    """Post, and try again where a worker was replaced meanwhile: MLflow's supervisor ends those that are slow."""
    headers = {"content-type": "application/json"}
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=json.dumps(body).encode(), headers=headers)
    for left in reversed(range(_TRIES)):
        try:
            urllib.request.urlopen(asked, timeout=60).close()  # noqa: S310
            return
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path} answered {error.code}: {error.read()[:300]!r}") from None
        except OSError:
            if not left:
                raise
            time.sleep(1)
