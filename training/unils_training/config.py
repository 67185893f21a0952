"""The configuration of an experiment: typed, frozen, one TOML file, plus overrides. Unknown keys are errors."""

from __future__ import annotations

import dataclasses
import math
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


def _require(holds: bool, key: str, wanted: str, value: Any) -> None:
    """`from_dict` puts the path of the table before the key."""
    if not holds:
        raise ConfigError(f"{key} must be {wanted}, not {value!r}")


def _require_positive(config: Any, *keys: str) -> None:
    for key in keys:
        _require(getattr(config, key) > 0, key, "more than 0", getattr(config, key))


def _require_share(config: Any, *keys: str) -> None:
    for key in keys:
        _require(0.0 <= getattr(config, key) <= 1.0, key, "from 0 to 1", getattr(config, key))


def _require_heads(config: Any) -> None:
    even = config.width % config.heads == 0 and config.width // config.heads % 2 == 0
    _require(even, "width", f"{config.heads} heads of an even width", config.width)


@dataclasses.dataclass(frozen=True)
class AudioEncoderConfig:
    width: int = 160
    depth: int = 3
    kernel: int = 5
    expansion: int = 2

    def __post_init__(self) -> None:
        _require_positive(self, "width", "depth", "kernel", "expansion")


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
        _require_positive(self, "width", "depth", "kernel", "expansion", "bits", "levels")
        _require(len(self.gains) == self.levels, "gains", f"one value for each of {self.levels} levels", self.gains)


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
        _require_positive(self, "width", "depth", "heads", "feed_forward", "window_frames", "audio_window_frames")
        _require_positive(self, "style_tokens", "head_width")
        _require_heads(self)


