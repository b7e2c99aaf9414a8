"""A decision in words that a person can read."""

from router.decision import Candidate, Decision, RoutedSegment


def explain(decision: Decision) -> list[str]:
    """Sentences: where each part goes and why, what else was weighed, why it was split or not, who decided."""
    lines: list[str] = []
    for segment in decision.segments:
        where = f'"{segment.text}" ' if len(decision.segments) > 1 else ""
        lines.append(f"{where}{'goes' if where else 'Goes'} to {segment.route}: {_why(segment)}.")
        lines.append(f"Weighed: {'; '.join(_candidate(candidate) for candidate in segment.candidates)}.")
        lines.append(_chance(segment))
    lines.append(f"Split: {decision.split.reason}")
    lines.append(f"Decided by {_version(decision)}, policy {decision.policy}.")
    return lines


def _why(segment: RoutedSegment) -> str:
    best = segment.candidates[0].similarity if segment.candidates else -1.0
    match segment.cause:
        case "keyword":
            return "one of its keywords is in the question"
        case "pinned":
            return "the caller asked for this route"
        case "abstained":
            return "the question is too unlike everything that the routes know"
        case "explored":
            return "it is nearly as likely as the best one, and was tried to learn more"
        case "session":
            return "the session is there already and no other route is clearly better"
        case "reasked":
            return "the question came again, so the route just tried was left out"
        case "centroid":
            return (
                f"{segment.score:.0%} sure by similar questions (closest cosine {best:.2f}, lead {segment.margin:+.0%})"
            )


def _candidate(candidate: Candidate) -> str:
    numbers = f"utility {candidate.utility:.2f}, cosine {candidate.similarity:.2f}"
    return f"{candidate.route} {candidate.probability:.0%}, {numbers}"


def _chance(segment: RoutedSegment) -> str:
    if segment.propensity >= 1.0:
        return "Nothing was left to chance."
    return f"Chance of this choice: {segment.propensity:.1%}; the rest of the time another likely route is tried."


def _version(decision: Decision) -> str:
    if decision.router_version == 0:
        return "a version that was never published"
    return f"version {decision.router_version} ({decision.fingerprint[:12]})"
