"""The configuration of an experiment: typed, frozen, one TOML file, plus overrides. Unknown keys are errors."""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_FOLDER = Path(__file__).parent / "configs"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


@dataclasses.dataclass(frozen=True)
class AudioEncoderConfig:
    width: int = 160
    depth: int = 3
    kernel: int = 5
    expansion: int = 2


@dataclasses.dataclass(frozen=True)
class CodecConfig:
    width: int = 128
    depth: int = 3
    kernel: int = 5
    expansion: int = 2
    bits: int = 24
    levels: int = 4
    gains: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)

    def __post_init__(self) -> None:
        if len(self.gains) != self.levels:
            raise ConfigError(f"codec.gains has {len(self.gains)} values for {self.levels} levels")


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    width: int = 160
    depth: int = 3
    heads: int = 5
    feed_forward: int = 640
    window_frames: int = 128
    audio_window_frames: int = 64
    style_tokens: int = 16
    head_width: int = 256
    cross_attention: typing.Literal["separate", "mixed"] = "separate"
    """One cross-attention for each track, or one over both tracks together: the paper's ablation, never exported."""

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width // self.heads % 2:
            raise ConfigError(f"generator.width {self.width} is not {self.heads} heads of an even width")


@dataclasses.dataclass(frozen=True)
class LookAheadConfig:
    """Frames of a track's future."""

    self: int
    other: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes of a `stream` model; written to the bundle."""

    rig: str = "arkit"
    look_ahead_max: LookAheadConfig = LookAheadConfig(8, 8)
    audio_encoder: AudioEncoderConfig = AudioEncoderConfig()
    codec: CodecConfig = CodecConfig()
    generator: GeneratorConfig = GeneratorConfig()


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """Where the corpus lies and where its features are cached."""

    path: str = "corpus"
    cache: str = "cache"
    train_split: str = "train"
    val_split: str = "val"


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How one stage is optimised. It ends, and its schedule with it, at `steps` or after `minutes`; 0 is no limit."""

    steps: int = 2000
    minutes: float = 0.0
    batch_clips: int = 8
    clip_frames: int = 256
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    final_rate: float = 0.1
    weight_decay: float = 0.01
    beta2: float = 0.98
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    precision: typing.Literal["float32", "bfloat16"] = "bfloat16"
    threads: int = 2
    checkpoint_steps: int = 500
    validation_steps: int = 500
    validation_clips: int = 32
    log_steps: int = 20

    def __post_init__(self) -> None:
        if self.steps <= 0 and self.minutes <= 0:
            raise ConfigError("a stage needs training.steps or training.minutes to end")


@dataclasses.dataclass(frozen=True)
class CodecStageConfig:
    """Weights of the codec's losses; FACTS of the released codec: L1 x1, head x8, velocity x5, BSQ 0.1 and 0.2."""

    training: TrainingConfig = TrainingConfig()
    std_floor: float = 0.02
    l1: float = 1.0
    velocity: float = 5.0
    entropy: float = 0.1
    commitment: float = 0.2
    smoothness: float = 0.05
    bit_noise: float = 0.02
    channel_weights: tuple[tuple[str, float], ...] = (
        ("head", 4.0),
        ("jawOpen", 4.0),
        ("mouthClose", 4.0),
        ("mouthFunnel", 2.0),
        ("mouthPucker", 2.0),
        ("mouthPress", 2.0),
        ("mouthRoll", 2.0),
        ("eyeBlink", 3.0),
    )
    """Channel-name prefix and the weight of its error; the longest prefix that fits counts, otherwise 1."""


@dataclasses.dataclass(frozen=True)
class HistoryConfig:
    """What is done to the history that the generator is trained on, against exposure bias."""

    clean_clips: float = 0.3
    max_flip_rate: float = 0.2
    style_drop: float = 0.3
    style_min_frames: int = 25
    style_max_frames: int = 200


@dataclasses.dataclass(frozen=True)
class PriorStageConfig:
    training: TrainingConfig = TrainingConfig()
    history: HistoryConfig = HistoryConfig()


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    rank: int = 32
    alpha: float = 32.0
    dropout: float = 0.1


@dataclasses.dataclass(frozen=True)
class DialogueStageConfig:
    training: TrainingConfig = TrainingConfig()
    history: HistoryConfig = HistoryConfig()
    lora: LoraConfig = LoraConfig()
    audio_drop: float = 0.1
    look_ahead_self_one: float = 0.5
    look_ahead_other_zero: float = 0.7
    probe: float = 1.0
    probe_final: float = 0.1
    probe_steps: int = 0


@dataclasses.dataclass(frozen=True)
class DefaultsConfig:
    """Sampling settings that a bundle recommends."""

    temperature: float = 1.0
    top_p: float = 1.0
    cfg_scale: float = 1.5
    look_ahead: LookAheadConfig = LookAheadConfig(1, 0)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that an experiment depends on, besides the corpus itself."""

    seed: int = 0
    licence: str = "Apache-2.0"
    run: str = "runs/default"
    corpus: CorpusConfig = CorpusConfig()
    model: ModelConfig = ModelConfig()
    codec: CodecStageConfig = CodecStageConfig()
    prior: PriorStageConfig = PriorStageConfig()
    dialogue: DialogueStageConfig = DialogueStageConfig()
    defaults: DefaultsConfig = DefaultsConfig()


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a TOML file, or the packaged configuration of that name ("bundled"), and applies `a.b=value` overrides.

    Raises:
        ConfigError: a key that does not exist, a value of the wrong type, or no such file.
    """
    path = Path(source)
    if not path.suffix:
        path = CONFIG_FOLDER / f"{source}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no configuration {path}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    for override in overrides:
        _apply_override(values, override)
    return from_dict(Config, values)


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"override {override!r} is not of the form key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, leaf = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"override {override!r}: {parent} is not a table")
    values[leaf] = value


def from_dict(cls: type[Any], values: Mapping[str, Any], prefix: str = "") -> Any:
    """Builds dataclass `cls` from nested mappings; missing keys keep their defaults."""
    hints = typing.get_type_hints(cls)
    names = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise ConfigError(f"unknown key {prefix + unknown[0]!r}; known here: {', '.join(sorted(names))}")
    try:
        return cls(**{name: _convert(hints[name], value, prefix + name) for name, value in values.items()})
    except TypeError as error:
        raise ConfigError(f"{prefix.rstrip('.') or 'configuration'}: {error}") from error


def _convert(kind: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} must be a table")
        return from_dict(kind, value, f"{key}.")  # type: ignore[arg-type]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{key} must be a list")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise ConfigError(f"{key} must have {len(kinds)} values")
        return tuple(_convert(item_kind, item, key) for item_kind, item in zip(kinds, value, strict=True))
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{key} must be one of {', '.join(map(str, arguments))}, not {value!r}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ConfigError(f"{key} must be {kind.__name__}, not {value!r}")
    return value


def to_dict(config: Any) -> dict[str, Any]:
    """The resolved configuration as plain JSON-able values; `from_dict` gives it back."""
    return dataclasses.asdict(config)
