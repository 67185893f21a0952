"""`unils-train eval` on UniLS-Talk as published: rig flame, an LMDB and JSON files, models of both families."""

from __future__ import annotations

import json
import shutil
import wave
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch
from flame_files import write_flame, write_masks

from unils_training import evaluate
from unils_training.config import DefaultsConfig, load_config
from unils_training.data.dataset import open_dataset
from unils_training.data.synth.unils_talk_writer import write_unils_talk
from unils_training.evaluation.clips import Recording
from unils_training.export import randomise, write_bundle
from unils_training.flame import FlameModel
from unils_training.models.stream.model import StreamModel
from unils_training.rigs import FLAME_CHANNELS
from unils_training.stages.published import codec, dialogue, prior

TEST_IDS = ["c000002a", "c000002b", "c000003a", "c000003b"]
STEPS = ("steps=2", "batch_clips=2", "validation_clips=2", "validation_steps=1", "warmup_steps=1", "threads=1")


def write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.astype("<i2").tobytes())


@pytest.fixture(scope="module")
def talk(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four conversations of 8 s, the last two of them the test split, as `unils-train synth` writes this form."""
    source = tmp_path_factory.mktemp("source") / "corpus"
    shutil.copytree(small_corpus, source, ignore=shutil.ignore_patterns("cache"))
    info = json.loads((source / "corpus.json").read_text())
    splits = {"train": ["c000000a", "c000000b"], "val": ["c000001a", "c000001b"], "test": TEST_IDS}
    (source / "corpus.json").write_text(json.dumps({**info, "splits": splits}))
    for name in TEST_IDS:
        file = source / name / "motion.npz"
        nod = {"event_kind": np.array(["nod"]), "event_start": np.array([20]), "event_end": np.array([45])}
        np.savez(file, **dict(np.load(file)), **nod)
    return write_unils_talk(source, tmp_path_factory.mktemp("talk") / "talk")


@pytest.fixture(scope="module")
def folder(talk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test split of `talk`, its motion of rig flame, in the folder form."""
    dataset, out = open_dataset(talk), tmp_path_factory.mktemp("folder")
    for name in TEST_IDS:
        clip = dataset.read(name)
        (out / name).mkdir()
        write_wav(out / name / "self.wav", clip.self_audio)
        write_wav(out / name / "other.wav", clip.other_audio)
        labels = {key: getattr(clip, key) for key in ("event_kind", "event_start", "event_end")}
        np.savez(out / name / "motion.npz", motion=clip.motion, speech_mask=clip.speech_mask, **labels)
    info = {"format": "unils-corpus", "format_version": 1, "rig": "flame", "channels": FLAME_CHANNELS}
    (out / "corpus.json").write_text(json.dumps({**info, "splits": {"test": TEST_IDS}}))
    return out


@pytest.fixture(scope="module")
def models(talk: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random bundle of the stream family, and a checkpoint of the published one after two steps of each stage."""
    bundle, run = tmp_path_factory.mktemp("bundle"), tmp_path_factory.mktemp("run")
    model = StreamModel(load_config("tiny", ["model.rig='flame'"]).model, FLAME_CHANNELS)
    randomise(model, seed=1)
    write_bundle(bundle, model, DefaultsConfig(), {})
    places = [f"corpus.path='{talk}'", f"corpus.cache='{run / 'cache'}'", f"run='{run}'", "corpus.workers=1"]
    training = [f"{stage}.training.{value}" for stage in ("codec", "prior", "dialogue") for value in STEPS]
    config = load_config("published_tiny", ["device=cpu", "published.rig='flame'", *places, *training])
    for stage in (codec, prior, dialogue):
        stage.train(config)
    return {"stream": bundle, "published": run / "dialogue" / "best.pt"}


def evaluated(model: Path, dataset: Path, out: Path, *more: str) -> dict[str, Any]:
    assert evaluate.main([str(model), str(dataset), "--out", str(out), "--keep", "0", "--jobs", "1", *more]) == 0
    evaluation: dict[str, Any] = json.loads((out / "eval.json").read_text())
    return evaluation


@pytest.mark.parametrize("family", ["stream", "published"])
def test_both_forms_of_the_same_data_give_the_same_figures(
    models: dict[str, Path], talk: Path, folder: Path, tmp_path: Path, family: str
) -> None:
    options = ("--shuffle-partner", "--long-run", "0.2", "--keep", "1")
    one, two = (evaluated(models[family], path, tmp_path / path.name, *options) for path in (talk, folder))
    assert one["family"] == family
    assert one["ids"] == two["ids"] == TEST_IDS
    assert one["corpus"]["rig"] == "flame"
    assert one["results"] == two["results"]
    assert one["long_run"] == two["long_run"]
    result = one["results"][0]
    assert all(value is not None for part in ("paired_fd", "rpcc") for value in result["paper"][part].values())
    assert set(result["detectors"]) == {"nod", "shake"}  # the records have labels
    assert set(result["contingency"]) >= {"f1", "f1_shuffled"}
    for name in (f"{TEST_IDS[0]}.npz", f"{TEST_IDS[0]}.png"):
        assert (tmp_path / talk.name / name).stat().st_size > 1000


def test_a_published_model_is_run_in_windows_and_rolling(models: dict[str, Path], talk: Path, tmp_path: Path) -> None:
    options = ("--hop-frames", "0,6", "--look-ahead", "0,2", "--max-minutes", "0.01")
    evaluation = evaluated(models["published"], talk, tmp_path, *options)
    windowed, rolling, ahead = evaluation["results"]
    # A window has no look-ahead, so that it is run once.
    assert [(r["hop_frames"], r["look_ahead_self"]) for r in evaluation["results"]] == [(0, 0), (6, 0), (6, 2)]
    assert windowed["paper"] != rolling["paper"] != ahead["paper"]
    assert [r["seams"]["block_frames"] for r in evaluation["results"]] == [24, 6, 6]
    assert all(r["seams"]["velocity"]["jaw"]["to_inside"] > 0.0 for r in evaluation["results"])
    text = (tmp_path / "eval.md").read_text()
    for row in ("| published |", "| published, hop 6 |", "| published, hop 6, look-ahead 2 |"):
        assert text.count(row) == 2  # the paper's table, and that of seams


@pytest.mark.parametrize(
    ("family", "option", "message"),
    [("stream", ("--hop-frames", "5"), "by itself"), ("published", ("--look-ahead", "2"), "give --hop-frames too")],
)
def test_hops_and_look_ahead_that_a_family_has_not_are_refused(
    *,
    models: dict[str, Path],
    talk: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    family: str,
    option: tuple[str, str],
    message: str,
) -> None:
    assert evaluate.main([str(models[family]), str(talk), "--out", str(tmp_path / "out"), *option]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_rig_flame_has_no_ruler_for_is_left_out_and_named(
    models: dict[str, Path], talk: Path, tmp_path: Path
) -> None:
    result = evaluated(models["stream"], talk, tmp_path)["results"][0]
    assert result["paper"]["speaking"]["lve"] is None
    assert result["paper"]["speaking"]["pdd"] > 0.0
    text = (tmp_path / "eval.md").read_text()
    assert "not measured without a FLAME model file" in text
    assert "Not measured on rig flame: lip closures, `jawOpen` at rest, brows, blinks." in text
    assert [line["what"] for line in result["lines"]] == [
        "jaw correlation while speaking",
        *(f"std of {group} / truth, {state}" for state in ("speaking", "listening") for group in ("head", "gaze")),
        "channels stuck",
        "acceleration / truth",
        "reaction F1 / with a shuffled partner",
    ]


def test_a_flame_file_gives_the_figures_on_vertices(models: dict[str, Path], talk: Path, tmp_path: Path) -> None:
    model, masks = write_flame(tmp_path / "flame.pkl"), write_masks(tmp_path / "masks.pkl")
    given = ("--flame", str(model), "--max-minutes", "0.01", "--keep", "1")
    evaluation = evaluated(models["stream"], talk, tmp_path / "masks", *given, "--flame-masks", str(masks))
    paper, (name,) = evaluation["results"][0]["paper"], evaluation["ids"]
    assert (paper["unit"], paper["regions"]) == ("mm", "masks")
    flame = FlameModel.load(model, masks)
    with np.load(tmp_path / "masks" / f"{name}.npz") as kept:
        made = [
            flame.vertices(torch.from_numpy(kept[kind][kept["speaking"]]), head_pose=False)[:, flame.lips]
            for kind in ("truth", "prediction")
        ]
    squared = (1000.0 * (made[0] - made[1])).double().square().sum(dim=-1)
    assert paper["speaking"]["lve"] == pytest.approx(float(squared.amax(dim=1).mean().sqrt()), rel=1e-4)
    assert "not measured without" not in (tmp_path / "masks" / "eval.md").read_text()
    evaluated(models["stream"], talk, tmp_path / "geometry", *given)
    assert "cut out by geometry" in (tmp_path / "geometry" / "eval.md").read_text()


def damaged(talk: Path, place: Path, records: dict[str, bytes]) -> Path:
    """A copy with other bytes in some records."""
    shutil.copytree(talk, place)
    environment = lmdb.open(str(place / "talk.lmdb"), map_size=1 << 28)
    with environment.begin(write=True) as transaction:
        for key, value in records.items():
            transaction.put(key.encode(), value)
    environment.close()
    return place


def test_corrupt_records_are_left_out_counted_and_change_nothing_else(
    models: dict[str, Path], talk: Path, folder: Path, tmp_path: Path
) -> None:
    broken = damaged(talk, tmp_path / "broken", {"c000003b": b"PK no archive"})
    evaluation = evaluated(models["stream"], broken, tmp_path / "out")
    assert evaluation["ids"] == TEST_IDS[:2]
    assert list(evaluation["skipped"]) == TEST_IDS[2:]  # a's partner is b: neither side can be compared
    assert "c000003b" in evaluation["skipped"]["c000003a"]
    text = (tmp_path / "out" / "eval.md").read_text()
    assert "Clips left out because they cannot be read: 2." in text
    info = json.loads((folder / "corpus.json").read_text())
    fewer = tmp_path / "fewer"
    shutil.copytree(folder, fewer)
    (fewer / "corpus.json").write_text(json.dumps({**info, "splits": {"test": TEST_IDS[:2]}}))
    assert evaluation["results"] == evaluated(models["stream"], fewer, tmp_path / "fewer_out")["results"]


def test_a_partner_whose_face_is_not_finite_is_found_before_anything_is_generated(
    models: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    with np.load(broken / "c000002b" / "motion.npz") as file:
        arrays = dict(file)
    arrays["motion"][7, 3] = np.nan
    np.savez(broken / "c000002b" / "motion.npz", **arrays)
    (broken / "c000003a" / "self.wav").unlink()
    evaluation = evaluated(models["stream"], broken, tmp_path / "out", "--max-minutes", "5")
    assert evaluation["ids"] == ["c000003b"]
    assert "frame 7" in evaluation["skipped"]["c000002a"]


def test_the_name_of_a_conversation_is_no_path(models: dict[str, Path], talk: Path, tmp_path: Path) -> None:
    named = tmp_path / "named"
    shutil.copytree(talk, named)
    (entry,) = named.glob("paired.json")
    document = json.loads(entry.read_text())
    document["test"] = {"../../talk/c2": document["test"]["c000002"]}
    entry.write_text(json.dumps(document))
    before = sorted(tmp_path.rglob("*.npz"))
    evaluation = evaluated(models["stream"], named, tmp_path / "a" / "out", "--keep", "1")
    assert evaluation["ids"] == ["../../talk/c2a", "../../talk/c2b"]
    assert len(list((tmp_path / "a" / "out").glob("*.npz"))) == 1
    assert len(sorted(tmp_path.rglob("*.npz"))) == len(before) + 1


def test_masks_and_partner_come_from_the_records(talk: Path) -> None:
    dataset = open_dataset(talk)
    clip, other = Recording(dataset, "c000002a"), Recording(dataset, "c000002b")
    side = clip.compare(np.zeros((clip.frames, 108), np.float32))
    assert side.partner is not None
    np.testing.assert_array_equal(side.partner.values, other.motion.values)
    np.testing.assert_array_equal(side.other_speaking, other.speaking)
    assert side.labels["nod"].tolist() == [[20, 45]]


def test_what_cannot_be_measured_is_refused_by_a_sentence(
    models: dict[str, Path], talk: Path, small_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(dataset: Path, *more: str) -> str:
        capsys.readouterr()
        assert evaluate.main([str(models["stream"]), str(dataset), "--out", str(tmp_path / "out"), *more]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert "must have the same channels" in refused(small_corpus)
    assert "nowhere.pkl" in refused(talk, "--flame", str(tmp_path / "nowhere.pkl"))
    assert "--flame-masks names regions" in refused(talk, "--flame-masks", "masks.pkl")
    assert "two conversations" in refused(talk, "--shuffle-partner", "--max-minutes", "0.01")
    ruined = damaged(talk, tmp_path / "ruined", dict.fromkeys(TEST_IDS, b"x"))
    assert "no clip of split 'test'" in refused(ruined)
    assert not (tmp_path / "out").exists()
