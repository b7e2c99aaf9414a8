"""Pictures of a night: centroids before and after, failures, routes, and what the estimate says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from router.version import RouterVersion

_SIZE = (9, 5.5)


def draw_pictures(
    report: Mapping[str, Any], before: RouterVersion, after: RouterVersion, page: Path
) -> list[tuple[str, str]]:
    """Draw the pictures of a night beside ``page`` (a Markdown file) and return (title, file name) of each."""
    import matplotlib as mpl

    mpl.use("Agg")
    page.parent.mkdir(parents=True, exist_ok=True)
    made = []
    for name, title, draw in (
        ("centroids", "Centroids before and after", lambda ax: _centroids(ax, before, after)),
        ("failures", "Failures by kind", lambda ax: _failures(ax, report)),
        ("routes", "Right route and utility by route", lambda ax: _routes(ax, report)),
    ):
        file = page.with_name(f"{page.stem}-{name}.png")
        _save(draw, title, file)
        made.append((title, file.name))
    return made


def _save(draw: Any, title: str, file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    draw(axes)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(file)


def _centroids(ax: Any, before: RouterVersion, after: RouterVersion) -> None:
    """The plane of the two strongest directions of both versions' centroids; a point's colour is its owner."""
    import matplotlib as mpl

    old, new = before.centroids, after.centroids
    together = np.concatenate([old.vectors, new.vectors])
    middle = together.mean(axis=0)
    _, _, axes = np.linalg.svd(together - middle, full_matrices=False)
    a, b = (old.vectors - middle) @ axes[:2].T, (new.vectors - middle) @ axes[:2].T
    colours = mpl.colormaps["tab20"]
    owner = new.owners.argmax(axis=1)
    for point, color in zip(a, old.owners.argmax(axis=1), strict=True):
        ax.scatter(*point, marker="x", s=22, color=colours(color % 20), alpha=0.55, linewidths=1)
    for i, route in enumerate(after.parameters.routes):
        rows = owner == i
        if rows.any():
            size = 14 + 60 * new.mass[rows] / max(float(new.mass.max()), 1e-9)
            ax.scatter(b[rows, 0], b[rows, 1], s=size, color=colours(i % 20), alpha=0.8, label=route, linewidths=0)
    ax.set_xlabel("first principal direction (crosses: before, dots: after)")
    ax.set_ylabel("second principal direction")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _failures(ax: Any, report: Mapping[str, Any]) -> None:
    counts = sorted(report["counts"]["failures"].items(), key=lambda item: item[1])
    bars = ax.barh([kind.replace("_", " ") for kind, _ in counts], [n for _, n in counts], color="#4878a8")
    ax.bar_label(bars, padding=3, fontsize=9)
    ax.set_xlabel("failures in the window")


def _routes(ax: Any, report: Mapping[str, Any]) -> None:
    rows = [(route, row) for route, row in report["routes"].items() if row["accuracy"] is not None]
    at = np.arange(len(rows))
    ax.barh(at + 0.2, [row["accuracy"] for _, row in rows], height=0.38, color="#4878a8", label="right route, believed")
    ax.barh(
        at - 0.2, [row["utility"] for _, row in rows], height=0.38, color="#d49a4a", label="utility: chance to please"
    )
    ax.set_yticks(at, [route for route, _ in rows])
    ax.set_xlim(0, 1)
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2, frameon=False)
