"""What every benchmark writes: raw figures a repeat, their summary, and the machine they were measured on."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

_PACKAGES = (
    "trimtab",
    "numpy",
    "onnxruntime",
    "faiss-cpu",
    "torch",
    "scikit-learn",
    "sqlalchemy",
    "sentence-transformers",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The metrics of one contender in one repeat: a seed, or the name of a test file."""

    name: str
    repeat: int | str
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkReport:
    """All that one run of a benchmark measured."""

    benchmark: str
    args: Mapping[str, object]
    rows: Sequence[Row]
    machine: Mapping[str, object] = field(default_factory=lambda: describe_machine())
    versions: Mapping[str, str] = field(default_factory=lambda: installed_versions())

    @property
    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """For each name and metric the mean, standard deviation and count over the repeats."""
        found: dict[str, dict[str, list[float]]] = {}
        for row in self.rows:
            for metric, value in row.metrics.items():
                found.setdefault(row.name, {}).setdefault(metric, []).append(float(value))
        return {
            name: {metric: _described(values) for metric, values in metrics.items()} for name, metrics in found.items()
        }

    def write_json(self, path: Path) -> None:
        """Write raw rows and summary; ``path``'s folder is made where it is missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "benchmark": self.benchmark,
            "args": {name: _plain(value) for name, value in self.args.items()},
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "rows": [asdict(row) for row in self.rows],
            "summary": self.summary,
        }
        path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def print_table(self, metrics: Sequence[str] | None = None, *, by_repeat: bool = False) -> None:
        """Print one line a name (mean and deviation over repeats), or one line a name and repeat.

        Args:
            metrics: the columns; None for all, in order of first appearance.
            by_repeat: print each repeat by itself; its name stands before the contender's.
        """
        columns = list(metrics or dict.fromkeys(metric for row in self.rows for metric in row.metrics))
        table = Table(title=self.benchmark)
        for heading in (*(["repeat"] if by_repeat else []), "name", *columns):
            table.add_column(heading.replace("_", " "), justify="left" if heading in ("repeat", "name") else "right")
        if by_repeat:
            for row in self.rows:
                cells = [_number(row.metrics[metric]) if metric in row.metrics else "" for metric in columns]
                table.add_row(str(row.repeat), row.name, *cells)
        else:
            for name, found in self.summary.items():
                table.add_row(name, *[_spread(found[metric]) if metric in found else "" for metric in columns])
        Console(width=max(100, 12 * len(columns) + 50)).print(table)


def describe_machine() -> dict[str, object]:
    """Processors that this process may use, the load at this moment, and their kind."""
    return {"cpus": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], "kind": platform.machine()}


def peak_mib() -> float:
    """The most memory that this process has had at a time, MiB; getrusage would count what it was spawned from."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that the figures depend on, where installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _described(values: Sequence[float]) -> dict[str, float]:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0  # statistics.stdev fails where one is nan
    return {"mean": float(np.mean(values)), "sd": spread, "n": len(values)}


def _plain(value: object) -> object:
    if isinstance(value, str | int | float | bool | None):
        return value
    return [str(item) for item in value] if isinstance(value, list | tuple) else str(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or (float(value).is_integer() and abs(value) > 1) else f"{value:.4f}"


def _spread(described: Mapping[str, float]) -> str:
    return _number(described["mean"]) + (f" ± {described['sd']:.4f}" if described["n"] > 1 else "")
