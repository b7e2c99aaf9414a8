"""Commands about versions on trial and pins."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.session import Actor, AsJson, Reason, actor_name, database, print_json, read_settings, say, show_table
from api.cli.versions import IfSeq, Number, kept_reason

if TYPE_CHECKING:
    from router.activations import Activation

EXIT_CODES = {"serves": 0, "rolled_back": 5, "on_trial": 6}
_LOOK_SECONDS = 1.0
Route = Annotated[str | None, typer.Option(help="This route; the version, when left out.")]


def status(
    wait: Annotated[bool, typer.Option("--wait", help="Until the trial has ended, one way or the other.")] = False,
    json: AsJson = False,
) -> None:
    """Show what is on trial, what its sessions have shown, and what is pinned.

    Exit code 0: a version serves all (but a hold-out), 5: the newest step was a rollback by itself, 6: one is on trial.

    Example: trimtab rollout status --wait
    """
    from api.rollouts import rollout_json

    settings = read_settings()
    with database(settings) as opened:
        while True:
            with opened.engine.connect() as conn:
                shown, ended = rollout_json(conn, settings.rollout), _ended(conn)
            if not wait or ended != "on_trial":
                break
            time.sleep(_LOOK_SECONDS)
    print_json(shown) if json else _show(shown)
    raise typer.Exit(EXIT_CODES[ended])


def _ended(conn: Any) -> str:
    from router.plan import read_plan

    plan = read_plan(conn)
    if plan is None or plan.mode in ("shadow", "canary"):
        return "on_trial" if plan else "serves"
    return "rolled_back" if plan.main.kind == "auto_rollback" else "serves"


def _show(shown: dict[str, Any]) -> None:
    say(f"Version {shown['serves']} serves. {shown['sentence']}" if shown["serves"] else shown["sentence"])
    for finding in (shown["trial"] or {}).get("findings", ()):
        if finding["judged"]:
            counts = f"{finding['judged']} judged, {finding['pairs']} compared"
            needed = f"K = {finding['evidence']:.2f} of {finding['needed']:.0f}"
            say(f"  {finding['name']}: {counts}, {100 * finding['difference']:+.0f} points there; {needed}")
    if shown.get("pinned"):
        say(f"It is pinned by {shown['pinned']['actor']}: {shown['pinned']['reason']}")
    for route, made in shown["pinned_routes"].items():
        say(f"Route {route} is pinned by {made['actor']}: {made['reason']}")


def canary(
    number: Number,
    reason: Reason,
    share: Annotated[float | None, typer.Option(min=0.001, max=0.999, help="Of the sessions.")] = None,
    actor: Actor = None,
    if_seq: IfSeq = None,
    json: AsJson = False,
) -> None:
    """Let a version serve a share of the sessions; trimtab serve moves it on, or takes it back.

    Example: trimtab rollout canary 7 --reason "held for lack of evidence, looks good"
    """
    _try(number, "canary", share, reason, actor, if_seq, json)


def shadow(number: Number, reason: Reason, actor: Actor = None, if_seq: IfSeq = None, json: AsJson = False) -> None:
    """Let a version decide beside the serving one, for nobody; both decisions are logged.

    Example: trimtab rollout shadow 7 --reason "made for the new encoder"
    """
    _try(number, "shadow", None, reason, actor, if_seq, json)


def _try(
    number: int, mode: Any, share: float | None, reason: str, actor: str | None, if_seq: int | None, json: bool
) -> None:
    from router.rollout import start_trial

    settings = read_settings()
    with database(settings) as opened, opened.engine.begin() as conn:
        done = start_trial(
            conn,
            number,
            mode=mode,
            share=share or settings.rollout.first_share,
            actor=actor_name(actor),
            reason=kept_reason(reason),
            if_seq=if_seq,
        )
    of = f" for {done.share:.0%} of the sessions" if done.share else ""
    _tell(done, f"Version {number} is on trial: {mode}{of} (activation {done.seq}).", json)


def promote(reason: Reason, actor: Actor = None, json: AsJson = False) -> None:
    """Let the version on trial serve all sessions (but the hold-out) now; in a hold-out, end that.

    Example: trimtab rollout promote --reason "a day in shadow, agrees with what we know"
    """
    from router.plan import read_plan
    from router.rollout import end_hold_out
    from router.rollout import promote as move_on

    settings = read_settings()
    with database(settings) as opened, opened.engine.begin() as conn:
        plan = read_plan(conn)
        who = {"actor": actor_name(actor), "reason": kept_reason(reason)}
        if plan is not None and plan.mode == "holdout":
            done = end_hold_out(conn, **who)
            sentence = "The hold-out is over; all sessions have the version that serves."
        else:
            done = move_on(conn, settings=settings.rollout, **who)
            sentence = f"Version {done.version} serves (activation {done.seq})."
    _tell(done, sentence, json)


def pin(
    reason: Reason,
    version: Annotated[int | None, typer.Option(help="This version; the one that serves, when left out.")] = None,
    route: Route = None,
    actor: Actor = None,
    json: AsJson = False,
) -> None:
    """Pin a version: it serves all, and nothing automatic changes that. Or a route: nights leave its centroids.

    Example: trimtab pin --route billing --reason "audited last week"
    """
    from router.rollout import pin as pin_it

    if version is not None and route is not None:
        raise typer.BadParameter("name either --version or --route; pin one after the other")
    with database() as opened, opened.engine.begin() as conn:
        done = pin_it(conn, version=version, route=route, actor=actor_name(actor), reason=kept_reason(reason))
    _tell(done, f"Pinned: {f'route {route}' if route else f'version {done.version}'} (activation {done.seq}).", json)


def unpin(reason: Reason, route: Route = None, actor: Actor = None, json: AsJson = False) -> None:
    """End a pin.

    Example: trimtab unpin --reason "the freeze is over"
    """
    from router.rollout import unpin as unpin_it

    with database() as opened, opened.engine.begin() as conn:
        done = unpin_it(conn, route=route, actor=actor_name(actor), reason=kept_reason(reason))
    _tell(done, f"The pin of {f'route {route}' if route else f'version {done.version}'} is over.", json)


def _tell(done: "Activation", sentence: str, json: bool) -> None:
    from api.routes.versions import activation_json

    print_json(activation_json(done)) if json else say(sentence)


def notifications(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many rows.")] = 20, json: AsJson = False
) -> None:
    """Show what the webhook was or will be told, and how the delivery went.

    Example: trimtab notifications
    """
    from telemetry.notifications import list_notifications

    with database() as opened, opened.engine.connect() as conn:
        found = list_notifications(conn, limit=limit)
    if json:
        print_json([dict(row) for row in found])
        return
    rows: list[list[object]] = [
        [row["notification_id"], row["body"].get("event"), row["attempts"], row["delivered_at"], row["problem"]]
        for row in found
    ]
    show_table("", ["number", "event", "attempts", "delivered", "problem"], rows)
