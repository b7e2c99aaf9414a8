"""Commands about single decisions and the fleet."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from api.cli.session import AsJson, database, print_json, read_settings, say, short_time

if TYPE_CHECKING:
    from api.database import OpenDatabase
    from api.settings import Settings
    from router.version import RouterVersion


def route(
    question: Annotated[str, typer.Argument(help="The query.")],
    version: Annotated[int | None, typer.Option(help="Decide by this version instead of the one that serves.")] = None,
    json: AsJson = False,
) -> None:
    """Show where a query would go, and why. Needs no server; nothing is logged and nothing explored.

    Example: trimtab route "why was I charged twice, and when does my parcel come?"
    """
    import numpy as np

    from api.routes.deciding import decision_json
    from router.decide import decide
    from router.encoder import load_encoder
    from router.trial import open_router
    from telemetry.ids import new_id

    if not question.strip():
        raise typer.BadParameter("the question is empty")
    settings = read_settings()
    with database(settings) as opened:
        chosen = _version(opened, settings, number=version)
    encoder = load_encoder(settings.encoder, home=settings.home_folder)
    decision = decide(
        open_router(chosen),
        question,
        encoder.encode([question], hidden=True)[0],
        encode=encoder.encode,
        inference_id=new_id(),
        rng=np.random.default_rng(0),
        explore=False,
    )
    shown = decision_json(decision, fleet=chosen.fleet)
    shown.pop("inference_id")  # it is not logged, so nothing can be found under it
    if json:
        print_json(shown)
        return
    for sentence in shown["explanation"]:
        say(sentence)
    marks = ", ".join(f"{question[b['start'] :].split()[0]!r} {b['probability']:.0%}" for b in _likely(shown))
    if marks:
        say(f"Likeliest boundaries before: {marks}.")


def _likely(shown: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(shown["split"]["boundaries"], key=lambda b: -b["probability"])[:3]


def _version(opened: "OpenDatabase", settings: "Settings", *, number: int | None) -> "RouterVersion":
    """The version asked for, or the one that serves, or a first one built now."""
    from api.cli.serving import run_prepare
    from router.registry import active, load

    with opened.engine.connect() as conn:
        if number is not None:
            return load(conn, number)
        activation = active(conn)
    if activation is None:
        environment = settings.child_environment(database_url=opened.url)
        if run_prepare(environment, fleet=settings.fleet_path):
            raise typer.Exit(1)
    with opened.engine.connect() as conn:
        activation = active(conn)
        return load(conn, activation.version if activation else 1)


def inference(
    inference_id: Annotated[str, typer.Argument(help="Its id, or any other id that it was logged with.")],
    json: AsJson = False,
) -> None:
    """Follow one inference: decision, outcome, feedback, the failures mined from it, the versions that learned from it.

    Example: trimtab inference 01936f5e-7a3c-7d2e-8f10-3b8f0c9d1e2f
    """
    from api.routes.inferences import inference_json, served_by
    from telemetry.inference_reading import read_inference

    with database() as opened, opened.engine.connect() as conn:
        key = _resolve(conn, inference_id)
        stored = read_inference(conn, key) if key else None
        if stored is None:
            raise SystemExit(f"trimtab: There is no inference {inference_id[:80]!r}; POST /v1/route answers the ids.")
        shown = inference_json(stored, version=served_by(conn, stored))
    if json:
        print_json(shown)
    else:
        _tell(shown)


def feedback_token(
    inference_id: Annotated[str, typer.Argument(help="Its id, or any other id that it was logged with.")],
    json: AsJson = False,
) -> None:
    """Make a token with which a browser can judge one logged inference, without a key.

    Example: trimtab feedback-token 01936f5e-7a3c-7d2e-8f10-3b8f0c9d1e2f
    """
    from api.feedback_tokens import TokenSigner
    from telemetry.inference_reading import who_asked

    settings = read_settings()
    with database(settings) as opened, opened.engine.connect() as conn:
        key = _resolve(conn, inference_id)
        who = who_asked(conn, key) if key else None
    if key is None or who is None:
        raise SystemExit(f"trimtab: there is no inference {inference_id[:80]!r}.")
    signer = TokenSigner(key=settings.hash_key(), hours=settings.feedback_token_hours)
    token = signer.issue(key, end_user=who["end_user"], session_id=who["session_id"])
    if token is None:
        raise SystemExit("trimtab: feedback tokens are turned off; set TRIMTAB_FEEDBACK_TOKEN_HOURS.")
    print_json({"inference_id": key, "feedback_token": token}) if json else say(token)


def _resolve(conn: Any, value: str) -> UUID | None:
    from telemetry.inference_reading import resolve_alias, who_asked

    with contextlib.suppress(ValueError):
        if who_asked(conn, key := UUID(value)) is not None:
            return key
    clean = value.replace("\0", "")  # an id of somebody else may look like one of ours
    found = [
        i
        for k in ("client_request_id", "response_id", "trace", "external_call_id")
        for i in resolve_alias(conn, k, clean)
    ]
    if len(set(found)) > 1:
        raise SystemExit(f"trimtab: {len(set(found))} inferences have the id {clean[:80]!r}; name one by its own id.")
    return found[0] if found else None


def _tell(shown: dict[str, Any]) -> None:
    payload = shown["payload"] or {}
    say(f"{short_time(shown['occurred_at'])}  {payload.get('query') or '(text not kept)'}")
    parts = shown["segments"] or [shown]
    for part in parts:
        where = f'"{part["text"]}" ' if part.get("text") else ""
        if part["route"]:
            say(f"  decided   {where}→ {part['route']} ({part['cause']}, propensity {part['propensity']})")
    if shown["version"]:
        serves = "serves now" if shown["version"]["serves_now"] else shown["version"]["status"]
        say(f"  version   {shown['version']['number']} ({serves})")
    say(
        f"  outcome   {shown['response_model'] or '-'}, {shown['output_tokens']} tokens,"
        f" {shown['duration_ms']} ms, {shown['finish_reason'] or '-'}"
    )
    for vote in shown["feedback"]:
        better = f", right would be {vote['correction']}" if vote["correction"] else ""
        say(f"  feedback  {vote['op']} {vote['value'] or ''}{better} ({vote['feedback_id']}, {vote['revision']})")
    for failure, nights in _newest_by_kind(shown["failures"]):
        to = f" → {failure['suggested_route']}" if failure["suggested_route"] else ""
        since = f"night {failure['run_id']}" + (f", and {nights - 1} before" if nights > 1 else "")
        say(f"  failure   {failure['kind']}{to}, weight {failure['weight']:.2f} ({since})")
    learned = ", ".join(str(n) for n in shown["learned_by_versions"])
    say(f"  learned   by version {learned}" if learned else "  learned   by no version yet")


def _newest_by_kind(failures: list[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    """Each failure as the newest night saw it, and how many nights did: every night reads the whole window anew."""
    found: dict[tuple[str, int | None], list[dict[str, Any]]] = {}
    for failure in failures:
        found.setdefault((failure["kind"], failure["segment_index"]), []).append(failure)
    return [(seen[-1], len({one["run_id"] for one in seen})) for seen in found.values()]


def check_fleet(
    file: Annotated[Path | None, typer.Argument(help="The fleet file; ./fleet.yaml when left out.")] = None,
    json: AsJson = False,
) -> None:
    """Check a fleet file; the first mistake is told with its line and key.

    Example: trimtab fleet check fleet.yaml
    """
    from router.fleet import fleet_fingerprint, load_fleet

    path = file or read_settings().fleet_path
    fleet = load_fleet(path)
    examples = sum(len(route.utterances) for route in fleet.routes)
    if json:
        print_json(
            {
                "file": path.as_posix(),
                "routes": list(fleet.names),
                "fallback": fleet.fallback,
                "examples": examples,
                "fingerprint": fleet_fingerprint(fleet),
            }
        )
        return
    say(f"{path}: {len(fleet.routes)} routes, {examples} examples, fallback {fleet.fallback}. It is fine.")
    for one in fleet.routes:
        if 0 < len(one.utterances) < 5:
            say(f"  {one.name} has only {len(one.utterances)} examples; ten or more route better from the first day.")
