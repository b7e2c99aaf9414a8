"""The picture of ``benchmarks.feedback_loop``: accuracy by night, ours against the baselines on the same votes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from benchmarks.report import Row

_PREFIX = "accuracy_night_"
_RED = colormaps["tab10"](3)[:3]  # ours alone is red


def draw(rows: Sequence[Row], *, path: Path) -> None:
    """Draw the mean over repeats of every contender's accuracy by night into ``path`` (.png)."""
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_prop_cycle(color=[color for color in colormaps["tab10"].colors if color != _RED])  # type: ignore[attr-defined]
    for name in dict.fromkeys(row.name for row in rows):
        courses = [_course(row) for row in rows if row.name == name and f"{_PREFIX}0" in row.metrics]
        if not courses:
            continue
        mean = np.mean(courses, axis=0)
        ours = name == "trimtab"
        axes.plot(100 * mean, label=name, linewidth=3 if ours else 1.3, color="#c0392b" if ours else None)
    full = [row.metrics["accuracy_last"] for row in rows if row.name == "full"]
    if full:
        axes.axhline(100 * float(np.mean(full)), linestyle=":", color="grey", label="every label known")
    axes.set_xlabel("night")
    axes.set_ylabel("unseen questions sent to the right route, %")
    lines = sorted(axes.get_lines(), key=lambda line: -float(np.asarray(line.get_ydata())[-1]))
    figure.legend(handles=lines, loc="outside right upper", fontsize=8, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _course(row: Row) -> list[float]:
    nights = sorted(int(name.removeprefix(_PREFIX)) for name in row.metrics if name.startswith(_PREFIX))
    return [row.metrics[f"{_PREFIX}{night}"] for night in nights]
