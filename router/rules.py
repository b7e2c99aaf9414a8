"""Keyword rules. Patterns are the operator's, queries are anybody's: only google-re2 matches them (linear time)."""

from collections.abc import Sequence
from typing import Any

import re2

_MAX_MEMORY = 64 << 20


class BadPattern(ValueError):
    """A keyword cannot be compiled."""


def keyword_pattern(keywords: Sequence[str]) -> str:
    """One re2 pattern for all these keywords: what stands between slashes, or words, whole and in any case."""
    words, expressions = [], []
    for keyword in keywords:
        if len(keyword) > 2 and keyword.startswith("/") and keyword.endswith("/"):
            expressions.append(f"(?i:{keyword[1:-1]})")
        else:
            words.append(r"\s+".join(re2.escape(word) for word in keyword.split()))
    if words:
        # \b of re2 knows ASCII only, and a keyword may begin or end with another sign (C++).
        expressions.append(rf"(?:^|[^\pL\pN_])(?i:{'|'.join(words)})(?:$|[^\pL\pN_])")
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
