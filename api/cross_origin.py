"""Cross-origin requests: web pages that are named in the settings may vote with a feedback token, and nothing else."""

import re
from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

_PATH = "/v1/feedback"
_METHODS = ("POST", "PUT", "DELETE")
_ORIGIN = re.compile(r"\*|https?://[a-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?")


def origins(text: str) -> list[str]:
    """Return the origins that a comma-separated text names.

    Raises:
        ValueError: one is not an origin as browsers send it.
    """
    found = [part.strip().rstrip("/") for part in text.split(",") if part.strip()]
    if not all(_ORIGIN.fullmatch(origin) for origin in found):
        raise ValueError("origins must look like https://shop.example,https://www.shop.example, or be *")
    return found


class FeedbackAcrossOrigins:
    """Answers browsers for the calls that a feedback token may make; other calls stay closed to web pages."""

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self._app = app
        self._voting = CORSMiddleware(
            app, allow_origins=allowed, allow_methods=_METHODS, allow_headers=["authorization", "content-type"]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, by way of the browser's rules where they apply."""
        votes = scope["type"] == "http" and (scope["path"] == _PATH or scope["path"].startswith(f"{_PATH}/"))
        voting = votes and scope["method"] in (*_METHODS, "OPTIONS")
        await (self._voting if voting else self._app)(scope, receive, send)
