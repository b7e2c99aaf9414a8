"""What splitting spends: SLM calls a query by the version that serves and by the candidate."""

import numpy as np

from learner.splitter_training import HiddenEncoder
from learner.window import Window
from router.decide import Router, decide_by_itself
from router.version import RouterVersion

_SAMPLED = 200


def calls_per_query(
    window: Window, before: RouterVersion, after: RouterVersion, *, encoder: HiddenEncoder
) -> dict[str, float]:
    """SLM calls a query on a sample of the window's queries.

    Returns:
        ``n`` queries, ``before`` and ``after`` in calls a query; nothing where no text is kept.
    """
    texts = window.units["query"].dropna().unique()
    if not len(texts):
        return {}
    sample = [str(text) for text in texts[np.linspace(0, len(texts) - 1, min(_SAMPLED, len(texts))).astype(np.int64)]]
    encodings = encoder.encode(sample, hidden=True)
    found = {"n": float(len(sample))}
    for name, version in (("before", before), ("after", after)):
        router = Router(version)
        calls = [
            len(decide_by_itself(router, text, encoding, encode=encoder.encode).segments)
            for text, encoding in zip(sample, encodings, strict=True)
        ]
        found[name] = float(np.mean(calls))
    return found
