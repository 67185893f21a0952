"""Writes a bundle's model card from what was measured: `python -m unils_training.model_card --help`.

Every figure comes from an `eval.json` of `unils-train eval` or from `unils bench --json`; what was not measured is said
not to have been, and a missed target is named as missed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

JUDGED_LOOK_AHEAD = 1


class CardError(ValueError):
    """Files that do not belong together; the message says which."""


def number(value: float | None, digits: int = 3) -> str:
    """A figure as text; None is what was not measured."""
    return "n/a" if value is None else f"{value:.{digits}g}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def load_results(folders: Sequence[Path], sha256: str | None) -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
    """Results by look-ahead, and the first evaluation; all must be of the bundle with this hash, where one is given."""
    evaluations = [json.loads((folder / "eval.json").read_text(encoding="utf-8")) for folder in folders]
    results: dict[int, dict[str, Any]] = {}
    for folder, evaluation in zip(folders, evaluations, strict=True):
        if sha256 is not None and evaluation["bundle"]["sha256"] != sha256:
            raise CardError(f"{folder} measured other weights than the bundle's: evaluate it again")
        for result in evaluation["results"]:
            results.setdefault(result["look_ahead_self"], result)
    if JUDGED_LOOK_AHEAD not in results:
        raise CardError(f"no evaluation at look-ahead {JUDGED_LOOK_AHEAD}, at which the targets are judged")
    return results, next((e for e in evaluations if e["long_run"]), evaluations[0])


def quality(results: dict[int, dict[str, Any]]) -> str:
    """The quality lines, one column a look-ahead, then the missed ones by name."""
    order = [JUDGED_LOOK_AHEAD, *sorted(set(results) - {JUDGED_LOOK_AHEAD})]
    judged = results[JUDGED_LOOK_AHEAD]["lines"]
    verdict = {True: "met", False: "**missed**", None: "not measured"}
    rows = [
        [line["what"], line["target"], *(results[k]["lines"][i]["figure"] for k in order), verdict[line["met"]]]
        for i, line in enumerate(judged)
    ]
    header = ["quality", "target", *(f"look-ahead {k}" for k in order), f"at {JUDGED_LOOK_AHEAD}"]
    text = table(header, rows)
    missed = [f"- {line['what']}: {line['figure']}, not {line['target']}" for line in judged if line["met"] is False]
    unknown = [f"- {line['what']}" for line in judged if line["met"] is None]
    text += "\n\n" + ("Missed:\n\n" + "\n".join(missed) if missed else "No measured target is missed.")
    return text + ("\n\nNot measured:\n\n" + "\n".join(unknown) if unknown else "")


def details(result: dict[str, Any]) -> str:
    """Figures without a target that say how the ones above come about."""
    lips, alive, listening = result["lips"], result["alive"], result["listening"]
    blinks, true_blinks = alive["blinks_per_minute"], alive["blinks_per_minute_truth"]
    rates, true_rates = listening["per_minute"], listening["per_minute_truth"]
    rows = [
        ["jaw correlation, all frames pooled", number(lips["jaw_correlation_pooled"]), "1"],
        ["closures timed within 1 frame, share", number(lips["closure_timing_share_within_1"]), "1"],
        ["closures, mean timing error in frames (late is positive)", number(lips["closure_timing_bias_frames"]), "0"],
        ["closures against the corpus' labels, recall", number(lips["closures_against_labels"]["recall"]), "1"],
        ["closures against the corpus' labels, precision", number(lips["closures_against_labels"]["precision"]), "1"],
        ["mean jawOpen in own silence", number(lips["rest_jaw"]), number(lips["rest_jaw_truth"])],
    ]
    for state in ("speaking", "listening", "silent"):
        rows.append([f"blinks a minute, {state}", number(blinks[state]), number(true_blinks[state])])
    for kind, rate in rates.items():
        rows.append([f"{kind.replace('_', ' ')}s a minute, listening", number(rate), number(true_rates[kind])])
    for state in ("speaking", "listening"):
        part = alive[state]
        rows += [[f"{name.upper()}, {state}", number(part.get(name)), "0"] for name in ("fdd", "pdd", "jdd")]
        rows.append([f"Frechet distance of frames, {state}", number(part.get("frechet")), "0"])
        rows.append([f"Frechet distance with the partner's frames, {state}", number(part.get("paired_frechet")), "0"])
    strict, loose = listening["strict"]["reactions"], listening["loose"]["reactions"]
    rows.append(["reaction F1, IoU >= 0.5", number(strict["f1"]), "1"])
    rows.append(["reaction F1, IoU >= 0.25 or centres within 0.5 s", number(loose["f1"]), "1"])
    text = table(["figure", "model", "truth"], rows)
    figures = result["contingency"]
    if figures:
        text += (
            f"\n\nReaction F1 is {number(figures['f1'])} with the right partner and {number(figures['f1_shuffled'])} "
            f"with another conversation's: {number(figures['ratio'])} times (95 % bootstrap interval over clips "
            f"{number(figures['ratio_low'])} to {number(figures['ratio_high'])})."
        )
    return text


def before_and_after(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The same lines and figures of the weights that these replace, on the same conversations."""
    rows = [
        [old["what"], old["target"], old["figure"], new["figure"]]
        for old, new in zip(before["lines"], after["lines"], strict=True)
    ]
    for state in ("speaking", "listening"):
        for name in ("fdd", "pdd", "jdd", "frechet", "paired_frechet"):
            label = name.upper() if len(name) == 3 else name.replace("_", " ").replace("frechet", "Frechet distance")
            rows.append([f"{label}, {state}", "0", *(number(e["alive"][state].get(name)) for e in (before, after))])
    for kind, truth in after["listening"]["per_minute_truth"].items():
        rates = (number(e["listening"]["per_minute"][kind]) for e in (before, after))
        rows.append([f"{kind.replace('_', ' ')}s a minute, listening", number(truth), *rates])
    scores = (number(e["listening"]["strict"]["reactions"]["f1"]) for e in (before, after))
    return table(["", "target or truth", "before", "now"], [*rows, ["reaction F1, IoU >= 0.5", "1", *scores]])


