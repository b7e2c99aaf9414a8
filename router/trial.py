"""A version is tried before it decides for anybody."""

import numpy as np

from router.artifact import DamagedArtifact
from router.decide import Router, decide_many
from router.decision import Policy
from router.rules import BadPattern
from router.version import RouterVersion

_TRIED = 16


def open_router(version: RouterVersion, *, policy: Policy = "cost_aware") -> Router:
    """Make a version ready to decide, and let it decide for some of its centroids as if they were queries.

    Raises:
        DamagedArtifact: a keyword cannot be compiled, a score is not finite, or probabilities do not sum to one.
    """
    try:
        router = Router(version, policy=policy)
    except BadPattern as error:
        raise DamagedArtifact("fleet.json", f"a keyword cannot be compiled: {error}") from None
    X = version.centroids.vectors[:_TRIED]
    if len(X):
        choices = decide_many(router, X)
        finite = np.isfinite(choices.probabilities).all() and np.isfinite(choices.utilities).all()
        sums = np.concatenate([choices.probabilities.sum(axis=1), choices.propensities.sum(axis=1)])
        if not finite or not np.allclose(sums, 1.0, atol=1e-6):
            raise DamagedArtifact("centroids.safetensors", "trial queries score with numbers that make no sense")
    return router
