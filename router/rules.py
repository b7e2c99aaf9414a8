"""Keyword rules. Patterns are the operator's, queries are anybody's: only google-re2 matches them (linear time)."""

from collections.abc import Sequence
from typing import Any

import re2

_MAX_MEMORY = 8 << 20


class BadPattern(ValueError):
    """A keyword cannot be compiled."""


def keyword_pattern(keyword: str) -> str:
    """The re2 pattern of a keyword: what stands between slashes, or the words themselves, whole and in any case."""
    if len(keyword) > 2 and keyword.startswith("/") and keyword.endswith("/"):
        return f"(?i:{keyword[1:-1]})"
    words = r"\s+".join(re2.escape(word) for word in keyword.split())
    # \b of re2 knows ASCII only, and a keyword may begin or end with another sign (C++).
    return rf"(?i)(?:^|[^\pL\pN_])(?:{words})(?:$|[^\pL\pN_])"


def compile_keyword(keyword: str) -> Any:
    """Compile one keyword.

    Raises:
        BadPattern: re2 does not accept it; look-around and back-references do not exist there.
    """
    options = re2.Options()
    options.max_mem = _MAX_MEMORY
    options.log_errors = False
    try:
        return re2.compile(keyword_pattern(keyword), options)
    except re2.error as error:
        raise BadPattern(error.args[0].decode(errors="replace")) from None


class KeywordRules:
    """The keywords of all routes; says which routes a query names.

    Args:
        keywords: one sequence of keywords a route.
    """

    def __init__(self, keywords: Sequence[Sequence[str]]) -> None:
        self._rules = [(route, compile_keyword(keyword)) for route, words in enumerate(keywords) for keyword in words]

    def matches(self, query: str) -> tuple[int, ...]:
        """Positions of the routes with a keyword in the query, in order, each once."""
        text = query.encode("utf-8", "replace")
        return tuple(sorted({route for route, pattern in self._rules if pattern.search(text)}))
