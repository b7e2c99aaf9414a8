"""Cross-origin requests: web pages that are named in the settings may vote with a feedback token, and nothing else.

Any page can have a browser send something to this machine's loopback, unseen and without being asked back; and one
whose name is made to mean 127.0.0.1 (DNS rebinding) reads the answer too. Keys stop that, since no browser sends one by
itself. A server without keys therefore looks at the name that it was called by, and at the page that calls.
"""

import re
from collections.abc import Collection, Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

_PATH = "/v1/feedback"
_METHODS = ("POST", "PUT", "DELETE")
_LOCAL = rb"(?:(?:[a-z0-9-]+\.)*localhost\.?|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?"
_LOCAL_HOST, _LOCAL_PAGE = (re.compile(scheme + _LOCAL, re.IGNORECASE) for scheme in (b"", rb"https?://"))
_OTHER_HOST = (
    "Without API keys only calls to localhost, 127.0.0.1 or [::1] are answered, and the Host of this one is another;"
    " call it by one of these, or make a key with trimtab keys create."
)
_OTHER_PAGE = (
    "Without API keys no web page of another site is answered; make a key with trimtab keys create, or, if the page is"
    " yours and shall vote, name it in TRIMTAB_CORS_ORIGINS."
)
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


def why_foreign(scope: Scope, pages: Collection[str]) -> str | None:
    """Return in a sentence why a server without keys does not answer a request; None where it does.

    Args:
        scope: of the request; its head alone is looked at.
        pages: the origins whose pages may vote, ``*`` for all.
    """
    crosses = False
    named: bool | None = None
    for name, value in scope["headers"]:
        if name == b"host":
            if not _LOCAL_HOST.fullmatch(value):
                return _OTHER_HOST
        elif name == b"origin":
            named = bool(_LOCAL_PAGE.fullmatch(value)) or (
                _votes(scope) and ("*" in pages or value.decode("latin-1") in pages)
            )
        elif name == b"sec-fetch-site":
            crosses = value == b"cross-site"
    if named is None:  # a link or a picture comes without its page's origin
        named = not crosses
    return None if named else _OTHER_PAGE


def _votes(scope: Scope) -> bool:
    path: str = scope["path"]
    return (path == _PATH or path.startswith(f"{_PATH}/")) and scope["method"] in (*_METHODS, "OPTIONS")


class FeedbackAcrossOrigins:
    """Answers browsers for the calls that a feedback token may make; other calls stay closed to web pages."""

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self._app = app
        self._voting = CORSMiddleware(
            app, allow_origins=allowed, allow_methods=_METHODS, allow_headers=["authorization", "content-type"]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, by way of the browser's rules where they apply."""
        voting = scope["type"] == "http" and _votes(scope)
        await (self._voting if voting else self._app)(scope, receive, send)
