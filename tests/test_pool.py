"""`SessionPool`: sessions whose frames are made together are the sessions they would be alone."""

from __future__ import annotations

import gc

import numpy as np
import numpy.typing as npt
import pytest

import unils_sdk as unils

HOP = 640
Audio = npt.NDArray[np.float32]


def conversation(seed: int, hops: int) -> tuple[Audio, Audio]:
    """Two tracks (hops * 640) of noise in bursts."""
    random = np.random.default_rng(seed)
    loud = np.repeat(random.random((2, hops)) > 0.5, HOP, axis=1)
    own, other = (random.normal(0.0, 0.2, (2, hops * HOP)) * loud).clip(-1, 1).astype(np.float32)
    return own, other


def push(session: unils.Session, audio: tuple[Audio, Audio], first: int, hops: int) -> None:
    for track, samples in zip(("self", "other"), audio, strict=True):
        part = samples[first * HOP : (first + hops) * HOP]
        assert session.push_audio(part, track, 16000) == len(part)


@pytest.fixture(scope="module", params=[1, 2])
def model(request: pytest.FixtureRequest) -> unils.Model:
    return unils.Model.load(threads=request.param)


def test_sessions_that_join_and_leave_make_the_frames_they_would_make_alone(model: unils.Model) -> None:
    pool = unils.SessionPool(model, max_sessions=4)
    taken_at_first = pool.stats.bytes
    random = np.random.default_rng(3)
    here: dict[unils.Session, tuple[int, int]] = {}  # seed and hops pushed
    made: dict[int, list[unils.FrameBatch]] = {}
    for turn in range(40):
        for session in [session for session in here if random.random() < 0.15]:
            del here[session]
            session.close()
        if len(here) < 4:
            session = pool.session(seed=turn, look_ahead={"self": turn % 3}, cfg_scale=1.0 if turn % 4 == 0 else 1.5)
            here[session] = turn, 0
        for session, (seed, hops) in here.items():
            more = int(random.integers(0, 4))
            push(session, conversation(seed, 200), hops, more)
            here[session] = seed, hops + more
        for session, batch in pool.pull(None if turn % 3 else 2).items():
            made.setdefault(here[session][0], []).append(batch)
    assert pool.stats.bytes == taken_at_first
    assert len(made) > 6
    for seed, batches in made.items():
        got = unils.FrameBatch.concatenate(batches)
        alone = unils.Session(model, seed=seed, look_ahead={"self": seed % 3}, cfg_scale=1.0 if seed % 4 == 0 else 1.5)
        push(alone, conversation(seed, 200), 0, len(got) + 3)
        expected = alone.pull_frames(len(got))
        np.testing.assert_array_equal(got.values, expected.values)
        np.testing.assert_array_equal(got.index, np.arange(len(got)))
        np.testing.assert_array_equal(got.pts_seconds, expected.pts_seconds)


def test_only_sessions_with_a_whole_hop_have_frames(model: unils.Model) -> None:
    with unils.SessionPool(model, max_sessions=3) as pool:
        sessions = [pool.session(look_ahead={"self": 0, "other": 0}) for _ in range(3)]
        audio = conversation(1, 4)
        push(sessions[0], audio, 0, 2)
        push(sessions[2], audio, 0, 1)
        sessions[1].push_audio(audio[0][: HOP - 1], "self", 16000)
        frames = pool.pull()
        assert {session: len(batch) for session, batch in frames.items()} == {sessions[0]: 2, sessions[2]: 1}
        assert frames.motion.shape == (3, len(model.info.channels))
        np.testing.assert_array_equal(frames.motion[frames.span(sessions[2])], frames[sessions[2]].values)
        assert not pool.pull()


def test_none_starves_where_a_pull_is_cut(model: unils.Model) -> None:
    pool = unils.SessionPool(model, max_sessions=5)
    sessions = [pool.session(look_ahead={"self": 0}) for _ in range(5)]
    for seed, session in enumerate(sessions):
        push(session, conversation(seed, 6), 0, 6)
    counts = dict.fromkeys(sessions, 0)
    for _ in range(10):
        for session, batch in pool.pull(3).items():
            counts[session] += len(batch)
        assert max(counts.values()) - min(counts.values()) <= 1
    assert set(counts.values()) == {6}


def test_a_full_pool_refuses_and_has_room_again_when_a_session_goes(model: unils.Model) -> None:
    pool = unils.SessionPool(model, max_sessions=2)
    first, second = pool.session(), pool.session()
    with pytest.raises(unils.PoolFullError, match="room for 2 sessions"):
        pool.session()
    first.close()
    third = pool.session()
    with pytest.raises(unils.StateError, match="closed"):
        first.push_audio(np.zeros(HOP, np.float32), "self", 16000)
    assert pool.stats.sessions == 2
    del second, third
    gc.collect()
    assert pool.stats.sessions == 0


def test_a_pooled_session_is_a_session(model: unils.Model) -> None:
    pool = unils.SessionPool(model, max_sessions=2)
    audio = conversation(5, 60)
    session, alone = pool.session(seed=5), unils.Session(model, seed=5)
    push(session, audio, 0, 20)
    push(alone, audio, 0, 20)
    np.testing.assert_array_equal(pool.pull()[session].values, alone.pull_frames().values)
    with pytest.raises(unils.StateError, match="come from its pool"):
        session.pull_frames()
    assert session.latency == alone.latency
    alone.restore(session.snapshot())  # there and back
    session.restore(alone.snapshot())
    assert session.interrupt() == alone.interrupt() == 1
    for each in (session, alone):
        push(each, audio, 20, 10)
        each.finish()
    batch, expected = pool.pull()[session], alone.pull_frames()
    assert batch.generation == expected.generation == 1
    np.testing.assert_array_equal(batch.values, expected.values)
    session.reset()
    assert session.stats.frames == 0


