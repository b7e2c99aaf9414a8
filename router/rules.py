"""Keyword rules. Patterns are the operator's, queries are anybody's: only google-re2 matches them (linear time)."""

from collections.abc import Sequence
from typing import Any

import re2

_MAX_MEMORY = 64 << 20
# These scripts put no blanks between words, so a word of them begins and ends anywhere. The long vowel of Katakana is
# of no script to Unicode.
_WITHOUT_BLANKS = r"\p{Han}\p{Hiragana}\p{Katakana}\x{30FC}\x{FF70}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_ANYWHERE = re2.compile(f"[{_WITHOUT_BLANKS}]")
# \b of re2 knows ASCII only, and a keyword may begin or end with another sign (C++).
_BEFORE, _BEHIND = (rf"(?:{end}|[^\pL\pN_]|[{_WITHOUT_BLANKS}])" for end in ("^", "$"))


class BadPattern(ValueError):
    """A keyword cannot be compiled."""


def keyword_pattern(keywords: Sequence[str]) -> str:
    """One re2 pattern for all these keywords: what stands between slashes, or words, whole and in any case.

    Beside a sign of a script without blanks a word is whole too.
    """
    words: dict[tuple[str, str], list[str]] = {}
    expressions = []
    for keyword in keywords:
        if len(keyword) > 2 and keyword.startswith("/") and keyword.endswith("/"):
            expressions.append(f"(?i:{keyword[1:-1]})")
        else:
            word = r"\s+".join(re2.escape(word) for word in keyword.split())
            before = "" if _ANYWHERE.match(keyword) else _BEFORE
            behind = "" if _ANYWHERE.match(keyword[-1:]) else _BEHIND
            words.setdefault((before, behind), []).append(word)
    for (before, behind), alike in words.items():
        expressions.append(f"{before}(?i:{'|'.join(alike)}){behind}")
    return "|".join(expressions)


def compile_keywords(keywords: Sequence[str]) -> Any:
    """Compile keywords into one pattern.

    Raises:
        BadPattern: re2 does not accept one; look-around and back-references do not exist there.
    """
    options = re2.Options()
    options.max_mem = _MAX_MEMORY
    options.log_errors = False
    try:
        return re2.compile(keyword_pattern(keywords), options)
    except re2.error as error:
        raise BadPattern(error.args[0].decode(errors="replace")) from None


class KeywordRules:
    """The keywords of all routes; says which routes a query names.

    Args:
        keywords: one sequence of keywords a route.
    """

    def __init__(self, keywords: Sequence[Sequence[str]]) -> None:
        self._rules = [(route, compile_keywords(words)) for route, words in enumerate(keywords) if words]

    def matches(self, query: str) -> tuple[int, ...]:
        """Positions of the routes with a keyword in the query, in order."""
        text = query.encode("utf-8", "replace")
        return tuple(route for route, pattern in self._rules if pattern.search(text))
