"""Who may call what, and how much at once: the scope of each call, and each key's rate and concurrency."""

import math
import re
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from api.cross_origin import why_foreign
from api.errors import problem
from api.feedback_tokens import PREFIX, FeedbackToken, TokenExpired, TokenSigner, WrongToken
from api.keyring import Keyring, why_unusable
from telemetry.api_keys import TOKEN_PRINCIPAL, ApiKey

DOCS_FILES = "/docs/files"
_DOCS = ("/docs", *(f"{DOCS_FILES}/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")))
OPEN = ("/healthz", "/readyz", "/openapi.json", *_DOCS)
_READING = ("GET", "HEAD", "OPTIONS")
_WRITING = {"route": "decide", "inferences": "ingest", "feedback": "feedback", "feedback-tokens": "feedback"}
_RESOURCE = re.compile(r"[/:]")
_MOST_METERS = 10_000
# One person's hands, for one inference.
_TOKEN_RATE, _TOKEN_BURST, _TOKEN_CONCURRENCY, _TOKEN_BYTES = 0.5, 20.0, 4, 100_000
_CALLER = "trimtab.caller"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: the name of the key (None: nobody asked for one), and the most bytes that a body may have.

    ``token`` is what the caller came with instead of a key; it then judges that inference and nothing else.
    """

    principal: str | None = None
    body_bytes: int | None = None
    token: FeedbackToken | None = None


_ANYBODY = Caller()


def caller_of(request: Request) -> Caller:
    """Return who sent this request."""
    caller: Caller = request.scope.get(_CALLER, _ANYBODY)
    return caller


def scope_of(method: str, path: str) -> str | None:
    """Return the scope that a call needs, None for what is open to all. What is not listed needs the strongest."""
    if path in OPEN:
        return None
    if method in _READING:
        return "read"
    first = _RESOURCE.split(path.removeprefix("/v1/"), maxsplit=1)[0] if path.startswith("/v1/") else ""
    return _WRITING.get(first, "publish")


@dataclass(slots=True, kw_only=True)
class _Meter:
    """A bucket that fills with ``rate`` a second up to one second's worth, and how many requests run."""

    left: float
    at: float
    running: int = 0

    def wait(self, *, rate: float, burst: float) -> float:
        """Take one; return 0, or the seconds until there is one."""
        now = time.monotonic()
        self.left = min(burst, self.left + (now - self.at) * rate)
        self.at = now
        if self.left < 1:
            return (1 - self.left) / rate
        self.left -= 1
        return 0.0


