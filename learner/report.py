"""What a night tells: a JSON report for the database, and the same as a page of Markdown with pictures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from learner.conditions import GateDecision
from learner.evaluation import Evaluation
from learner.learn import HeldCentroids
from learner.mining import MinedFailure
from learner.runs import failure_counts
from learner.settings import LearnerSettings
from learner.spending import calls_per_query
from learner.splitter_night import NightSplitter
from learner.splitter_training import HiddenEncoder
from learner.window import Window
from router.difference import changed_decisions, compare
from router.fleet import Fleet
from router.version import RouterVersion
from telemetry.failure_kinds import FAILURE_KINDS

_SHOWN_CHANGES = 50
_SHOWN_FAILURES = 5


def build_report(
    window: Window,
    incumbent: RouterVersion,
    candidate: RouterVersion,
    learned: HeldCentroids,
    failures: Sequence[MinedFailure],
    splitter: NightSplitter,
    evaluation: Evaluation,
    gate: GateDecision,
    *,
    encoder: HiddenEncoder,
    settings: LearnerSettings,
) -> dict[str, Any]:
    """Return the whole night as plain JSON values; what is infinite or unknown is null."""
    report = {
        "verdict": gate.verdict,
        "sentence": verdict_sentence(gate, evaluation),
        "parent": incumbent.number,
        "window": {"start": window.start, "watermark": window.watermark},
        "counts": {
            "requests": int(window.units["inference_id"].nunique()),
            "units": len(window.units),
            "votes": len(window.votes),
            "failures": dict(failure_counts(failures)),
        },
        "conditions": [asdict(condition) for condition in gate.conditions],
        "missing": list(gate.missing),
        "evaluation": asdict(evaluation),
        "routes": _routes(window, learned, evaluation),
        "owners": attribution_sentences(learned, incumbent.fleet),
        "wrong_route_given_down": dict(learned.estimates.wrong_route_given_down),
        "learned": {
            "step": learned.step,
            "churn": learned.churn,
            "owner_flips": learned.flips,
            "centroids_before": len(incumbent.centroids.vectors),
            "centroids": len(candidate.centroids.vectors),
            "wrong_route_success": learned.estimates.wrong_route_success,
            "reask_when_wrong": learned.estimates.reask_when_wrong,
        },
        "splitter": _splitter(splitter),
        "calls": calls_per_query(window, incumbent, candidate, encoder=encoder),
        "difference": asdict(compare(incumbent, candidate)),
        "changed": _changed(window, incumbent, candidate),
        "examples_of_failures": _failure_examples(failures),
        "settings": {f.name: getattr(settings, f.name) for f in fields(settings)},
    }
    plain: dict[str, Any] = _plain(report)
    return plain


def _splitter(splitter: NightSplitter) -> dict[str, Any]:
    """What it was made of and how it was judged; its conditions stand among the gate's."""
    told = asdict(replace(splitter, arrays={}))
    return {name: value for name, value in told.items() if name not in ("arrays", "conditions")}


def verdict_sentence(gate: GateDecision, evaluation: Evaluation) -> str:
    """Return the verdict in one sentence."""
    overall = evaluation.overall
    bound = f"at least {overall.low:+.1f}" if math.isfinite(overall.low) else "bound unknown"
    figure = f"n = {overall.n}, {overall.estimate:+.1f} points of accuracy, {bound}"
    alone = next((c for c in gate.conditions if c.name == "splitter_better"), None)
    if alone is not None:
        return f"Published the new splitter alone: {alone.sentence}"
    if gate.verdict == "published":
        return f"Published: {figure}."
    return f"Held: {gate.missing[0]}"


def attribution_sentences(learned: HeldCentroids, fleet: Fleet) -> list[str]:
    """Return one sentence for each SLM whose own questions get thumbs-down: its owner's matter, not the router's."""
    e = learned.estimates
    order = np.argsort(-np.array(e.own_down_share), kind="stable")
    model = {route.name: route.model for route in fleet.routes}
    return [
        f"{_owned(e.routes[i], model.get(e.routes[i]))}: {e.own_down_share[i]:.0%} of its own questions' votes"
        f" are thumbs-down ({e.votes[i]} votes on its answers)."
        for i in order
        if e.votes[i] >= 5 and e.own_down_share[i] >= 0.2
    ]


def _owned(route: str, model: str | None) -> str:
    return f"{model} (route {route})" if model else route


def _routes(window: Window, learned: HeldCentroids, evaluation: Evaluation) -> dict[str, Any]:
    e = learned.estimates
    position = {route: i for i, route in enumerate(e.routes)}
    logged = window.units["route"].map(lambda r: position.get(r, -1)).to_numpy(dtype=np.int64)
    found = {}
    for route, i in position.items():
        rows = logged == i
        right = float(e.posteriors[rows, i].mean()) if rows.any() else None
        difference = evaluation.per_route.get(route)
        found[route] = {
            "units": int(rows.sum()),
            "votes": e.votes[i],
            "thumbs_down": e.thumbs_down[i],
            "success": e.success[i],
            "accuracy": right,
            "utility": None if right is None else e.success[i] * right + e.wrong_route_success * (1 - right),
            "own_down_share": e.own_down_share[i],
            "change": None if difference is None else difference.estimate,
        }
    return found


def _changed(window: Window, incumbent: RouterVersion, candidate: RouterVersion) -> dict[str, Any]:
    known = window.units["text"].notna().to_numpy()
    texts = window.units["text"][known].tolist()
    changed = changed_decisions(incumbent, candidate, texts, window.embeddings[known])
    by_text = {change.text: asdict(change) for change in changed}
    return {"total": len(changed), "of": len(texts), "queries": list(by_text.values())[:_SHOWN_CHANGES]}


