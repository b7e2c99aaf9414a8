"""From a window and the incumbent to new centroids and parameters: steps 3 and 4 of a night."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from learner.centroid_shift import move_centroids, nearest
from learner.estimates import Estimates, Rates, estimate_rates, log_likelihood, prior_rates, user_reliability
from learner.evidence import Evidence, Floats, capped_weights, gather_evidence
from learner.first_version import calibrated_threshold
from learner.follow_ups import find_follow_ups
from learner.owners import Near, gather, own, truth_of
from learner.seeds import Embedder, Seeds, embed_seeds, seed_posterior
from learner.settings import LearnerSettings
from learner.window import Window
from router.decide import Router, decide_many
from router.version import Array, Centroids, RouterParameters, RouterVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedCentroids:
    """A candidate's centroids and parameters with what the night believed.

    ``churn`` is the share of last week's queries that change route, ``step`` (0..1) how much of the shift the trust
    region let through, ``flips`` how many centroids changed owner.
    """

    centroids: Centroids
    parameters: RouterParameters
    estimates: Estimates
    churn: float
    step: float
    flips: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Belief:
    owners: Array
    truth: Array
    rates: Rates
    weight: Floats


def learn_centroids(
    window: Window, incumbent: RouterVersion, *, encoder: Embedder, settings: LearnerSettings, seed: int = 0
) -> LearnedCentroids:
    """Learn centroids and their owners from everything that the window says.

    Args:
        window: questions, votes and sessions; any order of votes gives the same result.
        incumbent: what serves now; its centroids are where the shift starts.
        encoder: embeds the operator's examples; must be the one of the window's embeddings.
        settings: what the night goes by.
        seed: of the draw of new centroids.
    """
    routes = incumbent.parameters.routes
    follow_ups = find_follow_ups(window, similarity=settings.reask_similarity, minutes=settings.follow_up_minutes)
    evidence = gather_evidence(window, follow_ups, routes=routes)
    seeds = embed_seeds(incumbent.fleet, encoder=encoder)
    X = np.concatenate([window.embeddings[evidence.first_unit], seeds.X]).astype(np.float32)
    count = int(np.clip(len(X) / settings.questions_per_centroid, settings.fewest_centroids, _most(settings, routes)))
    vectors = move_centroids(
        X, np.ones(len(X), np.float32), incumbent.centroids.vectors, count=count, settings=settings, seed=seed
    )
    near = _near(X, vectors, settings=settings)
    belief = _believe(window, evidence, near, seeds, vectors, X=X, settings=settings)
    mass = np.bincount(near.ids[:, 0], minlength=len(vectors)).astype(np.float32)
    kept = mass > 0
    centroids = Centroids(vectors=vectors[kept], owners=belief.owners[kept], mass=mass[kept])
    parameters = replace(
        incumbent.parameters,
        success=tuple(float(s) for s in belief.rates.success),
        wrong_route_success=belief.rates.wrong_success,
        beta=settings.beta,
        neighbours=settings.neighbours,
        abstain_below=calibrated_threshold(nearest(X, centroids.vectors, count=1)[0][:, 0]),
    )
    return LearnedCentroids(
        centroids=centroids,
        parameters=parameters,
        estimates=_report(window, evidence, belief, follow_ups.question, routes=routes),
        churn=_churn(
            window, incumbent, replace(incumbent, centroids=centroids, parameters=parameters), settings=settings
        ),
        step=1.0,
        flips=0,
    )


def _most(settings: LearnerSettings, routes: tuple[str, ...]) -> int:
    return max(settings.most_centroids, 3 * len(routes))


def _near(X: Array, vectors: Array, *, settings: LearnerSettings) -> Near:
    cosines, ids = nearest(X, vectors, count=settings.neighbours)
    return Near(ids=ids, pull=np.exp(np.float32(settings.beta) * (cosines - cosines[:, :1])))


def _believe(
    window: Window, evidence: Evidence, near: Near, seeds: Seeds, vectors: Array, *, X: Array, settings: LearnerSettings
) -> _Belief:
    """Truth of the questions, owners of the centroids, rates and reliability, in turn."""
    Q, R, votes = len(evidence.first_unit), len(seeds.means), evidence.votes
    seeded = seed_posterior(seeds, X, sharpness=settings.seed_sharpness)
    shares = near.pull / near.pull.sum(axis=1, keepdims=True)
    log_seed = _weighted_mean(near, shares, np.log(np.maximum(seeded, 1e-6)), centroids=len(vectors))
    neighbours = nearest(vectors, vectors, count=5)[1][:, 1:]
    weight = capped_weights(
        votes, nearest=near.ids[votes.question, 0], night=_nights(window)[votes.row], cap=settings.votes_per_user
    )
    rates = prior_rates(settings, routes=R, users=len(votes.users))
    owners = np.exp(log_seed)
    owners = np.asarray(owners / owners.sum(axis=1, keepdims=True), dtype=np.float32)
    example = _example_evidence(seeds, routes=R, settings=settings)
    truth = seeded
    for _ in range(settings.em_rounds):
        said = log_likelihood(evidence, weight, rates, settings=settings, shape=(Q, R))
        said = np.concatenate([said, example])
        owners = own(near, owners, said, log_seed, neighbours=neighbours, settings=settings)
        truth = truth_of(near, owners, said)
        reliability = user_reliability(evidence, truth, rates)
        rates = estimate_rates(evidence, truth, weight, settings=settings, reliability=reliability)
    return _Belief(owners=owners, truth=truth, rates=rates, weight=weight)


def _weighted_mean(near: Near, shares: Array, values: Array, *, centroids: int) -> npt.NDArray[np.float64]:
    ones = np.ones((len(values), 1), np.float32)
    total = gather(near, shares, np.concatenate([values, ones], axis=1), centroids=centroids)
    return np.asarray(total[:, :-1] / np.maximum(total[:, -1:], 1e-9))


def _example_evidence(seeds: Seeds, *, routes: int, settings: LearnerSettings) -> Array:
    """Operator's examples say their own route with ``example_confidence``, (S, R)."""
    said = np.zeros((len(seeds.X), routes), np.float32)
    c = settings.example_confidence
    said[np.arange(len(said)), seeds.route] = np.log(c * max(routes - 1, 1) / (1 - c))
    return said