def long_run(blocks: Sequence[dict[str, float]]) -> str:
    """One session that goes on."""
    keys = list(blocks[0])
    return table([key.replace("_", " ") for key in keys], [[number(block[key]) for key in keys] for block in blocks])


SPEED_TARGETS: tuple[tuple[str, tuple[str, ...], float, str, float], ...] = (
    # what, where in bench.json, scale, unit, bound: every figure at most it, sessions at least it
    ("frame ready after its last sample, p99", ("frame_ready_us", "p99"), 1e-3, "ms", 5.0),
    ("step / reading its weights once", ("step_to_weight_read",), 1.0, "times", 1.5),
    ("real-time sessions on a core", ("sessions_per_core",), 1.0, "", 40.0),
    ("memory of a session", ("session_bytes",), 1e-6, "MB", 4.0),
    ("import unils_sdk", ("import_ms",), 1.0, "ms", 100.0),
    ("model load to first frame", ("load_to_first_frame_ms",), 1.0, "ms", 300.0),
)


def speed(bench: dict[str, Any]) -> str:
    """The speed lines of `unils bench --json`, with the machine named."""
    rows = []
    for what, where, scale, unit, bound in SPEED_TARGETS:
        value: Any = bench
        for key in where:
            value = value[key]
        least = what.startswith("real-time sessions")
        met = value * scale >= bound if least else value * scale <= bound
        target = f"{'>=' if least else '<='} {bound:g} {unit}".rstrip()
        rows.append([what, target, f"{value * scale:.3g} {unit}".rstrip(), "met" if met else "**missed**"])
    machine, model = bench["machine"], bench["model"]
    return (
        f"Measured by `unils bench` on one core of {machine['cpu']} ({machine['cores']} cores, {machine['system']}), "
        f"backend {model['backend']} {model['backend_detail']}; a step takes {bench['step_us']['p50']:.0f} us "
        f"(median).\n\n" + table(["speed", "target", "figure", ""], rows)
    )


def compared_speed(compare: dict[str, Any]) -> str:
    """What benchmarks/compare_pytorch.py found."""
    return (
        f"Side by side with the same model stepped by PyTorch {compare['torch']} in eager mode, one thread, "
        f"{compare['frames']} frames interleaved: {compare['native_us']:.0f} us a frame against "
        f"{compare['pytorch_us']:.0f} us (medians), {compare['ratio']:.1f} times faster."
    )


WHAT = """\
A `{family}` model for the `{rig}` rig: the audio of both people in a conversation in, {channels} channels of facial
motion out at {rate} frames a second, frame by frame. {megabytes:.1f} MB. Look-ahead {self_low} to {self_high} frames on
the own track and {other_low} to {other_high} on the other. Weights sha256 `{sha}`."""

