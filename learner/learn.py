"""From a window and the incumbent to new centroids and parameters: steps 3 and 4 of a night.

``learn_centroids`` says what the window teaches, ``within_limits`` how much of it one night may change.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from learner.abstention import abstention_threshold
from learner.centroid_shift import distinct, nearest, shift_centroids
from learner.estimates import (
    Estimates,
    Rates,
    estimate_rates,
    log_likelihood,
    prior_estimates,
    prior_rates,
    user_reliability,
)
from learner.evidence import Evidence, capped_weights, gather_evidence
from learner.first_version import seed_centroids
from learner.follow_ups import find_follow_ups
from learner.model_fleet import find_places, learn_values, value_estimates
from learner.owners import bounded
from learner.seeds import SAME, Embedder, Seeds, embed_seeds, seed_posterior, spoken
from learner.settings import LearnerSettings
from learner.trust_region import hold_back
from learner.truth import Draw, average, draw_clusters, first_owned, improve, softmax
from learner.window import Window
from router.decide import Router, route_posteriors
from router.fleet import Fleet
from router.version import Array, Centroids, RouterParameters, RouterVersion

_SAMPLED = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedCentroids:
    """What a window teaches: ``version`` is the incumbent with the centroids and parameters that follow from it.

    ``sample`` (n, D) are some of its questions, by which the readiness to explore is set.
    """

    version: RouterVersion
    estimates: Estimates
    evidence: Evidence
    sample: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldCentroids:
    """A candidate within the limits of one night.

    ``churn`` is the share of last week's queries that change route, ``step`` (0..1) how much of the shift the trust
    region let through, ``flips`` how many centroids changed owner, ``flips_refused`` how many were kept from it.
    """

    centroids: Centroids
    parameters: RouterParameters
    estimates: Estimates
    churn: float
    step: float
    flips: int
    flips_refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Belief:
    """Truth (Q, R) of the questions with all that was said of each, truth (Q + S, R) by place as of now, and rates."""

    heard: Array
    located: Array
    rates: Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a night learns from, whatever part of the evidence is heard.

    ``X`` (Q + S, D) are the questions and the operator's examples, ``draws`` their clusterings, which know of no vote.
    """

    window: Window
    question: npt.NDArray[np.int64]
    evidence: Evidence
    seeds: Seeds
    X: Array
    draws: tuple[Draw, ...]
    seed: int
    places: tuple[Array, ...] = ()


def prepare(
    window: Window, incumbent: RouterVersion, *, encoder: Embedder, settings: LearnerSettings, seed: int = 0
) -> Material:
    """Find questions and what was said of them, and cluster them.

    Args:
        window: questions, votes and sessions; any order of votes gives the same result.
        incumbent: whose fleet and routes these are.
        encoder: embeds the operator's examples; must be the one of the window's embeddings.
        settings: what the night goes by.
        seed: of the draws of clusters.
    """
    follow_ups = find_follow_ups(window, similarity=settings.reask_similarity, minutes=settings.follow_up_minutes)
    evidence = gather_evidence(window, follow_ups, routes=incumbent.parameters.routes)
    seeds = embed_seeds(incumbent.fleet, encoder=encoder)
    X = np.concatenate([window.embeddings[evidence.first_unit], seeds.X]).astype(np.float32)
    days, of_models = _days(window, evidence, incumbent.fleet), incumbent.fleet.of_models
    domains, models = len(X) > 0 and not of_models, len(X) > 0 and of_models
    return Material(
        window=window,
        question=follow_ups.question,
        evidence=evidence,
        seeds=seeds,
        X=X,
        draws=draw_clusters(X, days, routes=len(seeds.means), settings=settings, seed=seed) if domains else (),
        seed=seed,
        places=find_places(
            X, incumbent.centroids.vectors, routes=len(incumbent.fleet.routes), settings=settings, seed=seed
        )
        if models
        else (),
    )


