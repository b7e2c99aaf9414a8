"""The picture of ``benchmarks.outcomes``: reward against cost, ours as a curve, and our mix of models along it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.outcomes import upper_curve
from benchmarks.report import BenchmarkReport

_OURS = "#c0392b"
_MARKS = {"knn_full": ("+", "#7f8c8d"), "litellm": ("^", "#8e44ad")}
_MARKS |= {"paretobandit_cold": ("s", "#2980b9"), "paretobandit_warm": ("D", "#16a085")}


def draw(report: BenchmarkReport, *, path: Path) -> None:
    """Draw means over repeats into ``path`` (.png)."""
    summary = {
        name: {metric: found["mean"] for metric, found in metrics.items()} for name, metrics in report.summary.items()
    }
    figure = Figure(figsize=(9, 4.5), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for prefix, (mark, colour) in _MARKS.items():
        points = [m for name, m in summary.items() if name.split("@")[0] == prefix]
        if points:
            left.scatter(
                [m["cost_per_1000"] for m in points],
                [m["reward"] for m in points],
                marker=mark,
                s=26,
                color=colour,
                label=prefix.replace("_", ", "),
                alpha=0.8,
            )
    alone = [metrics for name, metrics in summary.items() if name.startswith("single:")]
    left.scatter(
        [m["cost_per_1000"] for m in alone],
        [m["reward"] for m in alone],
        marker="x",
        color="black",
        label="one model for all",
    )
    ours = sorted((m for n, m in summary.items() if n.startswith("trimtab@")), key=lambda m: m["cost_per_1000"])
    reached = [(m["cost_per_1000"], m["reward"]) for m in ours]
    left.scatter(*zip(*reached, strict=True), color=_OURS, label="trimtab", zorder=3)
    curve = upper_curve(reached)
    cost = np.geomspace(curve[0, 0], curve[-1, 0], 200)
    left.plot(cost, np.interp(cost, curve[:, 0], curve[:, 1]), color=_OURS, linewidth=2)
    left.set(xscale="log", xlabel="US dollars per 1,000 questions", ylabel="reward")
    left.legend(fontsize=8, frameon=False, loc="lower right")
    _mix(right, ours)
    for axes in (left, right):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _mix(axes: Axes, ours: Sequence[dict[str, float]]) -> None:
    """Shares of the models, stacked, a bar for each cost weight."""
    below = np.zeros(len(ours))
    for name in [metric for metric in ours[0] if metric.startswith("share:")]:
        share = np.array([m[name] for m in ours])
        axes.bar(range(len(ours)), share, bottom=below, label=name.removeprefix("share:").split("/")[-1])
        below += share
    axes.set_xticks(range(len(ours)), [f"{m['cost_weight']:g}" for m in ours], rotation=45, fontsize=8)
    axes.set(xlabel="cost weight of trimtab", ylabel="mix of models")
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, frameon=False)
