"""Both forms of a dataset through one view, and the caches that training reads of them."""

from __future__ import annotations

import itertools
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from unils_talk_files import FRAMES, npz_bytes, record, write_unils_talk

from unils_sdk import rigs as sdk_rigs
from unils_training.config import ConfigError, SamplingConfig, load_config
from unils_training.data import features
from unils_training.data.clips import START_CLIPS, ClipSampler, frame_weights
from unils_training.data.dataset import open_dataset
from unils_training.data.features import load_features, load_motion
from unils_training.data.records import CorpusError, read_npz
from unils_training.data.unils_talk import COLUMNS, HEAD
from unils_training.models.stream.log_mel import log_mel_rows
from unils_training.rigs import ARKIT_CHANNELS, FLAME_CHANNELS, HEAD_CHANNELS, JAW_CHANNEL, group_channels


def talk_records() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    records: dict[str, Any] = {f"r{i}": record(rng) for i in range(8)}
    return {**records, "m0": record(rng, 40, sound=False), "m1": record(rng, 50, sound=False)}


def write_talk(folder: Path, **changes: Any) -> Path:
    """Three training conversations, one to validate on, two motions without sound; `changes` replace records."""
    paired = {
        "train": {f"talk{i}": [f"some/where/r{2 * i}", f"r{2 * i + 1}", FRAMES] for i in range(3)},
        "val": {"talk3": ["r6", "r7", FRAMES - 7]},
        "test": {},
    }
    records = {name: value for name, value in {**talk_records(), **changes}.items() if value is not None}
    return write_unils_talk(folder, records, paired, {"train": [["m0", 40], ["m1", 50]], "val": [], "test": []})


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_talk(tmp_path_factory.mktemp("talk"))


def test_the_rig_of_unils_talk_is_laid_out_as_the_sdk_reads_it() -> None:
    assert len(FLAME_CHANNELS) == len(set(FLAME_CHANNELS)) == sdk_rigs.FLAME_CHANNELS
    assert FLAME_CHANNELS[sdk_rigs.FLAME_EXPRESSION] == tuple(f"expression{i}" for i in range(100))
    assert FLAME_CHANNELS[sdk_rigs.FLAME_GLOBAL_POSE] == HEAD_CHANNELS["flame"]
    assert FLAME_CHANNELS[sdk_rigs.FLAME_JAW_POSE] == (JAW_CHANNEL["flame"],)
    assert FLAME_CHANNELS[sdk_rigs.FLAME_EYE_POSE] == ("leftEyePitch", "leftEyeYaw", "rightEyePitch", "rightEyeYaw")
    assert ARKIT_CHANNELS == sdk_rigs.ARKIT_CHANNELS
    for channels in (ARKIT_CHANNELS, FLAME_CHANNELS):
        assert sorted(i for group in group_channels(channels).values() for i in group) == list(range(len(channels)))


def test_unils_talk_gives_two_sides_of_each_conversation_with_the_columns_of_the_rig(talk: Path) -> None:
    dataset, records = open_dataset(talk), talk_records()
    assert dataset.rig == "flame"
    assert dataset.channels == FLAME_CHANNELS
    assert dataset.splits == {
        "train": ("talk0a", "talk0b", "talk1a", "talk1b", "talk2a", "talk2b"),
        "val": ("talk3a", "talk3b"),
        "test": (),
    }
    first, second = dataset.read("talk1a"), dataset.read("talk1b")
    assert dataset.partner("talk1a") == "talk1b"
    for clip, own, other in ((first, "r2", "r3"), (second, "r3", "r2")):
        stored = records[own]["motioncode"]
        for i, column in enumerate((*range(104), 106, 107, 109, 110)):
            truth = stored[:, column] - (stored[:, column].mean() if 100 <= column < 103 else 0.0)
            np.testing.assert_allclose(clip.motion[:, i], truth, atol=1e-6)
        np.testing.assert_array_equal(clip.self_audio, np.round(records[own]["audio"] * 32768.0))
        np.testing.assert_array_equal(clip.other_audio, np.round(records[other]["audio"] * 32768.0))
        np.testing.assert_array_equal(clip.speech_mask, records[own]["speech_mask"] > 0)
        np.testing.assert_array_equal(clip.other_speech_mask, records[other]["speech_mask"] > 0)
        assert clip.person == own
    assert len(COLUMNS) == 108


