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
STIFFNESS_GROUPS = ("head", "brows", "mouth")


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


def liveliness(result: dict[str, Any], measure: str) -> float | None:
    """Mean over head, brows and mouth of a listening ratio to truth; 1 is as lively as truth, 0 a mask."""
    ratios = [result["alive"]["listening"].get(measure, {}).get(group) for group in STIFFNESS_GROUPS]
    known = [float(ratio) for ratio in ratios if ratio is not None]
    return sum(known) / len(known) if known else None


def compared(with_and_without: Sequence[Path]) -> str:
    """The same training with and without stage 1, in listening; folders of `unils-train eval`."""
    pair = [load_results([folder], None)[0][JUDGED_LOOK_AHEAD] for folder in with_and_without]
    listening = [result["alive"]["listening"] for result in pair]
    rows = []
    for group in STIFFNESS_GROUPS:
        rows.append([f"std of {group} / truth", *(number(part["std_ratio"][group]) for part in listening)])
        rows.append([f"speed of {group} / truth", *(number(part["speed_ratio"][group]) for part in listening)])
    for name in ("fdd", "pdd", "jdd", "frechet", "paired_frechet"):
        label = name.upper() if len(name) == 3 else name.replace("_", " ").replace("frechet", "Frechet distance")
        rows.append([f"{label} (0 is truth)", *(number(part[name]) for part in listening)])
    rows.append(["reaction F1", *(number(result["listening"]["strict"]["reactions"]["f1"]) for result in pair)])
    sentences = []
    for measure, what in (("std_ratio", "spread"), ("speed_ratio", "speed")):
        with_prior, alone = (liveliness(result, measure) for result in pair)
        if with_prior is None or alone is None:
            continue
        change = "stiffer" if alone < with_prior else "livelier"
        sentences.append(
            f"In {what} over head, brows and mouth, the listener without stage 1 has {alone:.3g} of truth and the "
            f"one with it {with_prior:.3g}: without stage 1 it is {change} by {abs(1.0 - alone / with_prior):.0%}."
        )
    return table(["listening", "with stage 1", "without stage 1"], rows) + "\n\n" + " ".join(sentences)


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


def again(provenance: dict[str, Any], corpus: dict[str, Any]) -> str:
    """The commands that make the corpus and the bundle once more, as far as both recorded what made them."""
    seed, corpus_seed = provenance.get("seed", "not recorded"), corpus.get("seed", "not recorded")
    hours = corpus.get("hours")
    amounts = ""
    if isinstance(hours, dict):
        options = {"train": "--hours", "val": "--val-hours", "test": "--test-hours"}
        amounts = "".join(f" {option} {hours[split]:g}" for split, option in options.items() if split in hours)
    common = "--config bundled --corpus CORPUS --run-dir RUN"
    commands = [f"unils-train synth --out CORPUS --seed {corpus_seed}{amounts}"]
    stages = provenance.get("stages", {})
    for stage in ("codec", "prior", "dialogue"):
        steps = f" --steps {stages[stage]['step']}" if stage in stages else ""
        commands.append(f"unils-train {stage} {common}{steps}")
    commands.append(f"unils-train export {common} -o BUNDLE")
    commands.append("unils-train eval BUNDLE CORPUS --out EVAL --look-ahead 1,0,2,4 --shuffle-partner --long-run 60")
    text = f"Training seed {seed}, corpus seed {corpus_seed}.\n\n```\n" + "\n".join(commands) + "\n```"
    if stages:
        rows = [
            [name, str(facts["step"]), f"{facts['seconds'] / 60:.0f}"]
            for name, facts in stages.items()
            if isinstance(facts, dict) and "step" in facts
        ]
        text += "\n\n" + table(["stage", "steps", "minutes"], rows)
    versions = [f"{name} {provenance[name]}" for name in ("unils_training", "torch") if name in provenance]
    return text + (f"\n\nMade with {', '.join(versions)}." if versions else "")


def write_card(
    bundle: Path,
    evals: Sequence[Path],
    ablation: Sequence[Path] = (),
    bench: Path | None = None,
    compare: Path | None = None,
) -> str:
    """The card as Markdown; `ablation` is empty or the evaluations of two equal runs, with stage 1 and without."""
    model = json.loads((bundle / "model.json").read_text(encoding="utf-8"))
    size = sum(file.stat().st_size for file in bundle.iterdir() if file.suffix in (".json", ".safetensors"))
    results, evaluation = load_results(evals, model["weights"]["sha256"])
    provenance, corpus = model["provenance"], evaluation["corpus"]
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
        hours_of(corpus),
        "## To make it again",
        again(provenance, corpus),
        "## Quality",
        measured,
        quality(results),
        "### Behind those figures",
        f"At look-ahead {JUDGED_LOOK_AHEAD}. FDD, PDD and JDD are in hundredths of the rig's units.",
        details(results[JUDGED_LOOK_AHEAD]),
    ]
    if evaluation["long_run"]:
        parts += ["### One session that goes on", long_run(evaluation["long_run"])]
    parts.append("## With and without stage 1")
    if ablation:
        parts.append(
            "Two runs of the same data, order of clips, sizes, schedule and number of steps, fewer than the bundled "
            "weights saw, one seed: on the frozen prior, and with the generator trained from random weights instead."
        )
        parts.append(compared(ablation))
    else:
        parts.append("Not measured.")
    if bench is not None or compare is not None:
        parts.append("## Speed")
    if bench is not None:
        parts.append(speed(json.loads(bench.read_text(encoding="utf-8"))))
    if compare is not None:
        parts.append(compared_speed(json.loads(compare.read_text(encoding="utf-8"))))
    parts += ["## Limits", LIMITS, "## Licence", f"{model['licence']}, weights included."]
    return "\n\n".join(part for part in parts if part) + "\n"


def hours_of(corpus: dict[str, Any]) -> str:
    """How much conversation a corpus holds, where it says."""
    hours = corpus.get("hours")
    if not isinstance(hours, dict):
        return ""
    amounts = ", ".join(f"{split} {number(amount)}" for split, amount in hours.items())
    return f"Hours of conversation, each of which is seen from both sides: {amounts}."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when the card was written."""
    parser = argparse.ArgumentParser(prog="python -m unils_training.model_card", description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--eval", type=Path, nargs="+", required=True, help="folders of `unils-train eval`")
    parser.add_argument(
        "--ablation", type=Path, nargs=2, default=[], metavar=("WITH", "WITHOUT"), help="evaluations of two equal runs"
    )
    parser.add_argument("--bench", type=Path, help="what `unils bench --json` wrote")
    parser.add_argument("--compare", type=Path, help="what benchmarks/compare_pytorch.py --json wrote")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(argv)
    try:
        card = write_card(options.bundle, options.eval, options.ablation, options.bench, options.compare)
    except CardError as error:
        parser.exit(2, f"model_card: {error}\n")
    options.output.write_text(card, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
