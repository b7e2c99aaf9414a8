"""Commands about router versions: list, look at, compare, activate, roll back, history."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.session import Actor, AsJson, Reason, actor_name, database, print_json, say, short_time, show_table

if TYPE_CHECKING:
    from datetime import datetime

Limit = Annotated[int, typer.Option(min=1, max=10_000, help="At most so many rows.")]
IfSeq = Annotated[int | None, typer.Option(help="Only if this is still the newest activation.")]
_NOTHING_YET = "There is no version yet; trimtab serve builds the first from your fleet."
Number = Annotated[int, typer.Argument(help="The version's number.")]


def versions(limit: Limit = 50, json: AsJson = False) -> None:
    """List router versions, newest first.

    Example: trimtab versions
    """
    from api.routes.versions import version_json
    from router.registry import list_versions

    with database() as opened, opened.engine.connect() as conn:
        found = list_versions(conn, limit=limit)
    if json:
        print_json([version_json(record) for record in found])
        return
    rows: list[list[object]] = [
        [r.number, r.status, r.parent, short_time(r.created_at), r.created_by, (r.report or {}).get("sentence", "")]
        for r in found
    ]
    show_table("", ["version", "status", "parent", "made, UTC", "by", "report"], rows, empty=_NOTHING_YET)


def show(number: Number, json: AsJson = False) -> None:
    """Show one version: its report, and how far each route's centroids moved from its parent.

    Example: trimtab show 3
    """
    from api.routes.versions import version_with_difference

    with database() as opened, opened.engine.connect() as conn:
        shown = version_with_difference(conn, number)
    if json:
        print_json(shown)
        return
    say(
        f"Version {number} ({shown['fingerprint'][:12]}), {shown['status']}, made {short_time(shown['created_at'])} UTC"
    )
    report = shown["report"] or {}
    if report:
        say(report["sentence"])
        rows = [[c["name"], "yes" if c["passed"] else "no", c["sentence"]] for c in report["conditions"]]
        show_table("The gate", ["condition", "passed", "in words"], rows)
        for sentence in report["owners"]:
            say(f"For the model's owner: {sentence}")
    if shown["difference"]:
        _show_movements(shown["difference"])


def _show_movements(difference: dict[str, Any]) -> None:
    rows = [
        [m["route"], f"{m['centroids_before']} → {m['centroids_after']}", f"{m['degrees']:.1f}", m["won"], m["lost"]]
        for m in difference["movements"]
    ]
    title = f"Centroids, version {difference['before']} → {difference['after']}"
    show_table(title, ["route", "centroids", "moved, degrees", "won", "lost"], rows)


def diff(
    a: Annotated[int, typer.Argument(help="The earlier version.")],
    b: Annotated[int, typer.Argument(help="The later version.")],
    limit: Limit = 20,
    json: AsJson = False,
) -> None:
    """Compare two versions: centroids by route, which logged queries change route and why, which votes moved them.

    Example: trimtab diff 2 3
    """
    from api.routes.versions import difference_json

    with database() as opened, opened.engine.connect() as conn:
        difference = difference_json(conn, a, b, queries=5_000)
    if json:
        print_json(difference)
        return
    _show_movements(difference)
    changed = difference["changed_queries"]
    say(f"{changed['total']} of {changed['of']} logged queries change route.")
    rows: list[list[object]] = [
        [
            c["text"],
            f"{c['before']} {c['probability_before']:.0%}",
            f"{c['after']} {c['probability_after']:.0%}",
            c["why"],
        ]
        for c in changed["queries"][:limit]
    ]
    if rows:
        show_table("", ["query", f"version {a}", f"version {b}", "why"], rows)
    votes: list[list[object]] = [
        [route, vote["says"], f"{100 * vote['change']:+.0f}", vote["inference_id"]]
        for route, found in difference["votes"].items()
        for vote in found
    ]
    if votes:
        show_table("Votes that it followed furthest", ["route", "says", "points", "inference"], votes[:limit])


def activate(number: Number, reason: Reason, actor: Actor = None, if_seq: IfSeq = None, json: AsJson = False) -> None:
    """Let a version serve; every server process follows within a second.

    Example: trimtab activate 3 --reason "it was fine after all"
    """
    from api.routes.versions import activation_json
    from router.registry import activate as switch

    with database() as opened, opened.engine.begin() as conn:
        done = switch(conn, number, kind="publish", actor=actor_name(actor), reason=kept_reason(reason), if_seq=if_seq)
    print_json(activation_json(done)) if json else say(f"Version {done.version} serves (activation {done.seq}).")


def rollback(
    reason: Reason,
    to: Annotated[int | None, typer.Option(help="To this version; the one before, when left out.")] = None,
    actor: Actor = None,
    if_seq: IfSeq = None,
    json: AsJson = False,
) -> None:
    """Go back to the version that served before; every server process follows within a second.

    Example: trimtab rollback --reason "travel questions go to billing"
    """
    from api.routes.versions import activation_json
    from router.registry import rollback as roll_back

    with database() as opened, opened.engine.begin() as conn:
        done = roll_back(conn, to=to, actor=actor_name(actor), reason=kept_reason(reason), if_seq=if_seq)
    print_json(activation_json(done)) if json else say(
        f"Rolled back: version {done.version} serves (activation {done.seq})."
    )


def kept_reason(reason: str) -> str:
    """Return the reason.

    Raises:
        BadParameter: it is empty.
    """
    if not reason.strip() or "\0" in reason:
        raise typer.BadParameter("the reason is empty; the history keeps it for whoever asks later")
    return reason


def active(
    at: Annotated[str | None, typer.Option(help="A moment with its zone, such as 2026-11-24T12:00:00Z.")] = None,
    json: AsJson = False,
) -> None:
    """Show what serves now, or what served at a moment, and what was on trial beside it.

    Example: trimtab active --at 2026-11-24T12:00:00Z
    """
    from api.routes.versions import active_json

    with database() as opened, opened.engine.connect() as conn:
        found = active_json(conn, at=_moment(at))
    if found is None:
        raise SystemExit("trimtab: No version was active then.")
    if json:
        print_json(found)
        return
    say(
        f"Version {found['version']} since {short_time(found['activated_at'])} UTC ({found['kind']}): {found['reason']}"
    )
    if beside := found["beside"]:
        say(f"Beside it version {beside['version']}: {beside['kind']}, {beside['share']:.0%} of the sessions.")


def _moment(text: str | None) -> "datetime | None":
    from datetime import datetime

    try:
        moment = None if text is None else datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if text is not None and (moment is None or moment.tzinfo is None):
        raise typer.BadParameter("it must look like 2026-11-24T12:00:00Z", param_hint="--at")
    return moment


def history(
    limit: Limit = 50,
    verify: Annotated[bool, typer.Option("--verify", help="Check the chain of hashes.")] = False,
    json: AsJson = False,
) -> None:
    """Show which version served from when, who said so and why.

    Example: trimtab history --verify
    """
    from api.routes.versions import activation_json
    from router.registry import history as read_history
    from router.registry import verify_history

    with database() as opened, opened.engine.connect() as conn:
        found = read_history(conn, limit=limit, order="desc")
        broken = verify_history(conn) if verify else None
    if json:
        print_json({"activations": [activation_json(a) for a in found], "broken_at": broken})
    else:
        rows: list[list[object]] = [
            [a.seq, short_time(a.activated_at), a.version, a.kind, a.actor, a.reason] for a in found
        ]
        show_table("", ["seq", "from, UTC", "version", "kind", "who", "why"], rows, empty=_NOTHING_YET)
        if verify and broken is None:
            say("The chain of hashes is whole.")
    if broken is not None:
        raise SystemExit(
            f"trimtab: the history was changed at activation {broken}; what it says from there is not proven."
        )
