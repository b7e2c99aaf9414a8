"""LiteLLM's adaptive router on a replay, by its own package, in an environment of its own.

Its classifier of questions and its Thompson sampling of a Beta posterior for each kind of question and model, with
every model in the middle tier. It reads satisfaction from conversations; here the thumb that Trimtab sees takes that
place: up is one success, down one failure. It goes on learning while it is scored. Reads a .npz, prints JSON.
"""

import json
import random
import sys
from typing import Any

import numpy as np
from litellm.router_strategy.adaptive_router.bandit import (  # type: ignore[import-not-found]
    apply_delta,
    initial_cell,
    pick_best,
)
from litellm.router_strategy.adaptive_router.classifier import classify_prompt  # type: ignore[import-not-found]
from litellm.types.router import AdaptiveRouterPreferences  # type: ignore[import-not-found]

# Its default is .3; the middle tier is what a model without preferences gets.
COST_WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
_MIDDLE_TIER = 2


def main(path: str) -> None:
    """Run every cost weight on the replay at ``path`` and print [{name, reward, cost, shares}]."""
    data = dict(np.load(path))
    models = [str(model) for model in data["models"]]
    kinds = {int(row): classify_prompt(str(data["texts"][row])) for row in (*data["stream"], *data["score"])}
    found = [{"name": f"litellm@{w:g}", **_replay(data, models, kinds, weight=w)} for w in COST_WEIGHTS]
    print(json.dumps(found))


def _replay(data: Any, models: list[str], kinds: dict[int, Any], *, weight: float) -> dict[str, Any]:
    rng = random.Random(int(data["seed"]))
    preferences = AdaptiveRouterPreferences(quality_tier=_MIDDLE_TIER, strengths=[])
    cells = {(kind, m): initial_cell(preferences, kind) for kind in set(kinds.values()) for m in models}
    prices = dict(zip(models, map(float, data["prices"].mean(axis=1)), strict=True))
    order = np.random.default_rng(int(data["seed"])).permutation(data["score"])
    chosen = []
    for row in map(int, (*data["stream"], *order)):
        kind = kinds[row]
        offered = {m: cells[kind, m] for m in models}
        name = pick_best(offered, prices, quality_weight=1 - weight, cost_weight=weight, rng=rng)
        chosen.append(models.index(name))
        up = bool(data["reward"][row, chosen[-1]] >= float(data["pleased_from"]))
        cells[kind, name] = apply_delta(cells[kind, name], float(up), float(not up))
    scored = np.array(chosen[len(data["stream"]) :])
    return {
        "reward": float(data["reward"][order, scored].mean()),
        "cost": float(data["cost"][order, scored].mean()),
        "shares": (np.bincount(scored, minlength=len(models)) / len(scored)).tolist(),
    }


if __name__ == "__main__":
    main(sys.argv[1])
