"""Loading models: what a good bundle tells, and that no bad one does harm."""

from __future__ import annotations

import copy
import gc
import json
import os
import threading
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import unils_sdk as unils
from bundles import bundle_config, random_bundle, random_tensors, safetensors_bytes, write_bundle
from conversation import assert_same_frames, frames_of, voices
from unils_sdk import rigs

Config = dict[str, Any]


class TestInfo:
    def test_info_tells_what_the_model_is(self, tiny: unils.Model, tiny_path: Path) -> None:
        info = tiny.info
        assert (info.family, info.rig, info.backend) == ("stream", "arkit", "cpu")
        assert info.channels == rigs.ARKIT_CHANNELS
        assert (info.sample_rate, info.hop_samples, info.frame_rate) == (16000, 640, 25)
        assert info.look_ahead == {"self": (0, 8), "other": (0, 8)}
        assert info.defaults.look_ahead == {"self": 1, "other": 0}
        assert (info.defaults.temperature, info.defaults.cfg_scale) == (1.0, 1.5)
        assert info.defaults.top_p == pytest.approx(0.97)
        assert info.parameters == sum(tensor.size for tensor in random_tensors(bundle_config()).values())
        assert 0 < info.weight_bytes <= 4 * info.parameters
        assert (info.licence, info.provenance) == ("Apache-2.0", {"made_by": "tests"})
        assert info.path == str(tiny_path)
        with pytest.raises(FrozenInstanceError):
            info.rig = "flame"  # type: ignore[misc]

    def test_the_bundled_model_is_small_open_and_documented(self, bundled: unils.Model) -> None:
        info = bundled.info
        folder = Path(info.path)
        assert sum(file.stat().st_size for file in folder.iterdir()) <= 12 * 2**20
        assert info.rig == "arkit"
        assert info.licence == "Apache-2.0"
        assert info.provenance
        assert info.look_ahead["self"][1] >= 8

    def test_a_frame_of_rig_flame_has_its_parts(self, flame: unils.Model) -> None:
        batch = frames_of(flame, voices(1.0))
        assert batch.rig == "flame"
        assert batch.values.shape == (25, 108)
        parts = (batch.expression, batch.global_pose, batch.jaw_pose, batch.eye_pose)
        assert [part.shape for part in parts] == [(25, 100), (25, 3), (25, 1), (25, 4)]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), batch.values)
        assert batch[0].jaw_pose.shape == (1,)
        with pytest.raises(ValueError, match="flame"):
            _ = batch.arkit

    def test_loading_twice_gives_the_same_frames(self, tiny: unils.Model, tiny_path: Path) -> None:
        tracks = voices(1.0)
        for path in (str(tiny_path), os.fsencode(tiny_path)):
            assert_same_frames(frames_of(unils.Model.load(path), tracks), frames_of(tiny, tracks))

    def test_a_bundle_may_lie_at_any_path(self, tmp_path: Path) -> None:
        folder = random_bundle(tmp_path / "modèle 模型 \udce9")
        assert unils.Model.load(folder).info.path == str(folder)