class Admission:
    """Decides about each request from its head alone, before a byte of its body is read.

    Args:
        keyring: the keys.
        signer: reads feedback tokens.
        closed: a key is needed although there may be none, for others than this machine can reach the server.
        rate: requests a second of each key that has no limit of its own.
        concurrency: requests of it that may run at once.
        pages: origins of web pages that may vote while there are no keys.
    """

    def __init__(
        self,
        keyring: Keyring,
        signer: TokenSigner,
        *,
        closed: bool,
        rate: float,
        concurrency: int,
        pages: Collection[str] = (),
    ) -> None:
        self._keyring = keyring
        self._signer = signer
        self._closed = closed
        self._pages = pages
        self._defaults: Mapping[str, float] = {"rate": rate, "concurrency": concurrency}
        self._meters: OrderedDict[str, _Meter] = OrderedDict()

    @property
    def knows(self) -> bool:
        """Whether the keys are known, where one is needed: until then nobody is let in."""
        return self._keyring.known or not self._closed

    def admit(self, scope: Scope) -> "tuple[Caller, _Meter | None] | JSONResponse":
        """Return who calls and the meter to give back when the request is done, or the answer that refuses it."""
        needed = scope_of(scope["method"], scope["path"])
        if needed is None:
            return _ANYBODY, None
        presented = _presented(scope)
        if presented is not None and presented.startswith(PREFIX):
            return self._by_token(scope, presented)
        if not self._closed and not self._keyring.any:
            why = why_foreign(scope, self._pages)
            return (_ANYBODY, None) if why is None else problem(403, "not_local", why)
        if not self.knows:
            return problem(503, "not_ready", "The list of API keys is not known yet; try again in a moment.")
        if presented is None:
            detail = f"This call needs an API key with the scope {needed}; send it as Authorization: Bearer KEY."
            return _refused(401, "key_missing", detail)
        key = self._keyring.find(presented)
        why = "This API key is not known; trimtab keys list shows those there are." if key is None else None
        why = why or (why_unusable(key) if key else None)
        if key is None or why:
            return _refused(401, "key_wrong", str(why), 'error="invalid_token"')
        if needed not in key.scopes:
            detail = f"This API key lacks the scope {needed}; make one that has it with trimtab keys create."
            return _refused(403, "scope_missing", detail, f'error="insufficient_scope", scope="{needed}"')
        return self._measured(key)

    def _by_token(self, scope: Scope, presented: str) -> "tuple[Caller, _Meter] | JSONResponse":
        """Feedback may be given with a token, be there keys or not."""
        try:
            token = self._signer.read(presented)
        except (WrongToken, TokenExpired) as error:
            return _refused(401, "token_wrong", str(error), 'error="invalid_token"')
        path, writes = scope["path"], scope["method"] in ("POST", "PUT", "DELETE")
        if not writes or not (path == "/v1/feedback" or path.startswith("/v1/feedback/")):
            detail = "A feedback token can only give, revise and withdraw the feedback of its inference."
            return _refused(403, "scope_missing", detail, 'error="insufficient_scope", scope="feedback"')
        caller = Caller(principal=TOKEN_PRINCIPAL, body_bytes=_TOKEN_BYTES, token=token)
        return self._within(presented, caller, rate=_TOKEN_RATE, concurrency=_TOKEN_CONCURRENCY, burst=_TOKEN_BURST)

    def _measured(self, key: ApiKey) -> "tuple[Caller, _Meter] | JSONResponse":
        limits = {**self._defaults, **key.limits}
        size = limits.get("body_bytes")
        caller = Caller(principal=key.name, body_bytes=None if size is None else int(size))
        return self._within(key.key_id, caller, rate=limits["rate"], concurrency=limits["concurrency"])

    def _within(
        self, who: str, caller: Caller, *, rate: float, concurrency: float, burst: float | None = None
    ) -> "tuple[Caller, _Meter] | JSONResponse":
        burst = burst or max(1.0, rate)
        meter = self._meters.get(who)
        if meter is None:
            meter = self._meters[who] = _Meter(left=burst, at=time.monotonic())
            if len(self._meters) > _MOST_METERS:
                self._meters.popitem(last=False)
        self._meters.move_to_end(who)  # what is forgotten first was used least lately, so none gets its burst anew
        if meter.running >= concurrency:
            detail = f"More than {concurrency:,.0f} requests of this caller run at once; wait for some of them to end."
            return problem(429, "too_many_at_once", detail)
        if wait := meter.wait(rate=rate, burst=burst):
            answer = problem(429, "rate_limited", f"This caller may send {rate:,g} requests a second; slow down.")
            answer.headers["Retry-After"] = str(math.ceil(wait))
            return answer
        return caller, meter


def _presented(scope: Scope) -> str | None:
    """The bearer's token of the request's head."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, token = value.decode("latin-1").partition(" ")
            return token.strip() if kind.lower() == "bearer" else ""
    return None


def _refused(status: int, code: str, detail: str, more: str = "") -> JSONResponse:
    answer = problem(status, code, detail)
    answer.headers["WWW-Authenticate"] = ", ".join(['Bearer realm="trimtab"', *([more] if more else [])])
    return answer


class AdmissionMiddleware:
    """Asks ``Admission`` about every request; plain ASGI, since it stands before every request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or hand it on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        admission: Admission = scope["app"].state.server.admission
        admitted = admission.admit(scope)
        if isinstance(admitted, JSONResponse):
            return await admitted(scope, receive, send)
        scope[_CALLER], meter = admitted
        if meter is None:
            return await self._app(scope, receive, send)
        meter.running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            meter.running -= 1
