"""Feedback tokens: signed and short-lived, good for judging one inference, so that a browser can vote without a key."""

import base64
import binascii
import hashlib
import hmac
import time
from dataclasses import dataclass
from uuid import UUID

from telemetry.ids import keyed_hash

PREFIX = "ft_"
_BODY, _MAC = 36, 16
_WHOLE = 0xFFFF


class WrongToken(ValueError):
    """This feedback token is not one of ours; take the one that came with the decision."""


class TokenExpired(ValueError):
    """This feedback token has expired; feedback is closed for this inference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackToken:
    """Who may judge which inference: ``judge`` is the keyed hash of the person or session that asked, if known."""

    inference_id: UUID
    judge: str | None

    def feedback_id(self, segment_index: int | None) -> UUID:
        """Return the id of the one judgement that the token's holder has of the inference, or of a segment of it."""
        digest = bytearray(hashlib.sha256(b"judged by token" + self.inference_id.bytes).digest()[:14])
        digest[6] = digest[6] & 0x0F | 0x80  # UUIDv8 (RFC 9562): the rest is our own
        digest[8] = digest[8] & 0x3F | 0x80
        place = _WHOLE if segment_index is None else segment_index
        return UUID(bytes=bytes(digest) + place.to_bytes(2, "big"))

    def owns(self, feedback_id: UUID) -> bool:
        """Tell whether a judgement was made with a token for this inference."""
        return feedback_id.bytes[:14] == self.feedback_id(None).bytes[:14]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSigner:
    """Makes and reads tokens.

    Args:
        key: 32 secret bytes, the same on every server; also hashes people.
        hours: how long a token is good for; 0 makes none.
    """

    key: bytes
    hours: float

    def issue(self, inference_id: UUID, *, end_user: str | None, session_id: str | None) -> str | None:
        """Return a token for one inference; ``end_user`` is the keyed hash as it is stored, ``session_id`` as sent."""
        if self.hours == 0:
            return None
        judge = end_user or (keyed_hash(f"session {session_id}", key=self.key) if session_id else None)
        expires = min(int(time.time() + 3600 * self.hours), 2**32 - 1)
        body = inference_id.bytes + expires.to_bytes(4, "big") + (bytes.fromhex(judge) if judge else bytes(16))
        return _text(body + self._mac(body))

    def read(self, token: str) -> FeedbackToken:
        """Return what a token says.

        Raises:
            WrongToken: it was not signed with this key.
            TokenExpired: its time is over.
        """
        try:
            raw = base64.b64decode(token.removeprefix(PREFIX).encode() + b"==", b"-_", validate=True)
        except (ValueError, binascii.Error):
            raise WrongToken(WrongToken.__doc__) from None
        body = raw[:_BODY]
        if token != _text(raw) or len(raw) != _BODY + _MAC or not hmac.compare_digest(raw[_BODY:], self._mac(body)):
            raise WrongToken(WrongToken.__doc__)
        if int.from_bytes(body[16:20], "big") <= time.time():
            raise TokenExpired(TokenExpired.__doc__)
        judge = body[20:]
        return FeedbackToken(inference_id=UUID(bytes=body[:16]), judge=judge.hex() if any(judge) else None)

    def _mac(self, body: bytes) -> bytes:
        return hmac.new(self.key, b"feedback token" + body, hashlib.sha256).digest()[:_MAC]


def _text(raw: bytes) -> str:
    return PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")