TRAINED_ON = """\
A synthetic corpus that the project makes itself, and nothing else. The voices are espeak-ng's, not recordings of
people. The motion is procedural: rules for lips, brows, head, gaze, blinks and a listener's reactions, written from
published statistics (docs/corpus.md). No face was recorded for it, so the best that this model can do is to move as
those rules do."""

MEASURED = """\
Measured by `unils-train eval` with the {backend} engine on {minutes:.0f} minutes ({sides} sides) of the `{split}`
split, whose voices and seeds were never trained on. Its sentences come from the same
grammars as those of training, so some occur in both (docs/corpus.md). Temperature {temperature:g}, top-p {top_p:g},
guidance {cfg_scale:g}, look-ahead {look_ahead_other} on the other track. docs/metrics.md defines every figure.
Targets are judged at look-ahead {judged} on the own track."""

LIMITS = """\
- Procedural motion: reactions, coarticulation and gaze follow written rules, and vary no more than the rules do.
- Synthetic speech, and synthetic moods in it: real laughter, emotion, singing, shouting and whispering were not heard
  in training, and no figure on this page was measured on real speech.
- Lips follow sound with little or no future: a closure before the first sound of a phrase cannot be on time at
  look-ahead 0.
- Languages that the corpus does not hold were neither trained on nor measured.
- The face reacts to how the other person sounds, not to what is said. It understands nothing; its nod is not consent.
- It makes motion that looks like listening. Tell people what they are talking to."""


def again(provenance: dict[str, Any], corpora: Sequence[dict[str, Any]]) -> str:
    """The commands that make the bundle once more: a round for every bundle that this one went on from, oldest first.

    Args:
        provenance: the bundle's.
        corpora: what `corpus.json` of each round says, in the order of the rounds.
    """
    rounds = [provenance]
    while earlier := rounds[0].get("stages", {}).get("from_bundle"):
        rounds.insert(0, earlier["provenance"])
    if len(corpora) != len(rounds):
        raise CardError(f"the bundle was trained in {len(rounds)} rounds, and {len(corpora)} corpora are named")
    parts = []
    for order, (made_by, corpus) in enumerate(zip(rounds, corpora, strict=True), start=1):
        name, config = f"CORPUS{order}", "bundled" if order == 1 else "bundled_further"
        common = f"--config {config} --corpus {name} --run-dir RUN{order}"
        stages = made_by.get("stages", {})
        commands = [f"unils-train synth --out {name} --seed {corpus.get('seed', '?')}{_amounts(corpus)}"]
        for stage in ("codec", "prior", "dialogue") if order == 1 else ("dialogue",):
            source = f" --from-bundle BUNDLE{order - 1}" if order > 1 else ""
            steps = f" --steps {stages[stage]['step']}" if stage in stages else ""
            commands.append(f"unils-train {stage} {common}{source}{steps}")
        checkpoint = ""
        if averaged := stages.get("averaged"):
            copies = " ".join(f"BEST_AT_{part['step']}.pt" for part in averaged)
            shares = ",".join(f"{part['share']:g}" for part in averaged)
            commands.append(f"unils-train average {copies} --shares {shares} -o AVERAGED{order}.pt")
            checkpoint = f" --checkpoint AVERAGED{order}.pt"
        commands.append(f"unils-train export {common}{checkpoint} -o BUNDLE{order}")
        rows = [
            [stage, str(stages[stage]["step"]), f"{stages[stage]['seconds'] / 60:.0f}"]
            for stage in ("codec", "prior", "dialogue")
            if stage in stages
        ]
        versions = [f"{key} {made_by[key]}" for key in ("unils_training", "torch") if key in made_by]
        text = f"Round {order}: training seed {made_by.get('seed', 'not recorded')}, "
        text += f"corpus seed {corpus.get('seed', 'not recorded')}"
        text += (f", made with {', '.join(versions)}." if versions else ".") + "\n\n"
        parts.append(text + "```\n" + "\n".join(commands) + "\n```\n\n" + table(["stage", "steps", "minutes"], rows))
        if note := made_by.get("note"):
            parts.append(str(note))
    return "\n\n".join(parts)


def _amounts(corpus: dict[str, Any]) -> str:
    hours = corpus.get("hours")
    if not isinstance(hours, dict):
        return ""
    options = {"train": "--hours", "val": "--val-hours", "test": "--test-hours"}
    return "".join(f" {option} {hours[split]:g}" for split, option in options.items() if hours.get(split))


