"""Does a direction of the paper reproduce? A difference counts where it is larger than what seeds make of it.

The rule, for a figure with mean and standard deviation over the seeds of both arms: the difference of the means must
exceed twice the pooled standard deviation, and 2 % of the full model's figure. Then it reproduces where its sign is the
paper's and does not where it is the other; a difference within that is inconclusive, as is one without spread.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from unils_training.ablation.figures import BY_NAME, Spread

SPREADS = 2.0
LEAST_SHARE = 0.02

Outcome = Literal["reproduces", "does not reproduce", "inconclusive"]


@dataclasses.dataclass(frozen=True)
class Claim:
    """What is claimed of a variant: each figure with the sign of its change from the full model."""

    variant: str
    sentence: str
    source: str
    changes: tuple[tuple[str, int], ...]


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "no_stage_1",
        "Without stage 1 the listener is stiffer",
        "the paper: L-FDD 17.12 -> 25.64",
        (("std", -1), ("speed", -1), ("fdd", 1)),
    ),
    Claim(
        "mixed",
        "One mixed cross-attention makes lips worse",
        "the paper: S-LVE 5.83 -> 11.48",
        (("lve", 1), ("jaw", -1), ("closures", -1)),
    ),
    Claim(
        "no_other_track",
        "Without the other track reactions fall to chance",
        "what a deaf listener must do; not in the paper",
        (("reactions", -1),),
    ),
    Claim(
        "dialogues_only",
        "Stage 1 on dialogues only makes the listener stiffer",
        "the paper trains stage 1 on unpaired data for this",
        (("std", -1), ("speed", -1), ("fdd", 1)),
    ),
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One figure of a claim: both arms, and what their difference says."""

    figure: str
    full: Spread
    variant: Spread
    outcome: Outcome
    threshold: float

    @property
    def difference(self) -> float:
        return self.variant.mean - self.full.mean


def judge(figure: str, sign: int, full: Spread, variant: Spread) -> Finding:
    """Compares two arms of a figure that should change by `sign`."""
    pooled = math.sqrt((full.sd**2 + variant.sd**2) / 2.0)
    threshold = max(SPREADS * pooled, LEAST_SHARE * abs(full.mean)) if math.isfinite(pooled) else math.nan
    difference = variant.mean - full.mean
    outcome: Outcome = "inconclusive"
    if math.isfinite(threshold) and abs(difference) > threshold:
        outcome = "reproduces" if difference * sign > 0 else "does not reproduce"
    return Finding(figure, full, variant, outcome, threshold)


def findings(claim: Claim, full: Mapping[str, Spread], variant: Mapping[str, Spread]) -> tuple[Finding, ...]:
    """A finding for each figure of a claim."""
    return tuple(judge(name, sign, full[name], variant[name]) for name, sign in claim.changes)


def overall(found: Sequence[Finding]) -> Outcome:
    """All figures together: what more than half of them say and none of them denies, else inconclusive."""
    outcomes = [finding.outcome for finding in found if finding.outcome != "inconclusive"]
    agree = len(set(outcomes)) == 1 and 2 * len(outcomes) > len(found)
    return outcomes[0] if agree else "inconclusive"


def tally(found: Sequence[Finding]) -> str:
    """How many figures say what, in words."""
    counts = {outcome: sum(finding.outcome == outcome for finding in found) for outcome in get_args(Outcome)}
    words = {"reproduces": "for", "does not reproduce": "against", "inconclusive": "undecided"}
    return ", ".join(f"{count} {words[outcome]}" for outcome, count in counts.items() if count)


def sentence(finding: Finding) -> str:
    """The finding in words, figures included."""
    title = BY_NAME[finding.figure].title
    text = f"{title}: {finding.full} -> {finding.variant}"
    if math.isnan(finding.threshold):
        return f"{text}; one seed has no spread to compare with, so {finding.outcome}"
    return f"{text}; a difference of {finding.difference:+.3g} against {finding.threshold:.2g}: {finding.outcome}"


@dataclasses.dataclass(frozen=True)
class Cost:
    """What the first of two models loses against the second in a figure, in shares of the second's: more is worse."""

    figure: str
    shares: Spread


def cost(figure: str, ours: Spread, theirs: Spread) -> Cost:
    """Paired by seed where both have as many; otherwise of the means."""
    better = BY_NAME[figure].better
    pairs = [(ours.mean, theirs.mean)]
    if len(ours.values) == len(theirs.values):
        pairs = list(zip(ours.values, theirs.values, strict=True))
    return Cost(figure, Spread(tuple(better * (b - a) / abs(b) for a, b in pairs if b and math.isfinite(a - b))))
