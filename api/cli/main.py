"""The command line: trimtab. Nothing heavy is imported before a command needs it."""

import os
import sys

import typer

from api.cli import decisions, demonstration, golden, keys, nights, retention, rollouts, serving, versions

app = typer.Typer(
    name="trimtab",
    help="Trimtab learns where to send a question: log decisions, judge them, learn each night, roll back in a second.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 120},
)
fleet = typer.Typer(help="The fleet file.", no_args_is_help=True)
app.add_typer(fleet, name="fleet")
keyring = typer.Typer(help="API keys: who may call what.", no_args_is_help=True)
app.add_typer(keyring, name="keys")
rollout = typer.Typer(help="A version on trial: shadow, canary, all.", no_args_is_help=True)
app.add_typer(rollout, name="rollout")
golden_set = typer.Typer(help="Queries that must always go where they belong.", no_args_is_help=True)
app.add_typer(golden_set, name="golden")

app.command()(serving.serve)
app.command()(serving.migrate)
app.command(hidden=True)(serving.prepare)
app.command()(decisions.route)
app.command()(decisions.inference)
app.command("feedback-token")(decisions.feedback_token)
fleet.command("check")(decisions.check_fleet)
keyring.command("create")(keys.create)
keyring.command("list")(keys.show)
keyring.command("revoke")(keys.revoke)
app.command()(nights.learn)
app.command()(nights.reembed)
app.command()(retention.prune)
app.command()(retention.erase)
app.command()(nights.failures)
app.command()(nights.runs)
app.command()(versions.versions)
app.command()(versions.show)
app.command()(versions.diff)
app.command()(versions.activate)
app.command()(versions.rollback)
app.command()(versions.history)
app.command()(versions.active)
rollout.command()(rollouts.status)
rollout.command()(rollouts.shadow)
rollout.command()(rollouts.canary)
rollout.command()(rollouts.promote)
app.command()(rollouts.pin)
app.command()(rollouts.unpin)
app.command()(rollouts.notifications)
golden_set.command()(golden.add)
golden_set.command()(golden.promote)
golden_set.command("list")(golden.show)
golden_set.command()(golden.remove)
golden_set.command("import")(golden.read)
golden_set.command("export")(golden.write)
golden_set.command()(golden.check)
app.command()(demonstration.demo)


def main() -> None:
    """Run the command; what can be expected to go wrong is one line on standard error.

    Exit code 2: the command or a setting is wrong; 1: it failed for another reason.
    """
    # One thread a library: serving and learning share few cores, and the libraries' own threads fight over them.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    for place, argument in enumerate(sys.argv[1:], start=1):
        if any("\ud800" <= sign <= "\udfff" for sign in argument):  # bytes that are no UTF-8 come as half characters
            sys.stderr.write(f"trimtab: argument {place} is not UTF-8; give it as UTF-8 text.\n")
            sys.exit(2)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sentence = _expected(error)
        if sentence is None:
            raise
        sys.stderr.write(f"trimtab: {sentence}\n")
        sys.exit(2 if isinstance(error, ValueError) and type(error).__name__.startswith("Wrong") else 1)


def _expected(error: Exception) -> str | None:
    """The sentence of an error that a person can mend; None for what is our own mistake."""
    from sqlalchemy.exc import InterfaceError, OperationalError, ProgrammingError

    from api.database import NotMigrated
    from api.schedule import WrongTime
    from api.settings import WrongSetting
    from router.artifact import DamagedArtifact
    from router.decide import UnknownRoute
    from router.encoder_store import EncoderUnavailable
    from router.fleet import FleetError
    from router.registry import (
        LeaseLost,
        NeverActive,
        NothingToRollBack,
        NotShadowed,
        Pinned,
        RefusedVersion,
        StaleActivation,
        UnknownVersion,
    )
    from router.rollout import NothingOnTrial, NotPinned
    from telemetry.api_keys import WrongKeyRequest
    from telemetry.database import DatabaseUnavailable, WrongDatabaseUrl
    from telemetry.embedded_postgres import PostgresFailed, WrongDataFolder
    from telemetry.golden import NotGolden, UnknownGolden
    from telemetry.postgres_binaries import PostgresMissing

    known = (
        *(NotMigrated, WrongTime, WrongSetting, DamagedArtifact, UnknownRoute, EncoderUnavailable, FleetError),
        *(LeaseLost, NeverActive, NothingToRollBack, RefusedVersion, StaleActivation, UnknownVersion),
        *(NotShadowed, Pinned, NotPinned, NothingOnTrial, NotGolden, UnknownGolden),
        *(DatabaseUnavailable, WrongDatabaseUrl, PostgresFailed, WrongDataFolder, PostgresMissing, WrongKeyRequest),
    )
    if isinstance(error, OperationalError | InterfaceError):
        return str(DatabaseUnavailable.__doc__)
    if isinstance(error, ProgrammingError) and getattr(error.orig, "sqlstate", "") == "42501":
        return f"The database user lacks a right that Trimtab needs: {error.orig}."
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {(error.strerror or 'cannot be used').lower()}."
    # The learner's own errors are known by name, since only its commands may import it.
    named = type(error).__name__ in (
        "LeaseHeld",
        "NightTooLong",
        "NothingServes",
        "SameEncoder",
        "WrongLearnerSetting",
        "WrongDemoData",
    )
    return " ".join(str(error).split()) if named or isinstance(error, known) else None


if __name__ == "__main__":
    main()
