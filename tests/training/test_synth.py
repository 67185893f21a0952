"""The conversation simulator end to end, on a corpus of a few short conversations."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from unils_training.data.dataset import open_dataset
from unils_training.data.folder import Clip, list_ids, open_corpus, read_clip
from unils_training.data.synth import corpus as synth
from unils_training.data.synth.espeak import library_path
from unils_training.data.synth.motioncode import expression_basis, from_motioncode, to_motioncode
from unils_training.data.synth.people import VOICES, make_person
from unils_training.data.synth.sentences import HELD_OUT_LANGUAGES
from unils_training.data.synth.statistics import measure, table
from unils_training.data.unils_talk import COLUMNS
from unils_training.rigs import ARKIT_CHANNELS

pytestmark = pytest.mark.skipif(library_path() is None, reason="libespeak-ng is not installed")

HOURS = {"train": 0.045, "val": 0.01, "test": 0.01}
SEED = 5


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synth.generate(tmp_path_factory.mktemp("synth") / "corpus", SEED, HOURS, workers=2)


@pytest.fixture(scope="module")
def clips(corpus: Path) -> list[Clip]:
    return [read_clip(corpus, name) for ids in open_corpus(corpus).splits.values() for name in ids]


def channel(clip: Clip, name: str) -> np.ndarray:
    return clip.motion[:, clip.channels.index(name)]


def events(clip: Clip, kind: str) -> list[tuple[int, int]]:
    chosen = clip.event_kind == kind
    return list(zip(clip.event_start[chosen].tolist(), clip.event_end[chosen].tolist(), strict=True))


def contents(corpus: Path) -> dict[str, bytes]:
    return {str(path.relative_to(corpus)): path.read_bytes() for path in corpus.rglob("*.wav")} | {
        f"{path.relative_to(corpus)}:{name}": array.tobytes()
        for path in corpus.rglob("motion.npz")
        for name, array in np.load(path).items()
    }


def test_a_corpus_does_not_depend_on_the_number_of_workers(corpus: Path, tmp_path: Path) -> None:
    other = synth.generate(tmp_path / "corpus", SEED, HOURS, workers=1)
    assert contents(other) == contents(corpus)
    assert (other / "corpus.json").read_bytes() == (corpus / "corpus.json").read_bytes()


def test_resume_completes_what_is_missing_and_keeps_the_rest(corpus: Path, tmp_path: Path) -> None:
    broken = tmp_path / "corpus"
    shutil.copytree(corpus, broken)
    names = list_ids(broken, "train")
    shutil.rmtree(broken / names[0])
    (broken / "corpus.json").unlink()
    kept = (broken / names[2] / "self.wav").stat().st_mtime_ns
    with pytest.raises(FileExistsError, match="--resume"):
        synth.generate(broken, SEED, HOURS)
    with pytest.raises(ValueError, match="other settings"):
        synth.generate(broken, SEED + 1, HOURS, resume=True)
    synth.generate(broken, SEED, HOURS, resume=True)
    assert contents(broken) == contents(corpus)
    assert (broken / names[2] / "self.wav").stat().st_mtime_ns == kept


def test_the_command_refuses_a_folder_in_use(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert synth.main(["--out", str(corpus), "--hours", "0.01"]) == 1
    assert "not empty" in capsys.readouterr().err


def test_clips_keep_the_contract(corpus: Path, clips: list[Clip]) -> None:
    assert open_corpus(corpus).channels == ARKIT_CHANNELS
    for clip in clips:
        frames = len(clip.motion)
        assert clip.channels == ARKIT_CHANNELS
        assert frames * 640 == len(clip.self_audio) == len(clip.other_audio)
        assert clip.motion[:, :52].min() >= 0
        assert clip.motion[:, :52].max() <= 1
        assert np.abs(clip.motion[:, 52:]).max() < 0.8
        assert np.abs(clip.motion[:, 52:].mean(axis=0)).max() < 1e-3
        assert clip.event_start.min() >= 0
        assert clip.event_end.max() <= frames
        assert np.all(clip.phone_end >= clip.phone_start)
        assert clip.phone_end.max() <= frames / 25 + 1e-6
        assert clip.person
        assert clip.voice
        assert clip.language


def test_both_sides_of_a_conversation_hear_each_other(corpus: Path) -> None:
    for name in list_ids(corpus, "train"):
        if name.endswith("b"):
            continue
        first, second = read_clip(corpus, name), read_clip(corpus, name[:-1] + "b")
        for own, heard in ((first, second), (second, first)):
            level = np.abs(heard.other_audio.astype(np.float64)).reshape(-1, 640).mean(axis=1)
            assert own.speech_mask is not None
            assert heard.speech_mask is not None
            only_own = own.speech_mask & ~heard.speech_mask
            nobody = ~own.speech_mask & ~heard.speech_mask
            assert level[only_own].mean() > 2 * level[nobody].mean()


def test_splits_share_no_voice_and_training_no_held_out_language(corpus: Path) -> None:
    used = {split: {read_clip(corpus, name).voice for name in ids} for split, ids in open_corpus(corpus).splits.items()}
    assert not used["train"] & used["val"]
    assert not used["train"] & used["test"]
    assert not used["val"] & used["test"]
    for split in ("train", "val"):
        for name in list_ids(corpus, split):
            assert not read_clip(corpus, name).language.startswith(HELD_OUT_LANGUAGES)
    for split, voices in used.items():
        assert voices <= {voice for group in VOICES[split].values() for voice in group}


def test_lips_close_on_p_b_and_m_and_open_on_a(clips: list[Clip]) -> None:
    gaps, closures, wide = [], 0, []
    for clip in clips:
        apart = channel(clip, "jawOpen") - channel(clip, "mouthClose")
        for start, end in events(clip, "lip_closure"):
            gaps.append(apart[start:end].min())
        closures += sum(phone[0] in "pbm" for phone in clip.phone)
        for phone, start, end in zip(clip.phone, clip.phone_start, clip.phone_end, strict=True):
            if phone[0] == "a" and end - start > 0.1:
                wide.append(apart[int((start + end) / 2 * 25)])
    assert np.percentile(gaps, 98) < 0.03
    assert 0.7 * closures < len(gaps) <= closures
    assert np.mean(wide) > 0.3


def test_the_mouth_rests_in_own_silence(clips: list[Clip]) -> None:
    for clip in clips:
        assert clip.speech_mask is not None
        quiet = ~np.convolve(clip.speech_mask, np.ones(11), mode="same").astype(bool)
        assert channel(clip, "jawOpen")[quiet].mean() < 0.02


def test_both_eyes_blink_as_often_as_people_do(clips: list[Clip]) -> None:
    minutes = sum(len(clip.motion) for clip in clips) / 1500
    blinks = [(clip, start, end) for clip in clips for start, end in events(clip, "blink")]
    assert 12 < len(blinks) / minutes < 35
    for clip, start, end in blinks:
        assert channel(clip, "eyeBlinkLeft")[start:end].max() > 0.75
        assert channel(clip, "eyeBlinkRight")[start:end].max() > 0.75
        assert 5 <= end - start <= 17


def test_motion_is_smooth(clips: list[Clip]) -> None:
    """Heads turn at most some 150 degrees a second, and no channel jumps between frames but lids and lips."""
    for clip in clips:
        assert np.abs(np.diff(clip.motion[:, 52:], axis=0)).max() < 0.11
        for name in ("browInnerUp", "browDownLeft", "mouthFrownLeft", "eyeSquintLeft", "cheekSquintLeft"):
            assert np.abs(np.diff(channel(clip, name))).max() < 0.25, name


def test_the_head_is_never_still(clips: list[Clip]) -> None:
    for clip in clips:
        speed = np.abs(np.diff(clip.motion[:, 52:], axis=0)).sum(axis=1)
        seconds = speed[: len(speed) // 25 * 25].reshape(-1, 25).sum(axis=1)
        assert seconds.min() > 0.002
        assert np.all(clip.motion[:, 52:].std(axis=0) > 0.01)
        assert np.all(clip.motion[:, 52:].std(axis=0) < 0.25)


def test_nods_answer_the_partner_and_not_a_stranger(corpus: Path) -> None:
    total = measure(corpus, "train")
    assert total.listener_nods >= 3
    assert total.after_cue > 0.9 * total.listener_nods
    assert total.after_wrong_cue < 0.5 * total.listener_nods


def test_the_table_of_statistics_is_markdown(corpus: Path) -> None:
    lines = table(measure(corpus, "train", limit=2)).splitlines()
    assert len(lines) > 15
    assert all(line.count("|") == 4 for line in lines)


MOTION_ONLY_HOURS = 0.02


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same conversations in the form of UniLS-Talk, with faces without sound."""
    out = tmp_path_factory.mktemp("synth") / "talk"
    return synth.generate(out, SEED, HOURS, motion_only_hours=MOTION_ONLY_HOURS, form="unils-talk")


