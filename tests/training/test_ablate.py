"""`unils-train ablate`: what it trains, what it keeps, how it judges, and a whole one at tiny size."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from unils_training import ablate
from unils_training.ablation import collect, verdicts
from unils_training.ablation import run as running
from unils_training.ablation.figures import FIGURES, Spread
from unils_training.ablation.plan import VARIANTS, changed, find_variants, plan
from unils_training.ablation.report import figures_of
from unils_training.ablation.verdicts import CLAIMS, cost, judge, overall, sentence
from unils_training.cli import main
from unils_training.config import Config, ConfigError, differences, load_config, to_dict
from unils_training.evaluation.models import Heard, Run, generate

SMALL = "batch_clips=2 validation_clips=2 validation_steps=2 checkpoint_steps=1 log_steps=1 threads=1"
FULL_AND = {variant.name: variant for variant in VARIANTS}


def small(config: str, steps: int = 2) -> list[str]:
    """Overrides that make every stage of a tiny configuration a matter of seconds."""
    values = ["published.rig='arkit'"] if config.startswith("published") else []
    for stage in ("codec", "prior", "dialogue"):
        values += [f"{stage}.training.{value}" for value in (*SMALL.split(), f"steps={steps}")]
        if config == "tiny":
            values.append(f"{stage}.training.clip_frames=48")
    return values


def arguments(corpus: Path, out: Path, config: str = "tiny", *more: str) -> list[str]:
    """A whole command for one family; the small corpus has two conversations only in its train split."""
    words = ["--config", config, "--corpus", str(corpus), "--out", str(out), "--split", "train", "--max-minutes", "0.4"]
    for value in (*small(config), "corpus.workers=1"):
        words += ["--set", value]
    return [*words, *more]


@pytest.mark.parametrize("family", ["stream", "published"])
def test_a_variant_differs_from_the_full_model_in_nothing_but_what_it_is_named_for(tmp_path: Path, family: str) -> None:
    config = load_config("tiny" if family == "stream" else "published_tiny")
    runs = {variant.name: plan(config, variant, 1, tmp_path) for variant in VARIANTS}
    model = "model.generator" if family == "stream" else "published"
    expected = {
        "no_stage_1": {"dialogue.stage_1", "prior_from"},
        "mixed": {f"{model}.cross_attention"},
        "no_other_track": {"dialogue.other_track"},
        "dialogues_only": {"prior_from"},
    }
    full = to_dict(runs["full"].config)
    for name, keys in expected.items():
        assert set(differences(full, to_dict(runs[name].config))) == {*keys, "run"}, name
    priors = [
        next(stage for stage in runs[name].stages if stage.stage == "prior") for name in ("full", "dialogues_only")
    ]
    assert set(differences(*(to_dict(prior.config) for prior in priors))) == {"prior.motion_only", "run", "codec_from"}
    assert [stage.stage for stage in runs["no_stage_1"].stages] == ["codec", "dialogue"]
    assert len({runs[name].stages[0].folder for name in runs}) == 1  # one codec for all variants of a seed
    assert runs["mixed"].stages[1].folder == runs["full"].stages[1].folder


def test_one_stage_1_serves_all_seeds_where_asked_for(tmp_path: Path) -> None:
    config = load_config("tiny")
    first, second = (plan(config, FULL_AND["dialogues_only"], seed, tmp_path, stage_1_seed=0) for seed in (0, 1))
    assert [stage.folder for stage in first.stages[:-1]] == [stage.folder for stage in second.stages[:-1]]
    assert (first.config.seed, second.config.seed) == (0, 1)
    assert first.config.run != second.config.run


def test_variants_are_found_by_name_and_need_the_full_one() -> None:
    assert find_variants([]) == VARIANTS
    assert [variant.name for variant in find_variants(["mixed", "full"])] == ["full", "mixed"]
    with pytest.raises(ConfigError, match="no variant 'half'"):
        find_variants(["full", "half"])
    with pytest.raises(ConfigError, match="with which the others are compared"):
        find_variants(["mixed"])


def spread(*values: float) -> Spread:
    return Spread(values)


def test_a_difference_beyond_the_spread_of_seeds_reproduces_or_does_not() -> None:
    full, lower = spread(0.80, 0.82), spread(0.60, 0.61)
    assert judge("std", -1, full, lower).outcome == "reproduces"
    assert judge("std", 1, full, lower).outcome == "does not reproduce"
    assert judge("std", -1, full, spread(0.70, 0.90)).outcome == "inconclusive"  # within the spread
    assert judge("std", -1, spread(0.800, 0.8001), spread(0.79, 0.7901)).outcome == "inconclusive"  # under 2 %
    assert judge("std", -1, spread(0.8), spread(0.1)).outcome == "inconclusive"  # one seed has no spread
    assert "one seed has no spread" in sentence(judge("std", -1, spread(0.8), spread(0.1)))


def test_the_threshold_is_twice_the_pooled_deviation() -> None:
    full, variant = spread(1.0, 1.2), spread(2.0, 2.4)
    pooled = math.sqrt((0.02 + 0.08) / 2)
    assert judge("lve", 1, full, variant).threshold == pytest.approx(2 * pooled)
    assert judge("lve", 1, full, variant).difference == pytest.approx(1.1)
    assert judge("lve", 1, full, variant).outcome == "reproduces"
    assert judge("lve", 1, full, spread(1.0 + 2 * pooled, 1.2 + 2 * pooled)).outcome != "does not reproduce"


def test_a_claim_is_what_its_conclusive_figures_agree_on() -> None:
    full = {figure.name: spread(1.0, 1.01) for figure in FIGURES}
    claim = next(claim for claim in CLAIMS if claim.variant == "mixed")

    def outcome(**changes: float) -> str:
        variant = full | {name: spread(value, value + 0.01) for name, value in changes.items()}
        return overall(verdicts.findings(claim, full, variant))

    assert outcome(lve=2.0, jaw=0.5, closures=0.5) == "reproduces"
    assert outcome(lve=2.0, jaw=0.5) == "reproduces"  # the third does not say
    assert outcome(lve=2.0) == "inconclusive"  # one of three is not enough
    assert outcome(lve=0.5, jaw=2.0) == "does not reproduce"
    assert outcome(lve=2.0, jaw=2.0) == "inconclusive"  # they disagree
    assert outcome() == "inconclusive"
    assert verdicts.tally(verdicts.findings(claim, full, full | {"jaw": spread(2.0, 2.01)})) == "1 against, 2 undecided"


def test_a_cost_is_paired_by_seed_and_positive_where_ours_is_worse() -> None:
    assert cost("jaw", spread(0.9, 0.8), spread(1.0, 1.0)).shares.values == pytest.approx((0.1, 0.2))
    assert cost("lve", spread(1.1), spread(1.0)).shares.values == pytest.approx((0.1,))
    assert cost("lve", spread(0.9, 1.1), spread(1.0)).shares.mean == pytest.approx(0.0)


@pytest.mark.parametrize("config", ["tiny", "published_tiny"])
def test_a_tiny_ablation_from_a_corpus_to_a_report(
    small_corpus: Path, tmp_path: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "out", tmp_path / "docs" / "ablation.md"
    more = ["--seeds", "0", "--variants", "full,mixed", "--report", str(report)]
    assert main(["ablate", *arguments(small_corpus, out, config, *more)]) == 0
    text = report.read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert "| one mixed cross-attention |" in text
    undecided = "**inconclusive** (figures: 3 undecided)"
    assert f"One mixed cross-attention makes lips worse (the paper: S-LVE 5.83 -> 11.48): {undecided}" in text
    assert "Without stage 1 the listener is stiffer (the paper: L-FDD 17.12 -> 25.64): **not measured**" in text
    assert "it needs both families" in text
    assert "Not run: without stage 1, without the other track, stage 1 on dialogues only." in text
    document = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))
    family = load_config(config).family
    assert set(document["families"][family]["variants"]) == {"full", "mixed"}
    for name in ("lips", "listening", "curves", "spectra"):
        path = f"images/ablation/{family}_{name}.png"
        assert f"]({path})" in text
        assert (report.parent / path).stat().st_size > 1000
    aheads = document["families"][family]["variants"]["full"]["look_ahead"]
    assert set(aheads) == ({"0", "1", "2", "4"} if family == "stream" else {"0"})
    if family == "stream":
        deaf_to_order_of_looking = [aheads[ahead]["lve"][0] for ahead in ("0", "4")]
        assert deaf_to_order_of_looking[0] != deaf_to_order_of_looking[1]


def trained_by(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, bool]]:
    """Records (run, stage, resumed) of every training that is begun."""
    begun = []
    for stage in ("codec", "prior", "dialogue"):
        module = __import__(f"unils_training.stages.stream.{stage}", fromlist=["train"])

        def train(config: Config, resume: bool = False, name: str = stage, original=module.train) -> None:  # type: ignore[no-untyped-def]
            begun.append((Path(config.run).name, name, resume))
            original(config, resume=resume)

        monkeypatch.setattr(module, "train", train)
    return begun


def test_a_killed_ablation_goes_on_and_trains_nothing_twice(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unils_training.stages.stream.dialogue import DialogueStage

    begun = trained_by(monkeypatch)
    words = arguments(small_corpus, tmp_path, "tiny", "--seeds", "0", "--variants", "full,no_stage_1")
    original, calls = DialogueStage.loss, []

    def killed(self, draw):  # type: ignore[no-untyped-def]
        calls.append(draw.step)
        if len(calls) == 4:  # in the second step of the second variant
            raise KeyboardInterrupt
        return original(self, draw)

    monkeypatch.setattr(DialogueStage, "loss", killed)
    with pytest.raises(KeyboardInterrupt):
        ablate.main(words)
    assert begun == [
        ("shared", "codec", False), ("shared", "prior", False), ("full", "dialogue", False),
        ("no_stage_1", "dialogue", False),
    ]  # fmt: skip
    evaluated = tmp_path / "stream" / "seed0" / "full" / "eval" / "eval.json"
    written = evaluated.stat().st_mtime_ns
    begun.clear()
    assert ablate.main(words) == 0
    assert begun == [("no_stage_1", "dialogue", True)]
    assert evaluated.stat().st_mtime_ns == written
    assert calls[4:] == [1]  # the step that was lost, and none before it
    begun.clear()
    assert ablate.main(words) == 0
    assert begun == []


def test_runs_of_another_configuration_are_not_taken_for_these(
    small_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config("tiny", [f"corpus.path='{small_corpus}'", *small("tiny")])
    stage = plan(config, FULL_AND["full"], 0, tmp_path).stages[0]
    running.write_record(stage.folder, {"config": to_dict(stage.config), "finished": True, "core_seconds": 1.0})
    assert running.finished(stage)
    elsewhere = dataclasses.replace(stage, config=changed(stage.config, {"corpus.cache": "elsewhere"}))
    assert running.finished(elsewhere)
    words = arguments(small_corpus, tmp_path, "tiny", "--seeds", "0", "--set", "codec.l1=2.0")
    assert ablate.main(words) == 2
    assert "another codec.l1" in capsys.readouterr().err


def test_what_cannot_be_run_is_refused_by_a_sentence(
    small_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--corpus", str(small_corpus), "--out", str(tmp_path / "out")]
    assert ablate.main(["--config", "tiny", "--config", "tiny", *words]) == 2
    assert "another family" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        ablate.main(["--config", "tiny", *words, "--stage-1-seed", "half=0"])
    assert "stream=N or published=N" in capsys.readouterr().err
    assert ablate.main(["--config", "tiny", "--corpus", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "corpus.json is missing" in capsys.readouterr().err
    assert ablate.main(["--config", "tiny", *words, "--report-only"]) == 2
    assert "nothing to report" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["stream", "published"])
def test_a_model_without_the_other_track_is_deaf_to_it_and_the_full_one_is_not(
    small_corpus: Path, tmp_path: Path, family: str
) -> None:
    source = "tiny" if family == "stream" else "published_tiny"
    places = [f"corpus.path='{small_corpus}'", f"corpus.cache='{tmp_path / 'cache'}'", "corpus.workers=1"]
    config = load_config(source, [*places, *small(source)])
    rng = np.random.default_rng(0)
    own, loud = (rng.integers(-20000, 20000, 100 * 640).astype(np.int16) for _ in range(2))
    silence = np.zeros_like(loud)
    for name, deaf in (("no_other_track", True), ("full", False)):
        run = plan(config, FULL_AND[name], 0, tmp_path)
        running.train(run)
        made = [generate(Run(run.checkpoint, "torch", 1), [Heard(own, other, 1)])[0] for other in (silence, loud)]
        assert np.array_equal(*made) == deaf, name


def test_the_motion_only_part_is_what_a_prior_of_dialogues_does_without(small_corpus: Path, tmp_path: Path) -> None:
    from unils_training.models.stream.model import StreamModel
    from unils_training.rigs import ARKIT_CHANNELS
    from unils_training.stages.stream.generation import LatentClips

    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for folder in small_corpus.iterdir():
        if folder.is_dir() and folder.name.startswith("c0"):
            (corpus / folder.name).symlink_to(folder)
    (corpus / "m000000").mkdir()
    (corpus / "m000000" / "motion.npz").write_bytes((small_corpus / "c000000a" / "motion.npz").read_bytes())
    info = json.loads((small_corpus / "corpus.json").read_text()) | {"motion_only": {"train": ["m000000"]}}
    (corpus / "corpus.json").write_text(json.dumps(info))
    places = [f"corpus.path='{corpus}'", f"corpus.cache='{tmp_path / 'cache'}'", "corpus.workers=1"]
    torch.manual_seed(0)
    for only, expected in ((True, True), (False, False)):
        config = load_config("tiny", [*places, f"prior.motion_only={str(only).lower()}"])
        model = StreamModel(config.model, ARKIT_CHANNELS)
        assert ("m000000" in LatentClips(config, model, "train", 48, audio=False).cache.ids) == expected


def test_the_report_holds_the_figures_of_the_evaluations(small_corpus: Path, tmp_path: Path) -> None:
    words = arguments(small_corpus, tmp_path, "tiny", "--seeds", "0,1", "--variants", "full")
    assert ablate.main(words) == 0
    options = ablate._parser().parse_args(words)
    families = collect.collect(ablate.planned(options))
    values = figures_of(families)["families"]["stream"]["variants"]["full"]["look_ahead"]["1"]
    for seed in (0, 1):
        stored = json.loads((tmp_path / "stream" / f"seed{seed}" / "full" / "eval" / "eval.json").read_text())
        result = next(each for each in stored["results"] if each["look_ahead_self"] == 1)
        assert values["lve"][seed] == result["paper"]["speaking"]["lve"]
        assert values["jaw"][seed] == result["lips"]["jaw_correlation"]
    text = (tmp_path / "ablation.md").read_text(encoding="utf-8")
    assert str(Spread(tuple(values["lve"]))) in text
    curve = families[0].full.curves["loss"][0]
    assert [step for step, _ in curve] == [2]
