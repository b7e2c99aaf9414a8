"""Every setting of ``benchmarks.feedback_loop`` at once: ``python -m benchmarks.feedback_table --data F --out FOLDER``.

One JSON file a setting, and at the end one line each: night 7, the last night, and what the setting is about. The
baselines run beside the first setting only. What is not known here goes to ``benchmarks.feedback_loop`` as it is.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import feedback_loop

# Flags of each setting, and the metric of the real loop that it is about beside accuracy.
SETTINGS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "default": ((), "gap_recovered"),
    "rated_1": (("--rated", "0.01"), "accuracy_last"),
    "rated_2": (("--rated", "0.02"), "accuracy_last"),
    "flip": (("--flip", "0.20"), "accuracy_last"),
    "no_votes": (("--rated", "0"), "gap_recovered"),
    "poison_5": (("--poison-share", "0.25", "--poison-users", "5"), "accuracy_last"),
    "poison_50": (("--poison-share", "0.25", "--poison-users", "50"), "accuracy_last"),
    "bad_route": (("--bad-route-rate", "0.6"), "bad_route_recall"),
    "drift": (("--drift-intents", "20"), "drift_won_back"),
    "zipf": (("--zipf", "1.1"), "gap_recovered"),
    "wrong_twice": (("--misspecify", "2"), "accuracy_last"),
    "wrong_half": (("--misspecify", "0.5"), "accuracy_last"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the settings one after the other, then print what came of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feedback_table", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="as for benchmarks.feedback_loop")
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files, the picture, embeddings")
    parser.add_argument("--only", type=lambda v: v.split(","), default=list(SETTINGS), help="settings, with commas")
    options, rest = parser.parse_known_args(arguments)
    for name in options.only:
        print(f"== {name}: {' '.join(SETTINGS[name][0]) or 'as it comes'}", flush=True)
        files = ["--json", str(options.out / f"{name}.json"), "--embeddings", str(options.out / "embeddings.npy")]
        beside = ["--picture", str(options.out / "feedback_loop.png")] if name == "default" else ["--learners", "none"]
        feedback_loop.main(["--data", str(options.data), *files, *beside, *SETTINGS[name][0], *rest])
    for name in options.only:
        print(_line(name, json.loads((options.out / f"{name}.json").read_text(encoding="utf-8"))["summary"]))


def _line(name: str, summary: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    ours = summary["trimtab"]
    metrics = dict.fromkeys(
        ["accuracy_night_7", "accuracy_last", SETTINGS[name][1], "worst_step", "oos_auroc", "night_seconds"]
    )
    shown = [f"{metric} {ours[metric]['mean']:.4f} ± {ours[metric]['sd']:.4f}" for metric in metrics if metric in ours]
    return f"{name:12s} " + "  ".join(shown)


if __name__ == "__main__":
    main()
