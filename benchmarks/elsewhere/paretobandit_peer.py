"""ParetoBandit on a replay, by its own package, in an environment of its own.

As its authors do (experiments/01_stationary_budget_pacing of github.com/ParetoBandit/ParetoBandit): it learns online on
the stream, then is scored on the test split while it goes on learning, and sees the exact reward and cost of each
answer. Static cost penalties, then budgets for the pacer. Reads a .npz, prints JSON. Needs numpy and paretobandit only.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pareto_bandit.budget_pacer import BudgetPacer, PacingMode  # type: ignore[import-not-found]
from pareto_bandit.config import (  # type: ignore[import-not-found]
    BEST_K3_HPARAMS,
    BEST_K3_TABULA_RASA_HPARAMS,
    DEFAULT_PCA_PATH,
    DEFAULT_WARMUP_PRIORS_PATH,
)
from pareto_bandit.feature_service import FeatureService  # type: ignore[import-not-found]
from pareto_bandit.router import BanditRouter  # type: ignore[import-not-found]

PENALTIES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
BUDGETS = 7
# The models that the package brings priors for, learned from 8,374 questions with every model's reward known.
WARM = {"meta-llama/llama-3.1-8b-instruct", "mistralai/mistral-large-2512", "google/gemini-2.5-pro"}


def main(path: str) -> None:
    """Run every setting on the replay at ``path`` and print [{name, reward, cost, shares}]."""
    logging.disable(logging.WARNING)
    data = dict(np.load(path))
    models = [str(model) for model in data["models"]]
    means = data["cost"][data["stream"]].mean(axis=0)
    budgets = np.geomspace(max(means.min(), 1e-9), means.max(), BUDGETS)
    features = _features(data["X"])
    found = []
    starts = ("cold", "warm") if set(models) >= WARM and features.shape[1] == 26 else ("cold",)
    for start in starts:
        for penalty in PENALTIES:
            result = _replay(data, models, features, start=start, penalty=penalty, pacer=None)
            found.append({"name": f"paretobandit_{start}@{penalty:g}", **result})
        for budget in budgets:
            pacer = BudgetPacer(target_avg_spend_usd=float(budget), mode=PacingMode.ADAPTIVE)
            result = _replay(data, models, features, start=start, penalty=0.0, pacer=pacer)
            found.append({"name": f"paretobandit_{start}@${1000 * budget:.2f}", **result})
    print(json.dumps(found))


def _features(X: Any) -> Any:
    """Its own 25 whitened components of all-MiniLM-L6-v2 and a bias, (n, 26); else the embedding and a bias."""
    rows: dict[str, Any] = {str(i): x for i, x in enumerate(X)}
    own = Path(DEFAULT_PCA_PATH) if X.shape[1] == 384 else None
    service = FeatureService(custom_encoder=rows.__getitem__, embedding_dim=X.shape[1], pca_path=own)
    return np.stack([service.extract_features(str(i)) for i in range(len(X))])


def _replay(data: Any, models: list[str], features: Any, *, start: str, penalty: float, pacer: Any) -> dict[str, Any]:
    best = BEST_K3_HPARAMS if start == "warm" else BEST_K3_TABULA_RASA_HPARAMS
    registry = {
        model: {"input_cost_per_m": 1e6 * float(price[0]), "output_cost_per_m": 1e6 * float(price[1])}
        for model, price in zip(models, data["prices"], strict=True)
    }
    router = BanditRouter.create(
        model_registry=registry,
        feature_service=FeatureService.for_precomputed(features.shape[1]),
        priors="warmup" if start == "warm" else "none",
        warmup_path=str(DEFAULT_WARMUP_PRIORS_PATH) if start == "warm" else None,
        prior_n_effective=best["prior_n_effective"],
        alpha=best["alpha"],
        forgetting_factor=best["forgetting_factor"],
        cost_penalty=penalty,
        budget_pacer=pacer,
        bandit_seed=int(data["seed"]),
    )
    order = np.random.default_rng(int(data["seed"])).permutation(data["score"])
    chosen = [_step(router, data, models, features, int(row)) for row in (*data["stream"], *order)]
    scored = np.array(chosen[len(data["stream"]) :])
    return {
        "reward": float(data["reward"][order, scored].mean()),
        "cost": float(data["cost"][order, scored].mean()),
        "shares": (np.bincount(scored, minlength=len(models)) / len(scored)).tolist(),
    }


def _step(router: Any, data: Any, models: list[str], features: Any, row: int) -> int:
    """Decide one question and tell the reward and the cost of the answer."""
    name, log = router.route(features[row])
    chosen = models.index(name)
    log.cost_usd = float(data["cost"][row, chosen])
    router.process_feedback(log.request_id, reward=float(data["reward"][row, chosen]))
    return chosen


if __name__ == "__main__":
    main(sys.argv[1])