def write_card(
    bundle: Path,
    evals: Sequence[Path],
    corpora: Sequence[Path],
    before: Path | None = None,
    bench: Path | None = None,
    compare: Path | None = None,
) -> str:
    """The card as Markdown.

    Args:
        evals: folders of `unils-train eval` of this bundle.
        corpora: the folder of each round's corpus, in order.
        before: folder of the evaluation of the weights that these replace, on the same conversations.
        bench, compare: what `unils bench --json` and benchmarks/compare_pytorch.py --json wrote.
    """
    model = json.loads((bundle / "model.json").read_text(encoding="utf-8"))
    size = sum(file.stat().st_size for file in bundle.iterdir() if file.suffix in (".json", ".safetensors"))
    results, evaluation = load_results(evals, model["weights"]["sha256"])
    trained_on = [json.loads((folder / "corpus.json").read_text(encoding="utf-8")) for folder in corpora]
    ahead = model["look_ahead"]
    what = WHAT.format(
        family=model["family"],
        rig=model["rig"],
        channels=len(model["channels"]),
        rate=model["frame_rate"],
        megabytes=size / 1e6,
        self_low=ahead["self"][0],
        self_high=ahead["self"][1],
        other_low=ahead["other"][0],
        other_high=ahead["other"][1],
        sha=model["weights"]["sha256"][:16],
    )
    measured = MEASURED.format(
        backend=evaluation["backend"],
        minutes=evaluation["minutes"],
        sides=len(evaluation["ids"]),
        split=evaluation["split"],
        judged=JUDGED_LOOK_AHEAD,
        **{key: evaluation["options"][key] for key in ("temperature", "top_p", "cfg_scale", "look_ahead_other")},
    )
    parts = [
        "# Model card: the bundled model of unils-sdk",
        what,
        "## What it was trained on",
        TRAINED_ON,
        hours_of(trained_on),
        "## To make it again",
        again(model["provenance"], trained_on),
        "## Quality",
        measured,
        quality(results),
        "### Behind those figures",
        f"At look-ahead {JUDGED_LOOK_AHEAD}. FDD, PDD and JDD are in hundredths of the rig's units.",
        details(results[JUDGED_LOOK_AHEAD]),
    ]
    if evaluation["long_run"]:
        parts += ["### One session that goes on", long_run(evaluation["long_run"])]
    if before is not None:
        earlier, old = load_results([before], None)
        if old["ids"] != evaluation["ids"]:
            raise CardError(f"{before} was measured on other conversations than the bundle")
        parts += [
            "## Against the weights before",
            f"Weights `{old['bundle']['sha256'][:16]}`, look-ahead 1, same conversations.",
        ]
        parts.append(before_and_after(earlier[JUDGED_LOOK_AHEAD], results[JUDGED_LOOK_AHEAD]))
    parts += [
        "## What each part is worth",
        "docs/ablation.md: without stage 1, with one mixed cross-attention, without the other track.",
    ]
    if bench is not None or compare is not None:
        parts.append("## Speed")
    if bench is not None:
        parts.append(speed(json.loads(bench.read_text(encoding="utf-8"))))
    if compare is not None:
        parts.append(compared_speed(json.loads(compare.read_text(encoding="utf-8"))))
    parts += ["## Limits", LIMITS, "## Licence", f"{model['licence']}, weights included."]
    return "\n\n".join(part for part in parts if part) + "\n"


def hours_of(corpora: Sequence[dict[str, Any]]) -> str:
    """How much conversation was trained on, where the corpora say."""
    hours = [corpus["hours"]["train"] for corpus in corpora if isinstance(corpus.get("hours"), dict)]
    if len(hours) < len(corpora):
        return ""
    return (
        f"Hours of conversation, each of which is seen from both sides: {' and then '.join(number(h) for h in hours)}."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when the card was written."""
    parser = argparse.ArgumentParser(prog="python -m unils_training.model_card", description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--eval", type=Path, nargs="+", required=True, help="folders of `unils-train eval`")
    parser.add_argument("--corpora", type=Path, nargs="+", required=True, help="the corpus of every round, in order")
    parser.add_argument("--before", type=Path, help="evaluation of the weights that these replace")
    parser.add_argument("--bench", type=Path, help="what `unils bench --json` wrote")
    parser.add_argument("--compare", type=Path, help="what benchmarks/compare_pytorch.py --json wrote")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(argv)
    try:
        card = write_card(options.bundle, options.eval, options.corpora, options.before, options.bench, options.compare)
    except CardError as error:
        parser.exit(2, f"model_card: {error}\n")
    options.output.write_text(card, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
