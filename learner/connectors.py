"""What people say between two requests: lists by family, loose words, and phrases put together from their parts."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

# What people say between two requests, by family, common ones first; a benchmark leaves families out to test on them.
CONNECTORS: Mapping[str, tuple[str, ...]] = {
    "mark": (". ", "? ", ", ", " , ", "; ", " ; ", "! ", " - ", " / ", " | ", "... ", "\n", ": "),
    "and": ("and", "and", "and", "and please", "and now", "but"),
    "also": ("also", "and also", "also please", "as well as", "plus", "along with", "together with", "too, and"),
    "then": ("then", "and then", "after that", "next", "and next", "afterwards", "once that is done", "when done"),
    "aside": ("by the way", "btw", "oh and", "oh", "ah and", "and hey", "hey", "so", "well", "um", "ok and", "ok"),
    "clause": (
        *("when you get a chance", "if you don't mind", "now that i think about it", "speaking of which", "that aside"),
        *("to switch gears", "on the other hand", "in other news", "with that out of the way", "just so you know"),
        *("since we are talking", "let me ask this too", "on top of that", "moving along", "as you probably know"),
        *("on a different topic", "in that case", "for the record", "as i said", "once you have that", "to be clear"),
        *("if it is not too much", "for my other request", "coming back to my list", "i almost forgot", "what is more"),
        *("if you have the time", "as a bonus", "with regard to the rest", "and because it matters", "not to mention"),
        *("when that is out of the way", "for good measure", "under the same heading", "last but one", "quick one"),
    ),
    "further": ("additionally", "furthermore", "besides", "besides that", "moreover", "apart from that", "in addition"),
    "change": ("on another note", "separately", "changing the subject", "something else", "unrelated, but", "anyway"),
    "more": ("one more thing", "another question", "another thing", "i also need to know", "last thing", "and finally"),
    "while": ("while you are at it", "while i have you", "in the meantime", "before i forget", "at the same time"),
    "order": ("first", "second", "secondly", "third", "lastly", "finally", "last but not least", "1)", "2.", "-"),
}
# No training sees these: how a splitter fares with what people say that nobody thought of.
FOR_JUDGING = (
    *(
        "that reminds me",
        "further to this",
        "if i may",
        "right after",
        "beyond that",
        "to round it off",
        "same goes for",
    ),
    *("as an aside", "at any rate", "in a similar vein", "while on the subject", "to top it off", "while we chat"),
    *("what i really came for is", "number two", "not sure who does this but", "adding on", "and on a side note"),
    *("another one", "plus if you could", "oh before you leave", "completely unrelated", "p.p.s.", "likewise please"),
    *("lest i forget", "one more point", "secondly please", "alongside this", "topping that", "and a follow up"),
)
# Words of which connectors are made that no list holds; strung together at random they teach what connectors are like.
LOOSE_WORDS = re.findall(
    r"\w+",
    "actually now still again please just since because though however instead maybe perhaps okay right alright hmm "
    "look listen say wait hold on topic matter point request for to in of with about this that these those another "
    "other different new quick quickly real fast or well if could not mention sorry thanks great cool good got let me "
    "tell ask part two done after as long speaking more want would like wonder wondering curious turning over back "
    "story side next door similarly likewise equally kindly talk sure yes no never mind the a an ",
)
# Phrases that read like sentences of their own are what a splitter takes for one, and no list holds them all.
_SHAPES = (
    *("{when} {clause}", "{when} {clause}", "{when} {clause} {adverb}", "{lead} {adverb}", "{adverb} {lead}"),
    *("{i} {adverb} {want} to {ask}", "{i} {want} to {ask} {rest}", "{i} {adverb} {want} {rest}", "{let} {rest}"),
    *("{prep} {det} {adj} {noun}", "{prep} {det} {noun}", "{det} {adj} {noun}", "{adj} {noun}", "{prep} {that} {noun}"),
    *("{turning} {noun}", "{turning} {det} {adj} {noun}", "{lead} {turning}", "{here} {adj} {noun}"),
)
_SLOTS: Mapping[str, Sequence[str]] = {
    slot: words.split("|")
    for slot, words in {
        "when": "when|once|as soon as|if|since|because|now|now that|after|as long as|given that|until|where|as|though|"
        "whenever|so long as",
        "clause": "you are done|you are ready|you are free|you can|you get to it|you get a moment|you find time|"
        "you finish|you are around|you are listening|you are on it|you have time|you got that|you did that|"
        "you work on that|we are here|we are talking|we are on it|we speak|we go on|i am here|i am asking|"
        "i think of it|i see you|i am on the line|i remember it|i thought of it|it is possible|it is done|"
        "it suits you|it comes to mind|it crossed my mind|that is done|that is out|that works|this is settled|"
        "nobody minds|all is said",
        "i": "i|i|i'd|we|and i|also i",
        "adverb": "also|still|really|just|quickly|actually|as well|too|even|then|again|lastly|likewise|soon|now",
        "want": "want|would like|wish|wanted|have|hoped|meant|was going|was hoping|had",
        "ask": "ask|hear|check|say|mention|find out|bring up|see|add|request|learn|get",
        "rest": "this|this too|about this|that as well|you this|about another matter|a favor|some more|the following|"
        "as follows|of you|a second point|what comes now",
        "prep": "on|for|about|with|as|to|in|over to|from|regarding|off|after|under|at|by",
        "det": "a|the|my|this|that|some|our|the next|my other|the second|a second|a new",
        "adj": "new|different|other|related|next|side|second|quick|small|final|similar|short|fresh|extra|brief",
        "noun": "matter|topic|point|request|issue|item|task|theme|problem|favor|query|message|story|front|job|step|"
        "area|line|side",
        "that": "that|this|all that|which|those",
        "turning": "speaking of|switching to|turning to|going back to|moving on to|talking about|jumping to|"
        "thinking about|adding to|following up on|moving on|carrying on|continuing",
        "lead": "okay|right|well|so|great|fine|listen|look|alright|sure|cool|perfect|good|thanks|yes|no|hm|wait|hello|"
        "sorry",
        "let": "tell me|let me ask|let me add|allow me|help me with|do me|please add|please take|remind me of|"
        "take care of|handle|add",
        "here": "there is|here is|here comes|now comes|i have|i got|we have|comes",
    }.items()
}
_SHARE_ODD = 0.25


def phrase(rng: np.random.Generator, *, loose: Sequence[str] = LOOSE_WORDS) -> str:
    """A phrase that leads to another request; in every fourth a word is missing or is one of the ``loose`` ones."""

    def drawn(slot: re.Match[str]) -> str:
        return _drawn(rng, _SLOTS[slot[1]])

    words = re.sub(r"\{(\w+)\}", drawn, _drawn(rng, _SHAPES)).split()
    if rng.random() < _SHARE_ODD:
        at = int(rng.integers(len(words)))
        words[at : at + 1] = [_drawn(rng, loose)] if loose and rng.random() < 0.5 else []
    return " ".join(words)


def _drawn(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]