def _nights(window: Window) -> npt.NDArray[np.int64]:
    """The day in which each vote was received, counted back from the watermark."""
    age = window.watermark - window.votes["received_at"]
    return (age.dt.total_seconds() // 86400).to_numpy(dtype=np.int64)


def _churn(window: Window, old: RouterVersion, new: RouterVersion, *, settings: LearnerSettings) -> float:
    age = (window.watermark - window.units["occurred_at"]).dt.total_seconds().to_numpy()
    recent = window.embeddings[age <= settings.churn_days * 86400]
    if len(recent) == 0:
        return 0.0
    before, after = decide_many(Router(old), recent, explore=False), decide_many(Router(new), recent, explore=False)
    return float(np.mean(before.route != after.route))


def _report(
    window: Window, evidence: Evidence, belief: _Belief, question: npt.NDArray[np.int64], *, routes: tuple[str, ...]
) -> Estimates:
    votes, rates, R = evidence.votes, belief.rates, len(routes)
    p = belief.truth[votes.question, votes.route].astype(np.float64)
    s, u = rates.success[votes.route], rates.wrong_success
    wrong = (1 - p) * (1 - u) / ((1 - p) * (1 - u) + p * (1 - s))
    feedback = window.votes["feedback_id"].to_numpy()
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
        posteriors=belief.truth[question],
        wrong_route_given_down={str(feedback[votes.row[v]]): float(wrong[v]) for v in down},
        reliability=dict(zip(votes.users, map(float, rates.reliability), strict=True)),
    )