def test_unils_talk_holds_what_the_folder_form_does(corpus: Path, talk: Path) -> None:
    assert sorted(path.name for path in talk.iterdir()) == ["motion_only.json", "paired.json", "talk.lmdb"]
    folders, database = open_dataset(corpus), open_dataset(talk)
    assert dict(database.splits) == dict(folders.splits)
    for ids in folders.splits.values():
        for name in ids:
            one, two = folders.read(name), database.read(name)
            assert len(two.motion) == database.frames(name) == folders.frames(name)
            np.testing.assert_allclose(from_motioncode(two.motion), one.motion, atol=1e-3)
            np.testing.assert_allclose(from_motioncode(two.motion)[:, :52], one.motion[:, :52], atol=2e-6)
            np.testing.assert_array_equal(two.self_audio, one.self_audio)
            partner = folders.partner(name)
            assert partner is not None
            np.testing.assert_array_equal(two.other_audio, folders.read(partner).self_audio)
            for field in (
                *("speech_mask", "other_speech_mask", "event_kind", "event_start", "event_end"),
                *("phone", "phone_start", "phone_end", "person", "voice", "language"),
            ):
                np.testing.assert_array_equal(getattr(one, field), getattr(two, field))


def test_motion_without_sound_is_of_other_persons_and_changes_nothing_else(
    corpus: Path, talk: Path, tmp_path: Path
) -> None:
    more = synth.generate(tmp_path / "corpus", SEED, HOURS, motion_only_hours=MOTION_ONLY_HOURS)
    dataset, plain = open_dataset(more), contents(corpus)
    ids = dataset.motion_only["train"]
    assert {name: data for name, data in contents(more).items() if name.split("/")[0] not in ids} == plain
    persons = {dataset.read_motion(name).person for name in ids}
    assert not persons & {dataset.read(name).person for names in dataset.splits.values() for name in names}
    assert sum(dataset.motion_frames(name) for name in ids) / 25 >= MOTION_ONLY_HOURS * 3600
    assert not any((more / name / "self.wav").exists() for name in ids)
    database = open_dataset(talk)
    assert database.motion_only["train"] == ids
    for name in ids:
        one, two = dataset.read_motion(name), database.read_motion(name)
        np.testing.assert_allclose(from_motioncode(two.motion), one.motion, atol=1e-3)
        assert one.person == two.person


