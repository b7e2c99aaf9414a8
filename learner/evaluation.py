"""Is the candidate better than the incumbent? Cross-fitted, doubly robust, on what was logged."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from learner.correctness import Correctness
from learner.estimators import Flags, Floats, cluster_bootstrap_t, weighted_mean
from learner.settings import LearnerSettings
from learner.window import Window
from router.decide import Choices, Router, decide_many
from router.version import RouterVersion

Learn = Callable[[Window], RouterVersion]
_NEARLY_ONE = 0.98
# Asked again, a question is one whose first answer was probably wrong: counting it would favour whatever is new.
_BY_THE_QUESTION = ("centroid", "explored", "abstained")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Candidate minus incumbent, in points of accuracy (100 x probability) over all traffic.

    ``evidence`` is how many votes the disagreement carries (re-asks count as parts of a vote), ``disagreement`` the
    share of queries that would go elsewhere, ``low`` and ``high`` one-sided 90 % bounds, ``n`` the queries compared.
    """

    estimate: float
    low: float
    high: float
    n: int
    disagreement: float
    evidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything that the gate looks at. Shares are 0..1; cost is US dollars a query, latency milliseconds."""

    overall: Difference
    per_route: dict[str, Difference]
    examples_right: float
    examples_right_before: float
    largest_share: float
    largest_share_before: float
    cost: float
    cost_before: float
    latency_ms: float
    latency_ms_before: float
    splitter_f1: float | None = None
    splitter_f1_before: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Per unit: the incumbent's and the candidate's routes, the two parts of phi (n,), the weight of its evidence (n,).

    ``fresh`` (n,) are the units that a router decides by the question alone; the others are left out.
    """

    before: npt.NDArray[np.int64]
    after: npt.NDArray[np.int64]
    model: Floats
    correction: Floats
    weight: Floats
    session: npt.NDArray[np.int64]
    fresh: npt.NDArray[np.bool_]


def session_folds(window: Window, *, folds: int) -> npt.NDArray[np.int64]:
    """Number each unit's fold by a hash of its session, so that what belongs together is never parted."""
    session = window.units["session_id"].where(window.units["session_id"].notna(), window.units["inference_id"])
    return np.array([int.from_bytes(_hash(str(s)), "big") % folds for s in session], dtype=np.int64)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8]


def part_of(window: Window, keep: npt.NDArray[np.bool_]) -> Window:
    """Return the window with the units in ``keep`` and the votes on them."""
    units = window.units[keep].reset_index(drop=True)
    votes = window.votes[window.votes["inference_id"].isin(units["inference_id"])].reset_index(drop=True)
    return Window(
        units=units,
        embeddings=window.embeddings[keep],
        votes=votes,
        start=window.start,
        watermark=window.watermark,
    )


def compare_on_log(
    window: Window, incumbent: RouterVersion, correctness: Correctness, *, learn: Learn, settings: LearnerSettings
) -> Comparison:
    """Compare by folds: each fold's units are judged by a candidate that never saw them nor their votes.

    With g and h the greedy routes of the fold's candidate and of the incumbent, a the logged one, p the fold candidate's
    posterior and Y the unbiased correctness of a: phi = p(g|x) - p(h|x) + slope (Y - p(a|x)), doubly robust in form.
    The slope says what it means for g and h that a was right or wrong when one route is right: what a loses, the others
    share as the model says (see docs/decisions). Weighting by 1/pi instead would hear of g only where it was explored.
    Dudik, Langford and Li 2011; cross-fitted as in Chernozhukov et al. 2018.
    """
    n = len(window.units)
    fold = session_folds(window, folds=settings.folds)
    old = _choices(incumbent, window)
    after, model, correction = np.zeros(n, np.int64), np.zeros(n), np.zeros(n)
    logged = _positions(window, incumbent)
    for k in range(settings.folds):
        rows = np.flatnonzero(fold == k)
        if len(rows) == 0:
            continue
        candidate = learn(part_of(window, fold != k))
        new = _choices(candidate, part_of(window, fold == k))
        P = new.probabilities
        g, h, a = new.route, old.route[rows], logged[rows]
        at = np.arange(len(rows))
        after[rows] = g
        model[rows] = P[at, g] - P[at, h]
        p = P[at, np.maximum(a, 0)]
        correction[rows] = (a >= 0) * (correctness.value[rows] - p) * _slope(P[at, g], P[at, h], p, a == g, a == h)
    return Comparison(
        before=old.route,
        after=after,
        model=model,
        correction=correction,
        weight=correctness.precision * _recency(window, settings),
        session=_clusters(window),
        fresh=window.units["cause"].isin(_BY_THE_QUESTION).to_numpy(),
    )


def _slope(p_g: Floats, p_h: Floats, p_a: Floats, is_g: Flags, is_h: Flags) -> Floats:
    """d(p(g) - p(h)) / d p(a) when the other routes share 1 - p(a) in proportion, (n,).

    a = h: -(1 + p(g) / (1 - p(h))); a = g: 1 + p(h) / (1 - p(g)); another a: -(p(g) - p(h)) / (1 - p(a)).
    """
    rest = 1 - np.minimum(p_a, _NEARLY_ONE)
    slope = -(p_g - p_h) / rest
    slope = np.where(is_h, -(1 + np.minimum(p_g / rest, 1)), slope)
    slope = np.where(is_g, 1 + np.minimum(p_h / rest, 1), slope)
    return np.where(is_g & is_h, 0.0, slope)