def learn_centroids(
    material: Material,
    incumbent: RouterVersion,
    *,
    settings: LearnerSettings,
    unheard: npt.NDArray[np.bool_] | None = None,
) -> LearnedCentroids:
    """Learn centroids and their owners from everything that was said.

    Args:
        material: of the window.
        incumbent: what serves now; its centroids are where the shift starts.
        settings: what the night goes by.
        unheard: (n,) units of the window about which nothing said is heard, to be judged by later.
    """
    routes, X, seeds = incumbent.parameters.routes, material.X, material.seeds
    evidence = material.evidence if unheard is None else material.evidence.without(unheard)
    if len(X) == 0:
        estimates = prior_estimates(settings, routes=routes)
        return LearnedCentroids(version=incumbent, estimates=estimates, evidence=evidence, sample=X)
    if incumbent.fleet.of_models:
        return _learn_models(material, evidence, incumbent, settings=settings)
    belief = _believe(material, evidence, settings=settings)
    questions = X[: len(evidence.first_unit)]
    often = len(distinct(X)) / settings.questions_per_centroid
    count = int(np.clip(often, settings.fewest_centroids, _most(settings, routes)))
    shifted = shift_centroids(
        questions,
        belief.located[: len(questions)],
        _without(incumbent.centroids, seeds),
        count=count,
        settings=settings,
        seed=material.seed,
    )
    centroids = _joined(shifted, seed_centroids(seeds, seed_posteriors=belief.located[len(questions) :]))
    known = np.concatenate([belief.heard, belief.located[len(questions) :]])
    abstain_below = abstention_threshold(
        X,
        np.float32(1) - known[:, routes.index(incumbent.fleet.fallback)],
        count=3 * len(centroids.vectors),
        silent_fallback=seeds.otherwise is not None,
    )
    candidate = replace(
        incumbent,
        centroids=centroids,
        parameters=_parameters(incumbent.parameters, belief.rates, abstain_below=abstain_below, settings=settings),
    )
    return LearnedCentroids(
        version=candidate,
        estimates=_report(material, evidence, belief, routes=routes),
        evidence=evidence,
        sample=X[:: max(1, len(X) // _SAMPLED)],
    )


def _learn_models(
    material: Material, evidence: Evidence, incumbent: RouterVersion, *, settings: LearnerSettings
) -> LearnedCentroids:
    """As ``learn_centroids`` where any route may serve any question."""
    window = material.window
    version, surface = learn_values(window, evidence, incumbent, places=material.places, settings=settings)
    return LearnedCentroids(
        version=version,
        estimates=value_estimates(window, evidence, material.question, surface, version),
        evidence=evidence,
        sample=material.X[:0],
    )


def within_limits(
    learned: LearnedCentroids, incumbent: RouterVersion, window: Window, *, settings: LearnerSettings
) -> HeldCentroids:
    """Hold what was learned of ``window`` to the trust region and set how readily the result explores."""
    held = hold_back(learned.version, incumbent, window, learned.evidence, settings=settings)
    return HeldCentroids(
        centroids=held.version.centroids,
        parameters=held.version.parameters
        if incumbent.fleet.of_models
        else _with_exploration(held.version, learned.sample, settings=settings),
        estimates=learned.estimates,
        churn=held.churn,
        step=held.step,
        flips=held.flips,
        flips_refused=held.flips_refused,
    )


def _most(settings: LearnerSettings, routes: tuple[str, ...]) -> int:
    return max(settings.most_centroids, 3 * len(routes))


def _without(centroids: Centroids, seeds: Seeds) -> Centroids:
    """Yesterday's centroids but for the examples' own, which are not moved."""
    if len(seeds.X) == 0 or len(centroids.vectors) == 0:
        return centroids
    other = nearest(centroids.vectors, seeds.X, count=1)[0][:, 0] < SAME
    return Centroids(vectors=centroids.vectors[other], owners=centroids.owners[other], mass=centroids.mass[other])


def _joined(shifted: Centroids, examples: Centroids) -> Centroids:
    """Every operator's example stays a centroid of its own, so that it keeps its route."""
    return Centroids(
        vectors=np.concatenate([shifted.vectors, examples.vectors]),
        owners=np.concatenate([shifted.owners, examples.owners]),
        mass=np.concatenate([shifted.mass, examples.mass]),
    )


def _parameters(
    old: RouterParameters, rates: Rates, *, abstain_below: float, settings: LearnerSettings
) -> RouterParameters:
    """The candidate's numbers. All routes share one success in the utility, each one's own is in the report.

    A bad SLM is a matter for its owner: to send its questions to a route that they do not belong to helps nobody, and
    what little more its answers tell about who is right must not be taken for a reason to avoid it.
    """
    return replace(
        old,
        success=(float(np.mean(rates.success)),) * len(old.routes),
        wrong_route_success=rates.wrong_success,
        beta=settings.beta,
        neighbours=settings.neighbours,
        reask_floor=settings.reask_floor,
        reask_similarity=settings.reask_similarity,
        abstain_below=abstain_below,
    )


def _with_exploration(version: RouterVersion, X: Array, *, settings: LearnerSettings) -> RouterParameters:
    """Set kappa so that mean min(1/2, kappa (1 - max p)) over the questions is ``explore_share``, by bisection."""
    doubt = 1.0 - route_posteriors(Router(version), X).max(axis=1) if len(X) else np.zeros(1)
    low, high = 0.0, settings.most_explore_kappa
    for _ in range(30):
        middle = (low + high) / 2
        enough = np.minimum(0.5, middle * doubt).mean() >= settings.explore_share
        low, high = (low, middle) if enough else (middle, high)
    return replace(version.parameters, explore_kappa=high)


def _believe(material: Material, evidence: Evidence, *, settings: LearnerSettings) -> _Belief:
    """Expectation maximisation: owners of every draw's clusters, truth of the questions, rates and reliability."""
    seeds, draws, votes = material.seeds, material.draws, evidence.votes
    Q, R = len(evidence.first_unit), len(seeds.means)
    seeded = seed_posterior(seeds, material.X, sharpness=settings.seed_sharpness)
    example = _example_evidence(seeds, routes=R, settings=settings)
    place = draws[0].fine.ids[votes.question, 0]
    weight = capped_weights(votes, nearest=place, night=votes.day, settings=settings)
    rates = prior_rates(settings, routes=R, users=len(votes.users))
    rates = estimate_rates(evidence, seeded, weight, settings=settings, reliability=rates.reliability)
    owned = tuple(first_owned(draw, seeded, settings=settings) for draw in draws)
    hazard = np.full(draws[0].fine.days, settings.hazard)
    heard = seeded
    for _ in range(settings.em_rounds):
        said = np.concatenate([log_likelihood(evidence, weight, rates, settings=settings, shape=(Q, R)), example])
        owned, hazard = improve(
            draws, owned, bounded(said, seeded, purity=settings.purity), seeded, hazard=hazard, settings=settings
        )
        heard = softmax(np.log(average(draws, owned, last_day=False)) + said)
        reliability = user_reliability(evidence, heard, rates)
        rates = estimate_rates(evidence, heard, weight, settings=settings, reliability=reliability)
    located = average(draws, owned, last_day=True)
    located[Q:] = softmax(np.log(located[Q:]) + example)
    return _Belief(heard=heard[:Q], located=located, rates=rates)


def _days(window: Window, evidence: Evidence, fleet: Fleet) -> npt.NDArray[np.int64]:
    """The day of each question and example, counted from the window's first.

    An example says what was so when it was written, so what was said since may contradict it; a new one belongs to the
    last day.
    """
    examples = spoken(fleet)
    if len(window.units) == 0:
        return np.zeros(len(examples), np.int64)
    asked = window.units["occurred_at"].iloc[evidence.first_unit]
    since = pd.Series([window.since.get(example) for example in examples], dtype=asked.dtype)
    age = (window.watermark - pd.concat([asked, since])).dt.total_seconds().fillna(0.0).to_numpy()
    age = np.clip(age // 86400, 0, age[: len(asked)].max() // 86400).astype(np.int64)
    return np.asarray(age.max() - age)


def _example_evidence(seeds: Seeds, *, routes: int, settings: LearnerSettings) -> Array:
    """Operator's examples say their own route with ``example_confidence``, (S, R)."""
    said = np.zeros((len(seeds.X), routes), np.float32)
    c = settings.example_confidence
    said[np.arange(len(said)), seeds.route] = np.log(c * max(routes - 1, 1) / (1 - c))
    return said


def _report(material: Material, evidence: Evidence, belief: _Belief, *, routes: tuple[str, ...]) -> Estimates:
    votes, rates, R = evidence.votes, belief.rates, len(routes)
    p = belief.heard[votes.question, votes.route].astype(np.float64)
    s, u = rates.success[votes.route], rates.wrong_success
    wrong = (1 - p) * (1 - u) / ((1 - p) * (1 - u) + p * (1 - s))
    feedback = material.window.votes["feedback_id"].to_numpy()
    down = np.flatnonzero(~votes.up)
    own_votes = np.bincount(votes.route, weights=p, minlength=R)
    own_downs = np.bincount(votes.route, weights=p * ~votes.up, minlength=R)
    return Estimates(
        routes=routes,
        success=tuple(map(float, rates.success)),
        wrong_route_success=rates.wrong_success,
        reask_when_right=tuple(map(float, rates.reask_right)),
        reask_when_wrong=rates.reask_wrong,
        own_down_share=tuple(map(float, own_downs / np.maximum(own_votes, 1e-9))),
        votes=tuple(map(int, np.bincount(votes.route, minlength=R))),
        thumbs_down=tuple(map(int, np.bincount(votes.route[down], minlength=R))),
        posteriors=belief.heard[material.question],
        wrong_route_given_down={str(feedback[votes.row[v]]): float(wrong[v]) for v in down},
        reliability=dict(zip(votes.users, map(float, rates.reliability), strict=True)),
    )