def test_the_two_forms_differ_in_no_more_than_a_map_that_is_one_to_one(clips: list[Clip]) -> None:
    basis = expression_basis()
    np.testing.assert_allclose(basis @ basis.T, np.eye(43), atol=1e-12)
    motion = np.concatenate([clip.motion for clip in clips])
    code = to_motioncode(motion)
    assert code.shape == (len(motion), 112)
    np.testing.assert_allclose(from_motioncode(code), motion, atol=2e-6)
    np.testing.assert_allclose(from_motioncode(code[:, list(COLUMNS)]), motion, atol=2e-6)
    assert not code[:, [104, 105, 108, 111]].any()
    jaw = code[:, 103]
    assert jaw.mean() == pytest.approx(0.075, abs=0.02)
    assert jaw.std() == pytest.approx(0.058, abs=0.02)
    # A head that turns to its own left has a positive angle about y, and one that looks up a negative one about x.
    turned = np.zeros((2, 55), np.float32)
    turned[0, ARKIT_CHANNELS.index("headYaw")] = turned[1, ARKIT_CHANNELS.index("headPitch")] = 0.2
    np.testing.assert_allclose(to_motioncode(turned)[:, 100:103], [[0, 0.2, 0], [-0.2, 0, 0]], atol=1e-7)


def test_an_interrupted_unils_talk_can_be_continued(talk: Path, tmp_path: Path) -> None:
    begun = tmp_path / "talk"
    synth.generate(begun / ".folder-form", SEED, HOURS, motion_only_hours=MOTION_ONLY_HOURS)
    with pytest.raises(FileExistsError, match="--resume"):
        synth.generate(begun, SEED, HOURS, motion_only_hours=MOTION_ONLY_HOURS, form="unils-talk")
    synth.generate(begun, SEED, HOURS, resume=True, motion_only_hours=MOTION_ONLY_HOURS, form="unils-talk")
    one, two = open_dataset(begun), open_dataset(talk)
    assert one.splits == two.splits
    np.testing.assert_array_equal(one.read("c000000b").motion, two.read("c000000b").motion)
    with pytest.raises(FileExistsError, match="not empty"):
        synth.generate(begun, SEED, HOURS, resume=True, form="unils-talk")


def test_a_seed_goes_on_giving_the_corpus_that_it_gave() -> None:
    """Lengths and persons of `--seed 2 --hours 2 --val-hours 0.5 --test-hours 0.75` as that corpus was first made."""
    hours = {"train": 2.0, "val": 0.5, "test": 0.75}
    for wanted in (hours, {**hours, "motion": 1.0}):
        tasks = synth.plan(Path("nowhere"), 2, wanted)
        seconds = {split: [task.seconds for task in tasks if task.split == split] for split in hours}
        assert {split: found[:3] for split, found in seconds.items()} == {
            "train": [111, 75, 66],
            "val": [85, 87, 89],
            "test": [111, 95, 88],
        }
        assert {split: len(found) for split, found in seconds.items()} == {"train": 78, "val": 20, "test": 30}
    for split, index, voice, accent in (
        ("train", 33, "steph2", "en-029"),
        ("train", 36, "steph", "tr"),
        ("val", 0, "Diogo", "en-us"),
        ("test", 3, "sandro", "cs"),
    ):
        person = make_person(2, split, index)
        assert (person.voice, person.accent) == (voice, accent)