def difference(comparison: Comparison, *, rows: npt.NDArray[np.bool_], settings: LearnerSettings) -> Difference:
    """Estimate candidate minus incumbent over the units in ``rows``, in points.

    The model's part is averaged over the whole disagreement, the correction over what was judged there (judged or not
    is taken as random given the route): estimate = share of disagreement x (mean model + weighted mean correction).
    """
    rows = rows & comparison.fresh
    n = int(rows.sum())
    apart = rows & (comparison.before != comparison.after)
    share = float(apart.sum()) / max(n, 1)
    weight = comparison.weight[apart]
    if share == 0 or weight.sum() <= 0:
        model = float(comparison.model[apart].mean()) if share else 0.0
        bound = 0.0 if share == 0 else float("inf")
        return Difference(
            estimate=100 * share * model,
            low=-bound if bound else 0.0,
            high=bound,
            n=n,
            disagreement=share,
            evidence=0.0,
        )
    _, session = np.unique(comparison.session[apart], return_inverse=True)
    center = float(comparison.model[apart].mean())
    value = comparison.correction[apart] + center
    low, high = cluster_bootstrap_t(value, weight, session, level=settings.gate_level, seed=settings.seed)
    return Difference(
        estimate=100 * share * weighted_mean(value, weight),
        low=100 * share * low,
        high=100 * share * high,
        n=n,
        disagreement=share,
        evidence=float(weight.sum()),
    )


def evaluate(
    window: Window,
    incumbent: RouterVersion,
    candidate: RouterVersion,
    comparison: Comparison,
    *,
    examples: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]],
    settings: LearnerSettings,
) -> Evaluation:
    """Gather what the gate looks at. ``examples`` are the operator's: embeddings (S, D) and routes (S,)."""
    everywhere = np.ones(len(window.units), bool)
    routes = incumbent.parameters.routes
    per_route = {
        route: difference(comparison, rows=(comparison.before == i) | (comparison.after == i), settings=settings)
        for i, route in enumerate(routes)
        if ((comparison.before == i) | (comparison.after == i)).any()
    }
    old, new = _choices(incumbent, window), _choices(candidate, window)
    lengths = window.units["text"].fillna("").str.len().to_numpy()
    return Evaluation(
        overall=difference(comparison, rows=everywhere, settings=settings),
        per_route=per_route,
        examples_right=_right(candidate, *examples),
        examples_right_before=_right(incumbent, *examples),
        largest_share=_largest_share(new.route),
        largest_share_before=_largest_share(old.route),
        cost=_mean_of(candidate.parameters.cost, candidate, new.route, lengths),
        cost_before=_mean_of(candidate.parameters.cost, candidate, old.route, lengths),
        latency_ms=_mean_of(candidate.parameters.latency_ms, candidate, new.route, lengths),
        latency_ms_before=_mean_of(candidate.parameters.latency_ms, candidate, old.route, lengths),
    )


def _choices(version: RouterVersion, window: Window) -> Choices:
    texts = window.units["text"]
    named = None if texts.isna().any() else texts.tolist()
    return decide_many(Router(version), window.embeddings, texts=named, explore=False)


def _positions(window: Window, version: RouterVersion) -> npt.NDArray[np.int64]:
    position = {route: i for i, route in enumerate(version.parameters.routes)}
    return np.asarray(window.units["route"].map(lambda route: position.get(route, -1)), dtype=np.int64)


def _recency(window: Window, settings: LearnerSettings) -> Floats:
    age = (window.watermark - window.units["occurred_at"]).dt.total_seconds().to_numpy() / 86_400
    return np.asarray(0.5 ** (np.maximum(age, 0) / settings.evidence_half_life_days), dtype=np.float64)


def _clusters(window: Window) -> npt.NDArray[np.int64]:
    session = window.units["session_id"].where(window.units["session_id"].notna(), window.units["inference_id"])
    return np.asarray(np.unique(session.to_numpy(dtype=str), return_inverse=True)[1], dtype=np.int64)


def _right(version: RouterVersion, X: npt.NDArray[np.float32], route: npt.NDArray[np.int64]) -> float:
    if len(X) == 0:
        return 1.0
    return float(np.mean(decide_many(Router(version), X, explore=False).route == route))


def _largest_share(route: npt.NDArray[np.int64]) -> float:
    return float(np.bincount(route).max() / len(route)) if len(route) else 0.0


def _mean_of(
    table: tuple[tuple[float, ...], ...],
    version: RouterVersion,
    route: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
) -> float:
    bins = np.digitize(lengths, version.parameters.length_bins)
    values = np.array(table)
    return float(values[route, np.minimum(bins, values.shape[1] - 1)].mean()) if len(route) else 0.0