@dataclasses.dataclass(frozen=True)
class LookAheadConfig:
    """Frames of a track's future."""

    self: int
    other: int

    def __post_init__(self) -> None:
        for key in ("self", "other"):
            _require(getattr(self, key) >= 0, key, "0 or more", getattr(self, key))


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes of a `stream` model; written to the bundle."""

    rig: str = "arkit"
    look_ahead_max: LookAheadConfig = LookAheadConfig(8, 8)
    audio_encoder: AudioEncoderConfig = AudioEncoderConfig()
    codec: CodecConfig = CodecConfig()
    generator: GeneratorConfig = GeneratorConfig()


@dataclasses.dataclass(frozen=True)
class PublishedCodecConfig:
    """Sizes of the `published` codec; `scales` are the tokens of each level, the last one being every frame."""

    width: int = 512
    heads: int = 8
    depth: int = 8
    bits: int = 32
    scales: tuple[int, ...] = (1, 5, 25, 50, 100)

    def __post_init__(self) -> None:
        _require_positive(self, "width", "heads", "depth", "bits")
        _require_heads(self)
        rising = all(a < b for a, b in zip(self.scales, self.scales[1:]))  # noqa: B905
        _require(bool(self.scales) and rising and self.scales[0] > 0, "scales", "rising numbers of tokens", self.scales)


@dataclasses.dataclass(frozen=True)
class PublishedAudioEncoderConfig:
    """A wav2vec2 encoder.

    `source`: "" for random weights of the sizes below, a local folder in the Hugging Face layout, or a hub id. Its
    weights stay as they are unless `trained`; random ones are always trained. `cache_grid_frames` > 0 computes the
    features of a frozen encoder once for windows that begin at multiples of so many frames, and draws only such clips.
    """

    source: str = ""
    trained: bool = False
    cache_grid_frames: int = 0
    width: int = 64
    depth: int = 2
    heads: int = 4
    feed_forward: int = 128
    conv_width: int = 32
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    position_kernel: int = 16
    position_groups: int = 4

    def __post_init__(self) -> None:
        _require_positive(self, "width", "depth", "heads", "feed_forward", "conv_width", "position_kernel")
        _require_positive(self, "position_groups")
        for key in ("heads", "position_groups"):
            _require(self.width % getattr(self, key) == 0, "width", f"a multiple of {key}", self.width)
        wanted = f"as many positive numbers as conv_strides, {len(self.conv_strides)}"
        fits = 0 < len(self.conv_kernels) == len(self.conv_strides) and min(*self.conv_kernels, *self.conv_strides) > 0
        _require(fits, "conv_kernels", wanted, self.conv_kernels)
        _require(self.cache_grid_frames >= 0, "cache_grid_frames", "0 or more", self.cache_grid_frames)
        frozen = bool(self.source) and not self.trained
        wanted = "0 where the encoder is trained: only a frozen one's features can be kept"
        _require(frozen or self.cache_grid_frames == 0, "cache_grid_frames", wanted, self.cache_grid_frames)


@dataclasses.dataclass(frozen=True)
class PublishedConfig:
    """Sizes of a `published` model: UniLS as released (512 wide), or its small form (384, 6 heads, 6 blocks)."""

    rig: str = "flame"
    window_frames: int = 100
    width: int = 512
    heads: int = 8
    depth: int = 8
    cross_attention: typing.Literal["separate", "mixed"] = "separate"
    codec: PublishedCodecConfig = PublishedCodecConfig()
    audio_encoder: PublishedAudioEncoderConfig = PublishedAudioEncoderConfig()

    def __post_init__(self) -> None:
        _require_positive(self, "window_frames", "width", "heads", "depth")
        _require_heads(self)
        wanted = f"scales that end at window_frames, {self.window_frames}"
        _require(self.codec.scales[-1] == self.window_frames, "codec.scales", wanted, self.codec.scales)


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Weights, relative to one another, of frames in which the face speaks, listens, or nobody speaks.

    A clip is drawn in proportion to the mean weight of its frames; equal weights sample uniformly.
    """

    speaking: float = 1.0
    listening: float = 1.0
    silent: float = 1.0

    def __post_init__(self) -> None:
        weights = dataclasses.asdict(self)
        for key, weight in weights.items():
            _require(math.isfinite(weight) and weight >= 0, key, "0 or more", weight)
        _require(max(weights.values()) > 0, "speaking, listening or silent", "more than 0", 0.0)


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """Which dataset (either form of docs/corpus.md) is trained on and where its features are cached."""

    path: str = "corpus"
    cache: str = "cache"
    train_split: str = "train"
    val_split: str = "val"
    motion_only: bool = True
    """Whether codec and prior also learn from motion without sound, where the dataset has some."""
    on_corrupt: typing.Literal["skip", "error"] = "skip"
    """Whether clips that cannot be read are left out, named and counted, or are an error."""
    workers: int = 0
    """Processes that make features; 0: as many as there are cores."""
    sampling: SamplingConfig = SamplingConfig()
    """Which clips the dialogue stage is trained on more often."""

    def __post_init__(self) -> None:
        _require(self.workers >= 0, "workers", "0 or more", self.workers)

    @property
    def loading(self) -> dict[str, Any]:
        """The arguments that `load_features` and `load_motion` take from here."""
        return {"workers": self.workers or None, "on_corrupt": self.on_corrupt}


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How one stage is optimised. It ends, and its schedule with it, at `steps` or after `minutes`; 0 is no limit.

    `batch_clips` is the batch of one step over all processes and all `gradient_accumulation` passes of it.
    """

    steps: int = 2000
    minutes: float = 0.0
    batch_clips: int = 8
    clip_frames: int = 256
    gradient_accumulation: int = 1
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    warmup_rate: float = 0.0
    schedule: typing.Literal["cosine", "linear", "constant"] = "cosine"
    final_rate: float = 0.1
    weight_decay: float = 0.01
    beta2: float = 0.98
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    precision: typing.Literal["float32", "bfloat16"] = "bfloat16"
    compile: bool = False
    deterministic: bool = True
    threads: int = 2
    checkpoint_steps: int = 500
    keep_steps: int = 0
    """Besides `last.pt`, keep the checkpoint of every so many steps as `step_N.pt`; 0 keeps none."""
    validation_steps: int = 500
    validation_clips: int = 32
    log_steps: int = 20

    def __post_init__(self) -> None:
        if self.steps <= 0 and self.minutes <= 0:
            raise ConfigError("steps or minutes must be given for the stage to end")
        for key in ("steps", "minutes", "warmup_steps", "weight_decay", "keep_steps"):
            _require(getattr(self, key) >= 0, key, "0 or more", getattr(self, key))
        _require_positive(self, "batch_clips", "clip_frames", "gradient_accumulation", "learning_rate", "clip_norm")
        _require_positive(self, "threads", "checkpoint_steps", "validation_steps", "validation_clips", "log_steps")
        _require_share(self, "warmup_rate", "final_rate", "beta2", "ema_decay")
        divides = self.batch_clips % self.gradient_accumulation == 0
        wanted = f"a multiple of gradient_accumulation, {self.gradient_accumulation}"
        _require(divides, "batch_clips", wanted, self.batch_clips)


@dataclasses.dataclass(frozen=True)
class FlameConfig:
    """The user's FLAME files, for losses and metrics on vertices of rig `flame`. Neither ships."""

    model: str = ""
    """FLAME 2020's `generic_model.pkl` or 2023 Open's `flame2023.pkl`; "" does without vertices."""
    masks: str = ""
    """`FLAME_masks.pkl`; "" finds lips and upper face by distances on the mean face."""

    def __post_init__(self) -> None:
        if self.masks and not self.model:
            raise ConfigError("flame.masks names a file but flame.model does not")


