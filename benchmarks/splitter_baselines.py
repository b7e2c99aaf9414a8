"""What the splitter is compared with: nothing, rules, a sentence library."""

from collections.abc import Callable

import pysbd
import re2

Spans = tuple[tuple[int, int], ...]
SplitText = Callable[[str], Spans]

# A connector, or a mark, and behind it what a request begins with. Written for the train part of MixCLINC.
_OPENING = (
    r"(?:please |kindly )?(?:what|where|when|who|whose|which|why|how|can|could|would|will|do|does|did|is|are|am|was|"
    r"were|have|has|should|shall|may|i|i'm|i'd|i've|my|we|there|tell|show|give|find|get|let|make|set|put|add|remove|play|"
    r"book|order|call|cancel|change|turn|check|help|need|want|send|transfer|pay|schedule|remind|look|thank|thanks|"
    r"hi|hello|you|your|the|if|in|on|please)\b"
)
_CONNECTOR = (
    r"(?:[,;.?!]? (?:oh and|and also|and then|as well as|and|also|then|plus|by the way|btw)(?:,| please)? "
    r"| ?[,;] (?:oh )?(?:and |also |then )*(?:by the way )?|[.?!] )"
)
_BETWEEN = re2.compile(rf"(?i)({_CONNECTOR}){_OPENING}")


def never(query: str) -> Spans:
    """The query as a whole."""
    return ((0, len(query)),)


def by_rules(query: str) -> Spans:
    """Cut at every connector in front of a word that requests begin with."""
    spans, start = [], 0
    at = 0
    while (found := _BETWEEN.search(query, at)) is not None:
        at = found.end(1)
        if found.start(1) > start:
            spans.append((start, found.start(1)))
            start = found.end(1)
    return (*spans, (start, len(query)))


def by_sentences() -> SplitText:
    """Cut where the library pysbd sees a new sentence."""
    segmenter = pysbd.Segmenter(language="en", clean=False, char_span=True)

    def split(query: str) -> Spans:
        found = [(s.start, s.start + len(s.sent.rstrip())) for s in segmenter.segment(query) if s.sent.strip()]
        inner = [(start, start + len(query[start:end].rstrip(".,;:?! "))) for start, end in found[:-1]]
        return tuple(span for span in (*inner, *found[-1:]) if span[1] > span[0]) or never(query)

    return split