class TestBackend:
    def test_cpu_is_there_and_auto_finds_it(self, tiny_path: Path) -> None:
        assert unils.Model.load(tiny_path, backend="cpu").info.backend == "cpu"
        assert unils.Model.load(tiny_path, backend="auto").info.backend == "cpu"

    @pytest.mark.parametrize("backend", ["no-such", "", "CPU\n"])
    def test_a_backend_asked_for_by_name_fails_loudly(self, tiny_path: Path, backend: str) -> None:
        with pytest.raises(unils.BackendError, match="backend"):
            unils.Model.load(tiny_path, backend=backend)

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"threads": 0}, ValueError),
            ({"threads": -1}, ValueError),
            ({"threads": 2**40}, ValueError),
            ({"threads": 1.5}, TypeError),
            ({"backend": 3}, TypeError),
            ({"backend": None}, TypeError),
        ],
    )
    def test_options_of_the_wrong_kind_are_refused(
        self, tiny_path: Path, options: dict[str, Any], error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            unils.Model.load(tiny_path, **options)

    def test_models_are_loaded_and_freed_by_many_threads(self, tiny_path: Path) -> None:
        failures = []

        def work() -> None:
            try:
                for _ in range(10):
                    assert len(frames_of(unils.Model.load(tiny_path), voices(0.1))) == 3
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gc.collect()
        assert not failures


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def _set(*path: str | int, to: object) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        part: Any = config
        for key in path[:-1]:
            part = part[key]
        if to is None:
            del part[path[-1]]
        else:
            part[path[-1]] = to

    return change


class TestBadBundles:
    """Every one is refused with a sentence; none crashes, hangs or takes memory for what it only claims."""

    def refuse(self, folder: Path | str, error: type[Exception] = unils.UnilsError, says: str | None = None) -> str:
        with pytest.raises(error, match=says) as raised:
            unils.Model.load(folder)
        sentence = str(raised.value)
        assert len(sentence) > 20
        assert "\n" not in sentence
        return sentence

    def test_what_is_not_there_is_named(self, tmp_path: Path) -> None:
        self.refuse(tmp_path / "nowhere", unils.FileError, "nowhere")
        (tmp_path / "file").write_text("")
        self.refuse(tmp_path / "file", unils.FileError)
        (tmp_path / "empty").mkdir()
        self.refuse(tmp_path / "empty", unils.FileError, "model.json")
        self.refuse("", unils.UnilsError)
        with pytest.raises(ValueError, match="null"):
            unils.Model.load("a\0b")
        with pytest.raises(TypeError):
            unils.Model.load(3)  # type: ignore[arg-type]
        folder = random_bundle(tmp_path / "no-weights")
        (folder / "weights.safetensors").unlink()
        self.refuse(folder, unils.FileError, "weights.safetensors")

    def test_folders_and_pipes_in_the_place_of_files_are_refused(self, tmp_path: Path) -> None:
        for name in ("model.json", "weights.safetensors"):
            folder = random_bundle(tmp_path / f"folder-{name}")
            (folder / name).unlink()
            (folder / name).mkdir()
            self.refuse(folder)
            folder = random_bundle(tmp_path / f"pipe-{name}")
            (folder / name).unlink()
            os.mkfifo(folder / name)
            self.refuse(folder)

    @pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, 5000, -1])
    def test_truncated_weights(self, tmp_path: Path, keep: int) -> None:
        config = bundle_config()
        weights = safetensors_bytes(random_tensors(config))
        self.refuse(write_bundle(tmp_path, config, weights[:keep]), unils.BundleError)

    def test_weights_that_are_longer_than_they_say(self, tmp_path: Path) -> None:
        config = bundle_config()
        weights = safetensors_bytes(random_tensors(config))
        self.refuse(write_bundle(tmp_path, config, weights + b"\0" * 100), unils.BundleError)

    def test_oversized_files_are_refused_unread(self, tmp_path: Path) -> None:
        for name in ("model.json", "weights.safetensors"):
            folder = random_bundle(tmp_path / name)
            os.truncate(folder / name, 2**40)
            self.refuse(folder, unils.BundleError)

    def test_weights_that_were_changed_after_the_digest(self, tmp_path: Path) -> None:
        folder = random_bundle(tmp_path)
        weights = bytearray((folder / "weights.safetensors").read_bytes())
        weights[-3] ^= 1
        (folder / "weights.safetensors").write_bytes(weights)
        self.refuse(folder, unils.BundleError, "(?i)sha-?256")

    @pytest.mark.parametrize(
        "text",
        ["", "{", "null", "[]", "3", '"model"', "{}", nested(100_000), '{"format": "unils-bundle"', "\x00", "\ufeff{}",
         '{"a": 1e999999}', '{"a": "\\ud800"}', '{"format": "unils-bundle", "format": "unils-bundle"}'],
        ids=lambda text: repr(text[:20]),
    )  # fmt: skip
    def test_model_json_that_is_no_model(self, tmp_path: Path, text: str) -> None:
        folder = random_bundle(tmp_path)
        (folder / "model.json").write_text(text)
        self.refuse(folder, unils.BundleError)

    def test_model_json_that_is_not_utf8(self, tmp_path: Path) -> None:
        folder = random_bundle(tmp_path)
        (folder / "model.json").write_bytes(b'{"format": "\xff\xfe"}')
        self.refuse(folder, unils.BundleError)

    @pytest.mark.parametrize(
        "change",
        [
            _set("format", to="other"),
            _set("format_version", to=2),
            _set("format_version", to=None),
            _set("family", to="published2"),
            _set("rig", to="cat"),
            _set("rig", to="flame"),
            _set("channels", to=[]),
            _set("channels", to=["a"] * 55),
            _set("channels", to=[3] * 55),
            _set("channels", to=[f"c{i}" for i in range(100_000)]),
            _set("channels", 0, to="x" * 100_000),
            _set("sample_rate", to=0),
            _set("sample_rate", to=44100),
            _set("hop_samples", to=-640),
            _set("frame_rate", to=0),
            _set("look_ahead", "self", to=[0, 10**9]),
            _set("look_ahead", "self", to=[3, 1]),
            _set("look_ahead", "other", to="8"),
            _set("features", "mels", to=0),
            _set("features", "mels", to=10**9),
            _set("features", "fft_size", to=500),
            _set("features", "fft_size", to=2**30),
            _set("features", "low_hz", to=-1.0),
            _set("features", "high_hz", to=1e9),
            _set("features", "floor", to=0.0),
            _set("audio_encoder", "width", to=2**40),
            _set("audio_encoder", "kernel", to=0),
            _set("audio_encoder", "depth", to=-1),
            _set("audio_encoder", "expansion", to=1.5),
            _set("codec", "bits", to=0),
            _set("codec", "levels", to=64),
            _set("codec", "gains", to=[1.0]),
            _set("codec", "gains", to=["a", "b"]),
            _set("generator", "width", to=31),
            _set("generator", "heads", to=0),
            _set("generator", "heads", to=3),
            _set("generator", "depth", to=10**6),
            _set("generator", "window_frames", to=0),
            _set("generator", "window_frames", to=2**31),
            _set("generator", "audio_window_frames", to=2**62),
            _set("generator", "style_tokens", to=2**30),
            _set("generator", to=None),
            _set("generator", to=[]),
            _set("defaults", "temperature", to=-1.0),
            _set("defaults", "top_p", to=0.0),
            _set("defaults", "cfg_scale", to="1.5"),
            _set("defaults", "look_ahead", "self", to=9),
            _set("weights", to={"file": "../model/weights.safetensors", "sha256": "0" * 64}),
            _set("weights", to={"file": "/dev/zero", "sha256": "0" * 64}),
            _set("weights", to={"file": "", "sha256": "0" * 64}),
            _set("weights", to={"file": "weights.safetensors", "sha256": "xyz"}),
            _set("weights", to={"file": "weights.safetensors"}),
        ],
    )
    def test_model_json_with_a_value_that_cannot_be(self, tmp_path: Path, change: Callable[[Config], None]) -> None:
        config = bundle_config()
        weights = safetensors_bytes(random_tensors(config))
        config = copy.deepcopy(config)
        change(config)
        self.refuse(write_bundle(tmp_path, config, weights), unils.BundleError)

    @pytest.mark.parametrize(
        "header",
        [
            b"",
            b"null",
            b"[]",
            b'{"a": 1}',
            b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}',
            b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
            b'{"a": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 0]}}',
            b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
            b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 18446744073709551615]}}',
            b'{"a": {"dtype": "I7", "shape": [1], "data_offsets": [0, 4]}}',
            b'{"a": {"shape": [1], "data_offsets": [0, 4]}}',
            nested(100_000).encode(),
        ],
        ids=lambda header: repr(header[:24]),
    )
    def test_safetensors_headers_that_lie(self, tmp_path: Path, header: bytes) -> None:
        weights = len(header).to_bytes(8, "little") + header + bytes(8)
        self.refuse(write_bundle(tmp_path, bundle_config(), weights), unils.BundleError)

    @pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**40, 10**9])
    def test_safetensors_header_lengths_that_lie(self, tmp_path: Path, length: int) -> None:
        weights = safetensors_bytes(random_tensors(bundle_config()))
        self.refuse(
            write_bundle(tmp_path, bundle_config(), length.to_bytes(8, "little") + weights[8:]), unils.BundleError
        )

    def test_tensors_that_are_missing_extra_misshapen_or_of_another_type(self, tmp_path: Path) -> None:
        config = bundle_config()
        tensors = random_tensors(config)
        name = "generator.token.weight"
        without = {key: tensor for key, tensor in tensors.items() if key != name}
        variants = {
            "missing": without,
            "extra": {**tensors, "extra": np.zeros(4, np.float32)},
            "turned": {**tensors, name: np.ascontiguousarray(tensors[name].T)},
            "flat": {**tensors, name: tensors[name].ravel()},
        }
        for case, changed in variants.items():
            sentence = self.refuse(write_bundle(tmp_path / case, config, safetensors_bytes(changed)), unils.BundleError)
            assert ("extra" if case == "extra" else name) in sentence
        halved = safetensors_bytes(tensors).replace(b'"F32"', b'"F16"', 1)
        self.refuse(write_bundle(tmp_path / "half", config, halved), unils.BundleError)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_weights_that_are_not_finite(self, tmp_path: Path, value: float) -> None:
        config = bundle_config()
        tensors = random_tensors(config)
        tensors["generator.norm.weight"][3] = value
        self.refuse(
            write_bundle(tmp_path, config, safetensors_bytes(tensors)), unils.BundleError, "generator.norm.weight"
        )

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_random_damage_is_refused_or_harmless(self, tmp_path: Path, data: st.DataObject) -> None:
        config = bundle_config()
        weights = bytearray(_DAMAGED_WEIGHTS)
        header = 8 + int.from_bytes(weights[:8], "little")
        for _ in range(data.draw(st.integers(0, 3))):
            weights[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
        folder = write_bundle(tmp_path / "damaged", config, bytes(weights))
        text = bytearray(json.dumps(json.loads((folder / "model.json").read_text())).encode())
        for _ in range(data.draw(st.integers(0, 3))):
            text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
        (folder / "model.json").write_bytes(text)
        try:
            model = unils.Model.load(folder)
        except unils.UnilsError:
            return
        assert np.isfinite(frames_of(model, voices(0.2)).values).all()


_DAMAGED_WEIGHTS = safetensors_bytes(random_tensors(bundle_config()))