def _failure_examples(failures: Sequence[MinedFailure]) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {}
    for failure in sorted(failures, key=lambda f: -f.weight):
        if len(found.setdefault(failure.kind, [])) < _SHOWN_FAILURES:
            found[failure.kind].append(asdict(failure))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value.isoformat() if hasattr(value, "isoformat") else value


def write_markdown(report: Mapping[str, Any], path: Path, *, pictures: Sequence[tuple[str, str]] = ()) -> None:
    """Write the report as a page. ``pictures`` are (title, file name beside the page)."""
    lines = [
        f"# Night of {report['window']['watermark'][:16].replace('T', ' ')} UTC",
        "",
        _plain_text(report["sentence"]),
        "",
    ]
    lines += _counts_lines(report)
    lines += ["## The gate", "", "| condition | passed | in words |", "|---|---|---|"]
    lines += [_condition_line(condition) for condition in report["conditions"]]
    for title, name in pictures:
        lines += ["", f"## {title}", "", f"![{title}]({name})"]
    lines += ["", *_route_lines(report), *_change_lines(report), *_failure_lines(report), *_setting_lines(report)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _condition_line(condition: Mapping[str, Any]) -> str:
    passed = "yes" if condition["passed"] else "**no**"
    return f"| {_plain_text(condition['name'])} | {passed} | {_plain_text(condition['sentence'])} |"


def _counts_lines(report: Mapping[str, Any]) -> list[str]:
    counts, learned = report["counts"], report["learned"]
    lines = [
        f"{counts['requests']} requests and {counts['votes']} votes were read.",
        f"The centroids went from {learned['centroids_before']} to {learned['centroids']};",
        f"{learned['churn']:.1%} of last week's queries change route.",
        "",
    ]
    calls = report["calls"]
    if calls:
        lines[2] += f" SLM calls a query: {calls['before']:.2f} before, {calls['after']:.2f} after."
    if report["owners"]:
        lines += ["For the owners of the models (their answers, not the routing):", ""]
        lines += [f"- {_plain_text(sentence)}" for sentence in report["owners"]] + [""]
    return lines + _attribution_lines(report["wrong_route_given_down"])


def _attribution_lines(wrong: Mapping[str, float]) -> list[str]:
    """How many of the thumbs-down are misroutes, and the surest of either kind by the id of the feedback."""
    if not wrong:
        return []
    order = sorted(wrong, key=lambda id_: (-wrong[id_], id_))
    surest = [*order[:5], *(id_ for id_ in order[-5:] if id_ not in order[:5])]
    return [
        f"Of {len(wrong)} thumbs-down about {sum(wrong.values()):.0f} are misroutes; others are the owners' matter.",
        "How probable a wrong route is stands with each in the report's JSON. The surest of both kinds:",
        "",
        *(f"- {id_}: a wrong route with {wrong[id_]:.0%}" for id_ in surest),
        "",
    ]


def _route_lines(report: Mapping[str, Any]) -> list[str]:
    head = "| route | units | votes | thumbs-down | right route | pleases when right | utility | change, points |"
    lines = ["## Routes", "", head, "|---|---|---|---|---|---|---|---|"]
    for route, row in report["routes"].items():
        numbers = (row["accuracy"], row["success"], row["utility"])
        shown = " | ".join("-" if n is None else f"{n:.2f}" for n in numbers)
        change = "-" if row["change"] is None else f"{row['change']:+.1f}"
        lines.append(
            f"| {_cell(route)} | {row['units']} | {row['votes']} | {row['thumbs_down']} | {shown} | {change} |"
        )
    return [*lines, ""]


def _change_lines(report: Mapping[str, Any]) -> list[str]:
    moved = report["difference"]["movements"]
    lines = ["## What changed", "", "| route | centroids | moved, degrees | added | removed | won | lost |"]
    lines.append("|---|---|---|---|---|---|---|")
    for m in moved:
        lines.append(
            f"| {_cell(m['route'])} | {m['centroids_before']} → {m['centroids_after']} | {m['degrees']:.1f} |"
            f" {m['added']} | {m['removed']} | {m['won']} | {m['lost']} |"
        )
    changed = report["changed"]
    lines += ["", f"{changed['total']} of {changed['of']} logged queries change route. Some of them:", ""]
    lines += [f"- {_cell(c['text'])}: {_cell(c['before'])} → {_cell(c['after'])}" for c in changed["queries"][:20]]
    return [*lines, ""]


def _failure_lines(report: Mapping[str, Any]) -> list[str]:
    counts = report["counts"]["failures"]
    lines = ["## Failures", "", "| kind | count |", "|---|---|"]
    return [*lines, *[f"| {kind} | {counts.get(kind, 0)} |" for kind in FAILURE_KINDS], ""]


def _setting_lines(report: Mapping[str, Any]) -> list[str]:
    explained = LearnerSettings.explanations()
    lines = ["## Settings", "", "| setting | value | meaning |", "|---|---|---|"]
    return [*lines, *[f"| {name} | {value} | {explained[name]} |" for name, value in report["settings"].items()]]


def _cell(text: str) -> str:
    """As ``_plain_text``, of 160 characters at most."""
    plain = _plain_text(text)
    return plain if len(plain) <= 160 else plain[:159] + "…"


def _plain_text(text: str) -> str:
    """Text that users wrote or that quotes them, safe in a Markdown table: no markup, no line breaks."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    for mark in "\\|`*_<>[]":
        plain = plain.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return plain
