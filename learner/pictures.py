"""Pictures of a night: centroids before and after, failures by kind, routes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from router.difference import SAME_WITHIN_DEGREES, partners
from router.version import RouterVersion

_WIDTH, _HEIGHT = 9.0, 5.5  # inches
_ROUTE_HEIGHT = 0.32
_MOST_NAMED = 20  # as many as there are colours


def draw_pictures(
    report: Mapping[str, Any], before: RouterVersion, after: RouterVersion, page: Path
) -> list[tuple[str, str]]:
    """Draw the pictures of a night beside ``page`` (a Markdown file) and return (title, file name) of each."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["text.parse_math"] = False  # a route may be named "$x$"
    page.parent.mkdir(parents=True, exist_ok=True)
    made = []
    tall = max(_HEIGHT, _ROUTE_HEIGHT * len(report["routes"]))
    for name, title, height, draw in (
        ("centroids", "Centroids before and after", _HEIGHT, lambda ax: _centroids(ax, before, after)),
        ("failures", "Failures by kind", _HEIGHT, lambda ax: _failures(ax, report)),
        ("routes", "Right route and utility by route", tall, lambda ax: _routes(ax, report)),
    ):
        file = page.with_name(f"{page.stem}-{name}.png")
        _save(draw, title, file, height=height)
        made.append((title, file.name))
    return made


def _save(draw: Any, title: str, file: Path, *, height: float) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    draw(axes)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(file)


def _centroids(ax: Any, before: RouterVersion, after: RouterVersion) -> None:
    """The plane of the two strongest directions of both versions' centroids; colours are owners, lines are moves.

    A cross without a line is gone, a dot without one is new.
    """
    import matplotlib as mpl

    old, new = before.centroids, after.centroids
    together = np.concatenate([old.vectors, new.vectors])
    middle = together.mean(axis=0)
    _, _, axes = np.linalg.svd(together - middle, full_matrices=False)
    a, b = (old.vectors - middle) @ axes[:2].T, (new.vectors - middle) @ axes[:2].T
    routes = list(dict.fromkeys((*after.parameters.routes, *before.parameters.routes)))
    colours = mpl.colormaps["tab20"](np.arange(len(routes)) % _MOST_NAMED)
    was, now = _owners(before, routes), _owners(after, routes)
    angle, partner = partners(new.vectors, old.vectors)
    moved = np.flatnonzero(angle <= SAME_WITHIN_DEGREES)
    for start, end, colour in zip(a[partner[moved]], b[moved], colours[now[moved]], strict=True):
        ax.plot(*zip(start, end, strict=True), color=colour, linewidth=1, alpha=0.7)
    ax.scatter(a[:, 0], a[:, 1], marker="x", s=22, color=colours[was], alpha=0.6, linewidths=1)
    mass = np.bincount(now, weights=new.mass, minlength=len(routes))
    size = 14 + 60 * new.mass / max(float(new.mass.max(initial=0.0)), 1e-9)
    for route in range(len(routes)):
        rows = now == route
        named = rows.any() and (mass > mass[route]).sum() < _MOST_NAMED
        label = f" {routes[route]}" if named else None  # one that begins with _ would be left out
        ax.scatter(b[rows, 0], b[rows, 1], s=size[rows], color=colours[route], alpha=0.8, label=label, linewidths=0)
    ax.set_xlabel("first principal direction (crosses: before; dots: after; lines: the same centroid)")
    ax.set_ylabel("second principal direction")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _owners(version: RouterVersion, routes: list[str]) -> npt.NDArray[np.int64]:
    """(M,) for each centroid the place of its owner in ``routes``."""
    place = np.array([routes.index(name) for name in version.parameters.routes], dtype=np.int64)
    owners: npt.NDArray[np.int64] = place[version.centroids.owners.argmax(axis=1)]
    return owners


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