def test_a_failure_of_one_session_leaves_the_others_alone(model: unils.Model) -> None:
    pool = unils.SessionPool(model, max_sessions=2)
    well, broken = pool.session(look_ahead={"self": 0}), pool.session(look_ahead={"self": 0})
    with pytest.raises(unils.NotFiniteError):
        broken.push_audio(np.full(HOP, np.nan, np.float32), "self", 16000)
    push(well, conversation(1, 3), 0, 3)
    assert set(pool.pull()) == {well}
    push(broken, conversation(2, 1), 0, 1)  # nothing of the bad push was taken
    assert set(pool.pull()) == {broken}


def test_one_push_for_many_sessions_is_a_push_for_each(model: unils.Model) -> None:
    pool = unils.SessionPool(model, max_sessions=3)
    sessions = [pool.session(seed=seed) for seed in range(3)]
    tracks = [conversation(seed, 12) for seed in range(3)]
    for number, track in enumerate(("self", "other")):
        chunk = np.stack([audio[number] for audio in tracks])
        for start in range(0, chunk.shape[1], 1000):
            part = chunk[:, start : start + 1000]  # not contiguous
            np.testing.assert_array_equal(pool.push_audio(sessions, part, track, 16000), [part.shape[1]] * 3)
    together = pool.pull()
    for seed, session in enumerate(sessions):
        alone = unils.Session(model, seed=seed)
        push(alone, tracks[seed], 0, 12)
        np.testing.assert_array_equal(together[session].values, alone.pull_frames().values)

    bad = np.zeros((3, HOP), np.float32)
    bad[1, 7] = np.inf
    with pytest.raises(unils.NotFiniteError, match="session 1 of 3") as raised:
        pool.push_audio(sessions, bad, "self")
    np.testing.assert_array_equal(raised.value.taken, [HOP, 0, HOP])
    with pytest.raises(unils.InvalidArgumentError, match=r"here \(3, n\)"):
        pool.push_audio(sessions, bad[:2], "self")
    with pytest.raises(unils.InvalidTypeError, match="int16 or float32"):
        pool.push_audio(sessions, bad.astype(np.float64), "self")  # type: ignore[arg-type]
    with pytest.raises(unils.InvalidArgumentError, match="track"):
        pool.push_audio(sessions, bad, "mine")
    with pytest.raises(unils.InvalidArgumentError, match="sessions of this pool"):
        pool.push_audio([unils.Session(model)], bad[:1], "self")
    assert pool.push_audio([], np.empty((0, HOP), np.int16), "self").shape == (0,)


def test_what_a_pool_refuses(model: unils.Model) -> None:
    with pytest.raises(unils.InvalidTypeError, match="Model.load"):
        unils.SessionPool("model", max_sessions=2)  # type: ignore[arg-type]
    with pytest.raises(unils.InvalidTypeError, match="max_sessions must be an int"):
        unils.SessionPool(model, max_sessions=2.5)  # type: ignore[arg-type]
    for count in (0, 16385):
        with pytest.raises(unils.InvalidArgumentError, match="1 to 16384"):
            unils.SessionPool(model, max_sessions=count)
    with pytest.raises(unils.BackendError, match="no backend nonsense"):
        unils.SessionPool(model, max_sessions=2, backend="nonsense")
    pool = unils.SessionPool(model, max_sessions=2)
    with pytest.raises(unils.InvalidArgumentError, match="temperature"):
        pool.session(temperature=-1.0)
    assert pool.stats.sessions == 0
    with pytest.raises(unils.InvalidArgumentError, match="max_frames"):
        pool.pull(-1)
    pool.close()
    for call in (pool.session, pool.pull):
        with pytest.raises(unils.StateError, match="pool is closed"):
            call()


def test_a_pool_on_another_backend_keeps_threads_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    model = unils.Model.load(threads=2)
    assert unils.SessionPool(model, max_sessions=1, backend="cpu").model is model
    asked: list[tuple[object, ...]] = []

    def load(*options: object) -> unils.Model:
        asked.append(options)
        raise unils.BackendError("not here")

    monkeypatch.setattr(unils.Model, "load", load)
    with pytest.raises(unils.BackendError, match="not here"):
        unils.SessionPool(model, max_sessions=1, backend="cuda")
    assert asked == [(model.info.path, "cuda", 2, "fp32")]


def test_a_session_outlives_its_pool(model: unils.Model) -> None:
    pool = unils.SessionPool(model, max_sessions=1)
    session = pool.session()
    pool.close()
    del pool
    gc.collect()
    push(session, conversation(1, 2), 0, 2)
    assert session.stats.samples_self == 2 * HOP
    session.close()


def test_precision_is_checked_by_name_and_by_backend() -> None:
    with pytest.raises(unils.InvalidArgumentError, match="fp32, fp16, bf16"):
        unils.Model.load(precision="fp64")
    with pytest.raises(unils.BackendError, match="float32 only"):
        unils.Model.load(backend="cpu", precision="bf16")