def test_the_frames_that_the_json_names_are_read_and_centred(talk: Path) -> None:
    clip = open_dataset(talk).read("talk3b")
    assert len(clip.motion) == FRAMES - 7 == len(clip.self_audio) // 640 == len(clip.speech_mask)  # type: ignore[arg-type]
    np.testing.assert_allclose(clip.motion[:, HEAD].mean(axis=0), 0.0, atol=1e-7)
    assert clip.motion[:, HEAD].std() > 5e-4
    assert clip.motion[:, 99].mean() == pytest.approx(0.99, abs=1e-3)


def test_motion_without_sound_is_read_by_its_key(talk: Path) -> None:
    dataset = open_dataset(talk)
    assert dataset.motion_only == {"train": ("m0", "m1"), "val": (), "test": ()}
    clip = dataset.read_motion("m1")
    stored = talk_records()["m1"]["motioncode"]
    np.testing.assert_array_equal(clip.motion[:, 103:], stored[:, [103, 106, 107, 109, 110]])
    assert clip.speech_mask is None


BROKEN: dict[str, tuple[Any, str]] = {
    "missing": (None, "missing"),
    "truncated": (npz_bytes(**record(np.random.default_rng(1)))[:5000], "cannot be read"),
    "no archive": (b"garbage", "cannot be read"),
    "columns": (record(np.random.default_rng(1), motioncode=np.zeros((FRAMES, 108), np.float32)), "112"),
    "short motion": (record(np.random.default_rng(1), motioncode=np.zeros((57, 112), np.float32)), "JSON says 60"),
    "short audio": (record(np.random.default_rng(1), audio=np.zeros(56 * 640, np.float32)), "JSON says 60"),
    "48 kHz": (record(np.random.default_rng(1), audio=np.zeros(FRAMES * 1920, np.float32)), "audio 180"),
    "8 kHz": (record(np.random.default_rng(1), audio=np.zeros(30 * 640, np.float32)), "audio 30"),
    "no audio": (record(np.random.default_rng(1), audio=None), "audio"),
    "loud": (record(np.random.default_rng(1), audio=np.full(FRAMES * 640, 3e4, np.float32)), "full scale is 1"),
    "mask": (record(np.random.default_rng(1), speech_mask=np.zeros(9)), "speech_mask 9"),
    "nan motion": (record(np.random.default_rng(1), motioncode=np.full((FRAMES, 112), np.nan, np.float32)), "frame 0"),
    "nan audio": (record(np.random.default_rng(1), audio=np.full(FRAMES * 640, np.nan, np.float32)), "audio holds NaN"),
    "objects": (record(np.random.default_rng(1), audio=np.array([{}] * 5, dtype=object)), "pickled objects"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_corrupt_record_is_named_skipped_and_counted(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad, message = BROKEN[fault]
    talk = write_talk(tmp_path / "talk", r3=bad)
    cache = load_features(talk, "train", tmp_path / "cache", workers=1)
    # Both sides of the conversation need the record, but for a fault of the motion, which is one side's alone.
    bad_ids = ("talk1b",) if fault in ("columns", "short motion", "nan motion") else ("talk1a", "talk1b")
    assert tuple(name for name, _ in cache.skipped.reasons) == bad_ids
    assert cache.skipped.count == len(bad_ids)
    assert all("'r3'" in reason and message in reason for _, reason in cache.skipped.reasons)
    assert "'r3'" in caplog.text
    assert f"{len(bad_ids)} of the clips" in caplog.text
    dataset = open_dataset(talk)
    kept = [name for name in dataset.splits["train"] if name not in bad_ids]
    assert cache.ids == tuple(kept)
    np.testing.assert_array_equal(cache.motion, np.concatenate([dataset.read(name).motion for name in kept]))
    np.testing.assert_array_equal(np.diff(cache.offsets), [FRAMES] * len(kept))
    for _ in range(2):  # the second time from the cache
        with pytest.raises(CorpusError, match="'r3'"):
            load_features(talk, "train", tmp_path / "cache", workers=1, on_corrupt="error")
    with pytest.raises(CorpusError, match="'r3'"):
        load_features(talk, "train", tmp_path / "strict", workers=1, on_corrupt="error")


class Bomb:
    """What a hostile pickle would do: leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_inside_a_record_is_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    data = npz_bytes(motioncode=np.array([Bomb(trap)], dtype=object))
    pickle.loads(pickle.dumps(Bomb(trap)))
    assert trap.exists()  # the trap works
    trap.unlink()
    with pytest.raises(CorpusError, match="pickled objects"):
        read_npz(data, "record")
    assert not trap.exists()


def test_a_claimed_shape_is_not_believed() -> None:
    good = npz_bytes(motion=np.zeros((1000, 10), np.float32))
    for shape in (b"(100000000, 10), }", b"(10000000000, 10), }", b"(999, 10), }", b"(-1000, 10), }"):
        lie = good.replace(b"(1000, 10), }".ljust(20), shape.ljust(20))
        assert lie != good
        with pytest.raises(CorpusError, match="claims"):
            read_npz(lie, "record")


def test_a_truncated_database_is_refused_before_it_is_read(tmp_path: Path) -> None:
    talk = write_talk(tmp_path / "talk")
    data = talk / "talk.lmdb" / "data.mdb"
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(CorpusError, match="truncated"):
        open_dataset(talk).read("talk0a")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"train": {"a": ["x", "y"]}}, r"\[path, path, frames\]"),
        ({"train": {"a": ["x", "y", "60"]}}, "no number of frames"),
        ({"train": {"a": ["x", "y", -5]}}, "no number of frames"),
        ({"train": {"a": ["x", "", 5]}}, "no path"),
        ({"train": {"a": ["x", "y", 5]}, "val": {"a": ["x", "y", 5]}}, "there twice"),
        ({"train": [["x", 5, 5]]}, r"\[key, frames\]"),
        ({"train": [["x", 5]], "val": {}}, "must all be"),
        ({"words": 5}, "holds an LMDB, but no JSON"),
    ],
)
def test_a_wrong_list_of_conversations_is_refused(tmp_path: Path, document: Any, message: str) -> None:
    talk = write_unils_talk(tmp_path / "talk", {}, document)
    with pytest.raises(CorpusError, match=message):
        open_dataset(talk)


def test_a_folder_of_neither_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no folder"):
        open_dataset(tmp_path / "nothing")
    with pytest.raises(CorpusError, match=r"corpus\.json is missing"):
        open_dataset(tmp_path)


def test_an_opened_dataset_goes_to_another_process(talk: Path) -> None:
    dataset = open_dataset(talk)
    clip = dataset.read("talk0a")
    again = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(again.read("talk0a").motion, clip.motion)
    assert again.fingerprint == dataset.fingerprint


def test_the_cache_holds_what_was_asked_for_and_makes_the_rest_later(talk: Path, tmp_path: Path) -> None:
    cache = load_features(talk, "train", tmp_path, mel=False, audio=True, workers=1)
    assert cache.rig == "flame"
    assert cache.self_mel is None
    assert cache.frames == 6 * FRAMES
    dataset = open_dataset(talk)
    clips = [dataset.read(name) for name in cache.ids]
    assert cache.self_audio is not None
    assert cache.other_audio is not None
    np.testing.assert_array_equal(cache.self_audio, np.concatenate([clip.self_audio for clip in clips]))
    np.testing.assert_array_equal(cache.other_audio, np.concatenate([clip.other_audio for clip in clips]))
    stamp = (tmp_path / "train" / "self_audio.npy").stat().st_mtime_ns
    more = load_features(talk, "train", tmp_path, workers=1)
    assert more.self_audio is None
    assert (tmp_path / "train" / "self_audio.npy").stat().st_mtime_ns == stamp
    assert more.other_mel is not None
    for i, clip in enumerate(clips):
        mel = log_mel_rows(torch.from_numpy(clip.other_audio / 32768.0).float())
        np.testing.assert_array_equal(more.other_mel[i * FRAMES : (i + 1) * FRAMES], mel.half().numpy())
        np.testing.assert_array_equal(more.speech_mask[i * FRAMES : (i + 1) * FRAMES], clip.speech_mask)
        np.testing.assert_array_equal(more.other_speech_mask[i * FRAMES : (i + 1) * FRAMES], clip.other_speech_mask)


@pytest.mark.slow
def test_the_number_of_workers_does_not_change_the_cache(talk: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        load_features(talk, "train", tmp_path / str(workers), audio=True, workers=workers)
    files = sorted(path.name for path in (tmp_path / "1" / "train").iterdir())
    for name in files:
        assert (tmp_path / "1" / "train" / name).read_bytes() == (tmp_path / "2" / "train" / name).read_bytes(), name


def test_motion_alone_comes_from_both_parts_or_either(talk: Path, tmp_path: Path) -> None:
    both = load_motion(talk, "train", tmp_path, workers=1)
    paired = load_motion(talk, "train", tmp_path, motion_only=False, workers=1)
    alone = load_motion(talk, "train", tmp_path, paired=False, workers=1)
    assert both.frames == 6 * FRAMES + 90
    assert alone.ids == ("m0", "m1")
    np.testing.assert_array_equal(both.motion, np.concatenate([paired.motion, alone.motion]))
    np.testing.assert_array_equal(
        paired.motion, load_features(talk, "train", tmp_path, mel=False, audio=True, workers=1).motion
    )
    np.testing.assert_array_equal(load_motion(talk, "val", tmp_path, workers=1).ids, ("talk3a", "talk3b"))
    with pytest.raises(CorpusError, match="motion-only split 'val'"):
        load_motion(talk, "val", tmp_path, paired=False)


def test_a_folder_corpus_may_hold_motion_without_sound(small_corpus: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(small_corpus, corpus)
    info = json.loads((corpus / "corpus.json").read_text())
    moved = info["splits"]["train"].pop()
    (corpus / moved / "self.wav").unlink()
    (corpus / "corpus.json").write_text(json.dumps({**info, "motion_only": {"train": [moved]}}))
    alone = load_motion(corpus, "train", tmp_path / "cache", paired=False, workers=1)
    assert alone.ids == (moved,)
    assert moved not in load_features(corpus, "train", tmp_path / "cache", workers=1).ids
    np.testing.assert_array_equal(alone.motion, np.load(corpus / moved / "motion.npz")["motion"])


def test_a_folder_corpus_knows_when_the_other_speaks(small_corpus: Path, tmp_path: Path) -> None:
    cache = load_features(small_corpus, "train", tmp_path, workers=1)
    index = {name: i for i, name in enumerate(cache.ids)}
    for name, i in index.items():
        other = index[name[:-1] + {"a": "b", "b": "a"}[name[-1]]]
        np.testing.assert_array_equal(
            cache.other_speech_mask[slice(*cache.offsets[i : i + 2])],
            cache.speech_mask[slice(*cache.offsets[other : other + 2])],
        )


def test_who_speaks_is_heard_where_the_dataset_does_not_say(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    loud = np.repeat(np.repeat([0.0, 1.0, 0.0, 1.0, 0.0, 0.0], 10), 640)
    audio = ((0.1 * loud + 1e-4) * rng.standard_normal(FRAMES * 640)).astype(np.float32)
    talk = write_talk(tmp_path / "talk", r0=record(rng, speech_mask=None, audio=audio))
    cache = load_features(talk, "train", tmp_path / "cache", workers=1)
    agree = cache.speech_mask[:FRAMES] == (loud[::640] > 0)
    assert agree.mean() > 0.8
    np.testing.assert_array_equal(cache.speech_mask[:FRAMES], cache.other_speech_mask[FRAMES : 2 * FRAMES])


def test_latents_are_made_once_for_a_codec_and_anew_for_a_changed_dataset(tmp_path: Path) -> None:
    calls: list[int] = []

    def encode(motion: torch.Tensor) -> torch.Tensor:
        calls.append(motion.shape[1])
        return motion[..., :3] * 2.0

    talk = write_talk(tmp_path / "talk")
    cache = load_motion(talk, "train", tmp_path / "cache", workers=1)
    for _ in range(2):
        np.testing.assert_array_equal(cache.latents("key", encode), (cache.motion[:, :3] * 2.0).astype(np.float16))
    assert calls == list(np.diff(cache.offsets))
    document = json.loads((talk / "unpaired.json").read_text())
    (talk / "unpaired.json").write_text(json.dumps({**document, "train": document["train"][:1]}))
    changed = load_motion(talk, "train", tmp_path / "cache", workers=1)
    assert changed.fingerprint != cache.fingerprint
    assert len(changed.latents("key", encode)) == changed.frames == cache.frames - 50


def test_a_mapped_cache_survives_its_being_made_again(tmp_path: Path) -> None:
    talk = write_talk(tmp_path / "talk")
    cache = load_features(talk, "train", tmp_path / "cache", workers=1)
    before = cache.motion.copy()
    description = tmp_path / "cache" / "train" / "cache.json"
    description.write_text(description.read_text().replace(cache.fingerprint, "0" * 64))
    load_features(talk, "train", tmp_path / "cache", workers=1)
    np.testing.assert_array_equal(cache.motion, before)
    assert features.Skipped().count == 0


# --- which clips are drawn -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def states_cache(tmp_path_factory: pytest.TempPathFactory) -> features.FeatureCache:
    """Conversations of unequal lengths in which the first person speaks, then the second, then nobody for long."""
    rng = np.random.default_rng(3)
    records, paired = {}, {}
    for i, frames in enumerate((400, 600, 1000)):
        thirds = np.arange(frames) * 3 // frames
        masks = [(thirds == who) & (rng.random(frames) > 0.1) for who in (0, 1)]
        for who in (0, 1):
            records[f"s{i}{who}"] = record(rng, frames, speech_mask=masks[who].astype(np.float32))
        paired[f"c{i}"] = [f"s{i}0", f"s{i}1", frames]
    folder = tmp_path_factory.mktemp("states")
    talk = write_unils_talk(folder / "talk", records, {"train": paired})
    return load_features(talk, "train", folder / "cache", mel=False, workers=1)


def frame_states(cache: features.FeatureCache) -> np.ndarray:
    """0 speaking, 1 listening, 2 silent (N,), straight from the definition."""
    states = []
    for begin, end in zip(cache.offsets[:-1], cache.offsets[1:], strict=True):
        own, other = cache.speech_mask[begin:end], cache.other_speech_mask[begin:end]
        for t in range(end - begin):
            recent = other[max(0, t - 50) : t + 1].any()
            states.append(0 if own[t] else 1 if recent else 2)
    return np.array(states)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 3.0, 0.5), (0.0, 1.0, 0.0), (1.0, 0.2, 4.0)])
def test_states_are_drawn_in_the_shares_that_their_weights_say(
    states_cache: features.FeatureCache, weights: tuple[float, float, float]
) -> None:
    length, states = 50, frame_states(states_cache)
    sampler = ClipSampler(states_cache, length, 4, SamplingConfig(*weights))
    # The expected share of every state: over all clips that can be drawn, by the mean weight of their frames.
    begins = np.concatenate([np.arange(a, b - length - 4 + 1) for a, b in itertools.pairwise(states_cache.offsets)])
    windows = states[begins[:, None] + np.arange(length)]
    chance = np.array(weights)[windows].mean(axis=1)
    shares = np.stack([(windows == state).mean(axis=1) for state in range(3)], axis=1)
    starts = np.isin(begins, states_cache.offsets)
    conversation = np.searchsorted(states_cache.offsets, begins, side="right") - 1
    chance /= chance.sum()
    at_start = np.array([chance[conversation == c].sum() for c in conversation])[starts]
    expected = (1 - START_CLIPS) * chance @ shares + START_CLIPS * at_start @ shares[starts]
    drawn = np.concatenate([sampler.draw(np.random.default_rng([7, i]), 500)[1] for i in range(20)])
    found = states[drawn[:, None] + np.arange(length)]
    realised = np.array([(found == state).mean() for state in range(3)])
    np.testing.assert_allclose(realised, expected, atol=0.015)


def test_weights_move_the_shares_far(states_cache: features.FeatureCache) -> None:
    states = frame_states(states_cache)

    def share(state: int, weights: SamplingConfig) -> float:
        _, begins = ClipSampler(states_cache, 50, 4, weights).draw(np.random.default_rng(0), 4000)
        return float((states[begins[:, None] + np.arange(50)] == state).mean())

    assert share(1, SamplingConfig(listening=4.0)) > 1.4 * share(1, SamplingConfig())
    assert share(2, SamplingConfig(silent=0.1)) < 0.6 * share(2, SamplingConfig())


def test_equal_weights_of_any_size_draw_the_very_same_clips(states_cache: features.FeatureCache) -> None:
    draws = [
        ClipSampler(states_cache, 50, 4, weights).draw(np.random.default_rng(1), 100)[1]
        for weights in (SamplingConfig(), SamplingConfig(2.0, 2.0, 2.0))
    ]
    np.testing.assert_array_equal(*draws)
    nearly = SamplingConfig(1.0, 1.0, 1.0 + 1e-12)  # the weighted way, for weights that are as good as equal
    weighted = ClipSampler(states_cache, 50, 4, nearly).draw(np.random.default_rng(1), 100)[1]
    assert np.abs(weighted - draws[0]).max() <= 1


def test_a_draw_depends_on_its_generator_alone(states_cache: features.FeatureCache) -> None:
    weights = SamplingConfig(1.0, 2.0, 0.5)
    first = ClipSampler(states_cache, 50, 4, weights).draw(np.random.default_rng([3, 9]), 64)
    used = ClipSampler(states_cache, 50, 4, weights)
    used.draw(np.random.default_rng(0), 64)
    np.testing.assert_array_equal(first, used.draw(np.random.default_rng([3, 9]), 64))
    assert (first[1] + 54 <= states_cache.offsets[first[0] + 1]).all()
    assert (first[1] >= states_cache.offsets[first[0]]).all()


def test_weights_that_cannot_be_drawn_are_refused(
    states_cache: features.FeatureCache, talk: Path, tmp_path: Path
) -> None:
    for setting in ("speaking=-1.0", "listening=nan"):
        with pytest.raises(ConfigError, match=rf"corpus\.sampling\.{setting.partition('=')[0]}"):
            load_config("tiny", [f"corpus.sampling.{setting}"])
    with pytest.raises(ConfigError, match="more than 0"):
        SamplingConfig(0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="without sound"):
        ClipSampler(load_motion(talk, "train", tmp_path, workers=1), 30, 0, SamplingConfig(2.0, 1.0, 1.0))
    silent = np.zeros(states_cache.frames, np.bool_)
    with pytest.raises(ValueError, match="no clip of train"):
        ClipSampler(
            features.dataclasses.replace(states_cache, speech_mask=silent), 50, 0, SamplingConfig(1.0, 0.0, 0.0)
        )
    assert frame_weights(SamplingConfig(1.0, 2.0, 3.0), silent, silent).tolist() == [3.0] * states_cache.frames
