"""The ablation's report: Markdown, plots and a JSON of every figure, all of it written from what was measured."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unils_training.ablation.collect import JUDGED_LOOK_AHEAD, Arm, Family
from unils_training.ablation.figures import BY_NAME, OURS, PAPER, Figure, Spread
from unils_training.ablation.plan import VARIANTS
from unils_training.ablation.plots import draw
from unils_training.ablation.verdicts import (
    CLAIMS,
    LEAST_SHARE,
    SPREADS,
    Claim,
    Finding,
    cost,
    findings,
    overall,
    sentence,
    tally,
)
from unils_training.evaluation.report import plain
from unils_training.model_card import table

LITERATURE_COST = 0.06  # FACTS: lip-sync confidence lost from offline to online, DyStream
LEAST_LIPS = 0.6  # jaw correlation of a model whose lips follow; below, a comparison of lips says little
ARROWS = {1: "↑", -1: "↓", 0: ""}
COST_FIGURES = ("jaw", "closures", "lve", "mhd")
LOOK_AHEAD_FIGURES = ("lve", "mhd", "jaw", "closures", "std", "speed", "fdd", "reactions")


def write(families: Sequence[Family], path: Path, commands: Sequence[str]) -> str:
    """Writes the report to `path`, its plots to `images/ablation` beside it, and its figures to a `.json` of its name.

    Raises:
        ValueError: there is nothing to report.
    """
    if not families:
        raise ValueError("no full model was trained and evaluated yet: there is nothing to report")
    plots = draw(families, path.parent / "images" / "ablation")
    relative = {name: plot.relative_to(path.parent).as_posix() for name, plot in plots.items()}
    text = compose(families, relative, commands)
    path.write_text(text, encoding="utf-8")
    document = json.dumps(plain(figures_of(families)), indent=1, allow_nan=False)
    path.with_suffix(".json").write_text(document + "\n", encoding="utf-8")
    return text


def compose(families: Sequence[Family], plots: dict[str, str], commands: Sequence[str]) -> str:
    """The report as Markdown."""
    parts = [
        "# The paper's ablation, on the simulator",
        "Written by `unils-train ablate` from its evaluations: every table, figure and verdict here is computed.",
        _setting(families),
        "## What reproduces",
        _rule(),
        *(_verdicts(family) for family in families),
        "## What causality costs",
        _causality(families),
    ]
    for family in families:
        parts += [f"## Family `{family.name}`", _sizes(family), _tables(family), *_plots(family, plots)]
        if len(family.full.look_aheads) > 1:
            parts += ["### Look-ahead", _look_ahead(family), _image(plots, f"{family.name}_look_ahead", "look-ahead")]
    parts += ["## To make it again", _commands(commands), _times(families)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _setting(families: Sequence[Family]) -> str:
    evaluation = families[0].full.evaluations[0]
    corpus = evaluation["corpus"]
    hours = corpus.get("hours", {})
    names = {"motion": "motion without sound"}
    amounts = ", ".join(f"{names.get(name, name)} {value:g} h" for name, value in hours.items())
    seeds = {family.name: len(family.full.seeds) for family in families}
    listed = ", ".join(f"{count} of `{name}`" for name, count in seeds.items())
    return (
        f"Corpus: the simulator's ([corpus.md](corpus.md)), seed {corpus.get('seed', 'unknown')}"
        f"{f' ({amounts})' if amounts else ''}; a conversation gives two faces. Seeds: {listed}. Measured on "
        f"{evaluation['minutes']:.0f} minutes ({len(evaluation['ids'])} sides) of its `{evaluation['split']}` split, "
        "whose voices were never trained on, at the sampling settings of the configuration and, for `stream`, "
        f"look-ahead {JUDGED_LOOK_AHEAD} on the own track and 0 on the other. ± is the standard deviation over seeds. "
        "Figures are those of [metrics.md](metrics.md), LVE, MHD and FDD in their blendshape forms, so they compare "
        "with each other and not with the paper's millimetres. These are small models trained briefly: directions are "
        "what is tested."
    )


def _rule() -> str:
    return (
        f"A difference counts when it exceeds {SPREADS:g} pooled standard deviations over seeds and {LEAST_SHARE:.0%} "
        "of the full model's figure. A claim reproduces (or does not) when more than half of its figures say so and "
        "none says the opposite; otherwise it is inconclusive. *Listening spread* and *speed* are means over head, "
        "brows and mouth of the ratio to truth; a speed above 1 is faster than truth, which is jitter and not life."
    )


def _verdicts(family: Family) -> str:
    lines = []
    for claim in CLAIMS:
        found = claim_findings(family, claim)
        if found is None:
            lines.append(f"- {claim.sentence} ({claim.source}): **not measured**.")
            continue
        lines.append(f"- {claim.sentence} ({claim.source}): **{overall(found)}** (figures: {tally(found)}).")
        lines += [f"  - {sentence(finding)}." for finding in found]
    return f"`{family.name}`:\n\n" + "\n".join(lines)


def claim_findings(family: Family, claim: Claim) -> tuple[Finding, ...] | None:
    """The findings of a claim; None where its variant was not run."""
    arm = family.arms.get(claim.variant)
    return None if arm is None else findings(claim, family.full.spreads(), arm.spreads())


def _causality(families: Sequence[Family]) -> str:
    by_name = {family.name: family for family in families}
    if not {"stream", "published"} <= by_name.keys():
        return f"Not measured: it needs both families, and only {', '.join(by_name)} is finished."
    ours, theirs = by_name["stream"].full, by_name["published"].full
    rows = []
    for ahead in ours.look_aheads:
        costs = [cost(name, ours.spreads(ahead)[name], theirs.spreads()[name]) for name in COST_FIGURES]
        rows.append([f"{ahead} frames ({40 * ahead} ms)", *(_share(each.shares) for each in costs)])
    header = ["look-ahead of `stream`", *(BY_NAME[name].title for name in COST_FIGURES)]
    judged = cost("jaw", ours.spreads()["jaw"], theirs.spreads()["jaw"]).shares.mean
    learnt = theirs.spreads()["jaw"].mean
    within = "less" if judged < LITERATURE_COST else "not less"
    verdict = (
        f"At look-ahead {JUDGED_LOOK_AHEAD} `stream` loses {judged:.1%} of the jaw correlation of `published`"
        if judged >= 0
        else f"At look-ahead {JUDGED_LOOK_AHEAD} `stream` has {-judged:.1%} more jaw correlation than `published`"
    )
    literature = f"the {LITERATURE_COST:.0%} that the literature loses"
    if learnt >= LEAST_LIPS:
        verdict = f"{verdict}: {within} than {literature}."
    else:
        verdict = (
            f"**Not settled.** {verdict}, but the lips of `published` have not learnt to follow yet (jaw correlation "
            f"{learnt:.2g}, under {LEAST_LIPS:g}): the table compares how fast the two learn, and says nothing about "
            f"{literature}."
        )
    return (
        "What the lips of `stream`, which hears a frame or two ahead, lose against `published`, which hears whole "
        "windows of 4 s, on the same data and by the share of `published`'s figure; positive is a loss. The two also "
        "differ in size, audio encoder and steps (below), so this compares what one core makes of each.\n\n"
        + table(header, rows)
        + f"\n\n{verdict}"
    )


def _share(values: Spread) -> str:
    if not values.values:
        return "n/a"
    text = f"{values.mean:+.1%}"
    return text if math.isnan(values.sd) else f"{text} ± {values.sd:.1%}"


def _sizes(family: Family) -> str:
    parts = ", ".join(f"{name.replace('_', ' ')} {count / 1e6:.2f} M" for name, count in family.parameters.items())
    config = family.full.run.config
    stages = []
    for name in ("codec", "prior", "dialogue"):
        training = getattr(config, name).training
        stages.append(f"{name} {training.steps} steps of {training.batch_clips} clips of {training.clip_frames} frames")
    seeds = {facts["seed"] for facts in family.stages if facts["stage"] == "codec"}
    shared = "Codec and prior are shared by the variants of a seed."
    if len(seeds) < len(family.full.seeds):
        shared = f"Codec and priors of seed {min(seeds)} serve every seed, so ± is of the dialogue stage alone."
    missing = [v.title for v in VARIANTS if v.name not in family.arms]
    fewer = [
        f"{arm.run.variant.title} ({len(arm.seeds)} of {len(family.full.seeds)} seeds)"
        for arm in family.arms.values()
        if len(arm.seeds) < len(family.full.seeds)
    ]
    absent = f" Not run: {', '.join(missing)}." if missing else ""
    absent += f" Run with fewer seeds: {', '.join(fewer)}." if fewer else ""
    return f"Parameters: {parts}. Training: {'; '.join(stages)}. {shared}{absent}"


def _tables(family: Family) -> str:
    return f"The paper's table:\n\n{_table(family, PAPER)}\n\nFurther:\n\n{_table(family, OURS)}"


def _table(family: Family, figures: Sequence[Figure]) -> str:
    header = ["", *(f"{figure.title} {ARROWS[figure.better]}".rstrip() for figure in figures)]
    rows = []
    for arm in family.arms.values():
        spreads = arm.spreads()
        rows.append([arm.run.variant.title, *(str(spreads[figure.name]) for figure in figures)])
    return table(header, rows)


def _look_ahead(family: Family) -> str:
    rows = []
    for ahead in family.full.look_aheads:
        spreads = family.full.spreads(ahead)
        rows.append([str(ahead), *(str(spreads[name]) for name in LOOK_AHEAD_FIGURES)])
    header = ["frames on the own track", *(BY_NAME[name].title for name in LOOK_AHEAD_FIGURES)]
    return "One set of weights, the full model, at several look-aheads:\n\n" + table(header, rows)


def _plots(family: Family, plots: dict[str, str]) -> list[str]:
    titles = {"lips": "lips", "listening": "listening", "curves": "learning curves", "spectra": "listening spectra"}
    return [_image(plots, f"{family.name}_{name}", title) for name, title in titles.items()]


def _image(plots: dict[str, str], name: str, title: str) -> str:
    return f"![{title}]({plots[name]})" if name in plots else ""


def _commands(commands: Sequence[str]) -> str:
    return "```\n" + "\n".join(commands) + "\n```"


def _times(families: Sequence[Family]) -> str:
    rows = []
    for family in families:
        for stage in ("codec", "prior", "dialogue"):
            mine = [facts for facts in family.stages if facts["stage"] == stage]
            if not mine:
                continue
            cores = [facts["core_seconds"] for facts in mine if facts["core_seconds"] is not None]
            rows.append(
                [
                    *(f"`{family.name}` {stage}", str(len(mine)), f"{mine[0]['steps']}"),
                    f"{sum(facts['frames'] for facts in mine) / 25 / 3600 / len(mine):.1f}",
                    f"{sum(facts['wall_seconds'] for facts in mine) / 60:.0f}",
                    f"{sum(cores) / 60:.0f}" + ("" if len(cores) == len(mine) else f" ({len(cores)} of them)"),
                ]
            )
    header = ["stage", "runs", "steps", "hours of motion seen, each", "wall time, all (min)", "core time, all (min)"]
    return (
        f"On {platform.machine()}, PyTorch on one thread, beside other work (core time is what was computed):\n\n"
        + table(header, rows)
    )


def figures_of(families: Sequence[Family]) -> dict[str, Any]:
    """Every figure, by family, variant and look-ahead, with seeds; and every verdict."""

    def arm_figures(arm: Arm) -> dict[str, Any]:
        return {
            "seeds": list(arm.seeds),
            "look_ahead": {
                str(ahead): {name: list(values.values) for name, values in arm.spreads(ahead).items()}
                for ahead in arm.look_aheads
            },
            "curves": arm.curves,
        }

    document: dict[str, Any] = {"format": "unils-ablation", "format_version": 1, "families": {}, "verdicts": {}}
    for family in families:
        document["families"][family.name] = {
            "parameters": family.parameters,
            "stages": list(family.stages),
            "corpus": family.full.evaluations[0]["corpus"],
            "variants": {name: arm_figures(arm) for name, arm in family.arms.items()},
        }
        verdicts = {claim.variant: claim_findings(family, claim) for claim in CLAIMS}
        document["verdicts"][family.name] = {
            name: {"overall": overall(found), "figures": {each.figure: each.outcome for each in found}}
            for name, found in verdicts.items()
            if found is not None
        }
    return document
