"""Tell the operator's webhook what happened: signed, again after a failure, in a thread that nothing waits for."""

import hashlib
import hmac
import http.client
import json
import threading
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from telemetry.notifications import claim_notifications, forget_notifications, settle_notification

SIGNATURE = "x-trimtab-signature"
_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 5.0


def sign(body: bytes, *, secret: str, at: int) -> str:
    """Return the signature's header: ``t=UNIX TIME,v1=HMAC-SHA256 of "UNIX TIME.BODY"`` in hexadecimal.

    The time is signed too, so that a receiver can refuse what is old.
    """
    digest = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def deliver(url: str, body: Mapping[str, Any], *, number: int, secret: str | None) -> str | None:
    """POST one notification; return what went wrong, None when the receiver took it (2xx)."""
    data = json.dumps({"id": number, **body}, ensure_ascii=False).encode()
    headers = {"content-type": "application/json", "user-agent": "trimtab", "x-trimtab-event": str(body.get("event"))}
    if secret:
        headers[SIGNATURE] = sign(data, secret=secret, at=int(time.time()))
    request = urllib.request.Request(url, data=data, headers=headers)  # noqa: S310  # settings take http and https only
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310
            answer.read(1_000)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{type(error).__name__}: {error}"[:200]
    return None


def deliver_due(engine: Engine, url: str, *, secret: str | None) -> int:
    """Deliver what is due; return how many were taken. No transaction is open while the receiver is asked."""
    with engine.begin() as conn:
        due = claim_notifications(conn)
    taken = 0
    for row in due:
        problem = deliver(url, row["body"], number=row["notification_id"], secret=secret)
        taken += problem is None
        with engine.begin() as conn:
            settle_notification(conn, row["notification_id"], problem=problem)
    return taken


def keep_delivering(engine: Engine, url: str | None, *, secret: str | None, stop: threading.Event) -> None:
    """Deliver until told to stop; what is older than a week is forgotten, also where there is no webhook."""
    forgotten = 0.0
    while not stop.wait(_LOOK_SECONDS):
        try:
            if url is not None:
                deliver_due(engine, url, secret=secret)
            if time.monotonic() - forgotten > 3_600:
                with engine.begin() as conn:
                    forget_notifications(conn)
                forgotten = time.monotonic()
        except SQLAlchemyError as error:
            structlog.get_logger().warning("webhook_waits_for_database", error=type(error).__name__)