@dataclasses.dataclass(frozen=True)
class CodecStageConfig:
    """Weights of the codec's losses; FACTS of the released codec: L1 x1, head x8, velocity x5, BSQ 0.1 and 0.2.

    `vertices` and `lips` count where `flame.model` names a file. `smoothness`, `bit_noise` and `channel_weights` are
    the stream family's; `jerk` and `pose`, the error of channels whose names begin with one of `pose_channels`, are the
    published one's.
    """

    training: TrainingConfig = TrainingConfig()
    std_floor: float = 0.02
    l1: float = 1.0
    velocity: float = 5.0
    entropy: float = 0.1
    commitment: float = 0.2
    smoothness: float = 0.05
    vertices: float = 2.0
    lips: float = 0.1
    pose: float = 8.0
    pose_channels: tuple[str, ...] = ("head", "jaw")
    jerk: float = 0.5
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
    previous_drop: float = 0.1
    """Published family: how often the window before is taken away. Its style clips are one window long."""

    def __post_init__(self) -> None:
        _require_share(self, "clean_clips", "max_flip_rate", "style_drop", "previous_drop")
        _require_positive(self, "style_min_frames")
        wanted = f"at least style_min_frames, {self.style_min_frames}"
        _require(self.style_max_frames >= self.style_min_frames, "style_max_frames", wanted, self.style_max_frames)


@dataclasses.dataclass(frozen=True)
class PriorStageConfig:
    training: TrainingConfig = TrainingConfig()
    history: HistoryConfig = HistoryConfig()
    motion_only: bool = True
    """False: stage 1 sees the paired dialogues alone, not the recordings that have no partner."""


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    rank: int = 32
    """0: no adapters; the prior itself goes on learning."""
    alpha: float = 32.0
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _require(self.rank >= 0, "rank", "at least 0", self.rank)
        _require_positive(self, "alpha")
        _require(0.0 <= self.dropout < 1.0, "dropout", "from 0 to below 1", self.dropout)


@dataclasses.dataclass(frozen=True)
class DialogueStageConfig:
    training: TrainingConfig = TrainingConfig()
    history: HistoryConfig = HistoryConfig()
    lora: LoraConfig = LoraConfig()
    stage_1: bool = True
    """False: no prior; the whole generator is trained from nothing, for comparison."""
    other_track: bool = True
    """False: the other person is never heard (a stream model's attention to that track is zero), for comparison."""
    from_bundle: str = ""
    """Folder of a bundle to go on from (fine-tuning), in place of the run's codec and prior."""
    level_weights: tuple[float, ...] = ()
    """Weights of the levels' losses, of which only the ratios count; empty is all alike. Fine levels are mostly noise,
    and coarse ones carry the jaw."""
    audio_drop: float = 0.1
    look_ahead_self_one: float = 0.5
    look_ahead_other_zero: float = 0.7
    probe: float = 1.0
    probe_final: float = 0.1
    probe_steps: int = 0

    def __post_init__(self) -> None:
        _require_share(self, "audio_drop", "look_ahead_self_one", "look_ahead_other_zero")
        _require(all(w > 0.0 for w in self.level_weights), "level_weights", "positive numbers", self.level_weights)
        if self.from_bundle and not self.stage_1:
            raise ConfigError("stage_1 = false and from_bundle exclude each other: a bundle brings its prior with it")


@dataclasses.dataclass(frozen=True)
class DefaultsConfig:
    """Sampling settings that a bundle recommends."""

    temperature: float = 1.0
    top_p: float = 1.0
    cfg_scale: float = 1.5
    look_ahead: LookAheadConfig = LookAheadConfig(1, 0)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that an experiment depends on, besides the corpus itself.

    The three stages write to folders of their names in `run`. A stage reads what came before from the run itself, or
    from the runs that `codec_from` and `prior_from` name, so that several experiments can share a codec and a prior.
    """

    family: typing.Literal["stream", "published"] = "stream"
    seed: int = 0
    licence: str = "Apache-2.0"
    run: str = "runs/default"
    codec_from: str = ""
    prior_from: str = ""
    device: typing.Literal["auto", "cpu", "cuda"] = "auto"
    wandb: str = ""
    """Project of Weights & Biases to log to as well; "" logs to TensorBoard alone."""
    corpus: CorpusConfig = CorpusConfig()
    flame: FlameConfig = FlameConfig()
    model: ModelConfig = ModelConfig()
    published: PublishedConfig = PublishedConfig()
    codec: CodecStageConfig = CodecStageConfig()
    prior: PriorStageConfig = PriorStageConfig()
    dialogue: DialogueStageConfig = DialogueStageConfig()
    defaults: DefaultsConfig = DefaultsConfig()

    def __post_init__(self) -> None:
        _require(self.seed >= 0, "seed", "0 or more", self.seed)
        if (
            not self.dialogue.other_track
            and self.model.generator.cross_attention == "mixed"
            and self.family == "stream"
        ):
            raise ConfigError('dialogue.other_track = false needs model.generator.cross_attention = "separate"')
        if self.dialogue.from_bundle and self.family != "stream":
            raise ConfigError("dialogue.from_bundle takes bundles of the stream family; family is published")
        for track in ("self", "other"):
            ahead, most = getattr(self.defaults.look_ahead, track), getattr(self.model.look_ahead_max, track)
            wanted = f"at most model.look_ahead_max.{track}, {most}"
            _require(self.family != "stream" or ahead <= most, f"defaults.look_ahead.{track}", wanted, ahead)


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


def from_dict(cls: type[Any], values: Mapping[str, Any], prefix: str = "", base: Any = None) -> Any:
    """Builds dataclass `cls` from nested mappings; missing keys keep the values of `base`, or else their defaults."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: field.default for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"unknown key {prefix + unknown[0]!r}; known here: {', '.join(sorted(fields))}")
    if base is not None:
        fields = {name: getattr(base, name) for name in fields}
    converted = {name: _convert(hints[name], value, prefix + name, fields[name]) for name, value in values.items()}
    try:
        return cls(**converted) if base is None else dataclasses.replace(base, **converted)
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from error
    except TypeError as error:
        raise ConfigError(f"{prefix.rstrip('.') or 'configuration'}: {error}") from error


def _convert(kind: Any, value: Any, key: str, default: Any = None) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} must be a table")
        base = default if isinstance(default, kind) else None  # type: ignore[arg-type]
        return from_dict(kind, value, f"{key}.", base)  # type: ignore[arg-type]
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


def without_places(config: Config) -> Config:
    """The configuration without the folders of the machine that trained: what it made is known by fingerprints."""
    encoder = config.published.audio_encoder
    source = Path(encoder.source).name if Path(encoder.source).is_absolute() else encoder.source
    return dataclasses.replace(
        config,
        run="",
        codec_from="",
        prior_from="",
        wandb="",
        corpus=dataclasses.replace(config.corpus, path="", cache=""),
        published=dataclasses.replace(config.published, audio_encoder=dataclasses.replace(encoder, source=source)),
        flame=FlameConfig(),
        dialogue=dataclasses.replace(config.dialogue, from_bundle=""),
    )


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ between two resolved configurations as of `to_dict`, and both values."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in [*new, *(key for key in old if key not in new)]:
        a, b = (_plain(values.get(key)) for values in (old, new))
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found[prefix + key] = (a, b)
    return found


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def to_dict(config: Any) -> dict[str, Any]:
    """The resolved configuration as plain JSON-able values; `from_dict` gives it back."""
    return dataclasses.asdict(config)
