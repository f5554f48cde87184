"""A model that is ready to score clips: what it is, what it computes in, and its probabilities."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import platform
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from maedfer import __version__
from maedfer._progress import counted
from maedfer.data.protocols import PROTOCOLS, find_protocol
from maedfer.data.video.base import shown
from maedfer.dataclass_tree import to_dict
from maedfer.errors import InputError, some, unknown
from maedfer.evaluation.calibration import calibrated
from maedfer.evaluation.replay import Outputs, Passes
from maedfer.evaluation.score import check_finite
from maedfer.faces.frame import Frame
from maedfer.models import MAEDFER, LGIFormer, LGIFormerConfig, arithmetic, fixed_weights
from maedfer.models.clip_settings import ClipSettings
from maedfer.models.hub import named, pinned
from maedfer.models.load import load_path, saved_folder
from maedfer.models.mapped import WeightsInFile, let_go_once_packed, load_in_file
from maedfer.prediction.find import describe
from maedfer.prediction.one_video import rows_of_file, stream_rows
from maedfer.prediction.options import PredictionOptions, check_together, options_from
from maedfer.prediction.prediction import Prediction
from maedfer.prediction.rows import Row
from maedfer.prediction.sources import FileSource, is_live
from maedfer.prediction.summary import NOT_A_LABEL, calibration, summarize
from maedfer.prediction.windows import ModelInput

PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]

# Windows at once. A processor is as fast with one of them as with many.
_ON_CPU, _ON_GPU = 1, 32
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class Scored(NamedTuple):
    """What a model says of clips.

    Args:
        probabilities: float64 [n, classes], the mean over the views of each clip.
        features: float32 [n, C], what the head sees, the mean over the views of each clip.
    """

    probabilities: np.ndarray
    features: np.ndarray


class Predictor:
    """A classifier on a device, whose scores of a clip do not depend on what is scored with it. See `open_predictor`.

    On a GPU a score may differ in its last digits with the clip's place in a batch: libraries round so.

    Its weights must not change while it lives: products keep them in the form that they read.

    Attributes:
        model, config: the classifier, in evaluation mode, and its configuration. Where `open_predictor` has loaded it
            and csrc multiplies, the weights of its linear layers are packed, and lie in their file beside that.
        input: what clips it takes: frames, size, stride, fit and views.
        classes: names, in label order.
        checkpoint: where it was loaded from.
        device: where it computes.
        precision, precision_why: "fp32", "bf16" or "fp16", and why that one, in words.
        temperature: what logits are divided by; None where confidences are not calibrated.
        batch_size: windows at once.
    """

    def __init__(
        self,
        model: LGIFormer,
        classes: Sequence[str],
        *,
        checkpoint: str = "",
        precision: PrecisionName = "auto",
        device: str | torch.device = "cpu",
        batch_size: int | None = None,
        temperature: float | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.config = model.config
        settings = model.clip_settings or ClipSettings()
        frames, height, width = self.config.clip_size
        self.input = ModelInput(frames, (height, width), settings.stride, settings.fit, settings.views)
        self.classes = tuple(classes)
        self.checkpoint = checkpoint
        self.precision, self.precision_why = _precision(precision, self.device)
        self.temperature = temperature
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        self.batch_size = batch_size or (_ON_CPU if self.device.type == "cpu" else _ON_GPU)
        computes = arithmetic.computed_by(self.config.impl, self.device)
        # csrc makes a row of a product the same way in a batch of any size; of others that is not known.
        self._pads = not _by_csrc(self.config, self.device)
        low = _DTYPES.get(self.precision)
        with _autocast(self.device.type, low), contextlib.ExitStack() as block:
            block.enter_context(fixed_weights(self.model))
            weakref.finalize(self, block.pop_all().close)
        replay = self.device.type == "cuda" and computes == "triton"
        self._passes = Passes(functools.partial(_pass, self.model, low), self.device, replay)

    @functools.cached_property
    def about(self) -> dict[str, Any]:
        """What there is to know of where results come from: plain values that JSON can hold."""
        return {
            "checkpoint": self.checkpoint,
            "weights_sha256": weights_digest(self.model),
            "classes": list(self.classes),
            "clip": to_dict(self.input),
            "precision": self.precision,
            "precision_why": self.precision_why,
            "temperature": self.temperature,
            "device": "cpu" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device),
            "products": arithmetic.steady_multiplier() if self.device.type == "cpu" else None,
            "batch_size": self.batch_size,
            "versions": {name: _version(name) for name in ("maedfer", "torch", "numpy", "av")}
            | {"python": platform.python_version()},
        }

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Make a pass, as the first one packs the weights; what comes out of it is nobody's."""
        with arithmetic.steady_products():
            self._passes(torch.zeros(1, self.config.in_channels, *self.config.clip_size, dtype=torch.uint8))

    def score(self, clips: np.ndarray) -> Scored:
        """Score clips.

        Args:
            clips: uint8 [n, V, T, H, W, 3], V views of each, as large as the model takes them.

        Raises:
            InputError: clips of another shape or dtype, or a logit that is not finite.
        """
        expected = (*self.config.clip_size, 3)
        if clips.ndim != 6 or clips.shape[2:] != expected or clips.dtype != np.uint8:
            raise InputError(
                f"clips must be uint8 [n, views, {', '.join(map(str, expected))}], got {clips.dtype} "
                f"{list(clips.shape)}"
            )
        found = [self._batch(clips[at : at + self.batch_size]) for at in range(0, len(clips), self.batch_size)]
        if not found:
            return Scored(np.zeros((0, len(self.classes))), np.zeros((0, self.config.embed_dim), np.float32))
        return Scored(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def predict(
        self, video: str | Path, *, progress: Callable[[float], None] | None = None, **options: Any
    ) -> Prediction:
        """Predict a video.

        Args:
            video: a file, or a folder of frames.
            progress: is told the share of the video that has been looked at.
            options: fields of `PredictionOptions`.

        Returns:
            Its rows, which go into a table, a picture, an annotated video.

        Raises:
            InputError: no such option, a value that it cannot have, or a video that cannot be read to its end.
        """
        chosen = self._options(options)
        if is_live(video):
            raise InputError(f"{shown(video)}: a stream may have no end: take its rows from Predictor.stream")
        begun = time.monotonic()
        with contextlib.ExitStack() as opened:
            # What is found in each frame, for as long as somebody may want to see it.
            folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="maedfer-"))
            record = Path(folder, "boxes.csv")
            with FileSource(video, chosen.fps, chosen.between) as source:
                rows, detector = rows_of_file(self, source, chosen, progress, record)
                known, ends = describe(source, self.input, chosen), source.end_time
            seconds = known["seconds"]
            past = max(time.monotonic() - begun, 1e-3)
            summary = {
                "video": shown(video),
                "minutes": round(seconds / 60, 4),
                **summarize(rows, self.classes, 0.0 if chosen.whole else chosen.hop, ends),
                "video_stream": {name: value for name, value in known.items() if name != "seconds"},
                "detector": None if detector is None else detector.name,
                "detector_note": None if detector is None else detector.note,
                "calibration": calibration(self.temperature),
                "what_a_label_is": NOT_A_LABEL,
                "model": self.about,
                "settings": to_dict(chosen),
                "speed": {"times_real_time": round(seconds / past, 2), "seconds": round(past, 2)},
            }
            kept = record if record.exists() else None
            prediction = Prediction(rows, self.classes, video, summary, options=chosen, record=kept)
            weakref.finalize(prediction, opened.pop_all().close)
        return prediction

    def stream(
        self,
        frames: Iterable[Frame | tuple[float, np.ndarray]],
        *,
        name: str = "",
        live: bool = True,
        **options: Any,
    ) -> Iterator[Row]:
        """Predict frames as they come, from a camera for instance; each row comes as soon as its window has closed.

            for row in predictor.stream(frames_with_times, hop=0.5):
                print(row.window.time, row.window.face, row.probabilities)

        Args:
            frames: times in seconds, which must rise, with pictures, uint8 [H, W, 3] in RGB, all of one size.
            name: of the video in the rows.
            live: whether nothing must wait for what is to come. Otherwise rows are those that a file of these frames
                has, and come about two seconds later.
            options: fields of `PredictionOptions`.

        Raises:
            InputError: no such option, a value that it cannot have, or one that is for files; while rows are taken,
                frames that are none.
        """
        return stream_rows(self, frames, self._options(options), name=name, live=live)

    def _options(self, values: dict[str, Any]) -> PredictionOptions:
        for name in ("precision", "device", "batch_size"):
            if name in values:
                raise InputError(f"{name} is chosen when a model is loaded: give it to open_predictor")
        return check_together(options_from(**values))

    @torch.inference_mode()
    def _batch(self, clips: np.ndarray) -> Scored:
        count, views = clips.shape[:2]
        if self._pads and count < self.batch_size:
            clips = np.concatenate([clips, np.repeat(clips[-1:], self.batch_size - count, axis=0)])
        frames = torch.from_numpy(clips).flatten(0, 1).permute(0, 4, 1, 2, 3).contiguous()
        with arithmetic.steady_products():
            try:
                logits, features = (one.cpu()[: count * views] for one in self._passes(frames) if one is not None)
            except torch.cuda.OutOfMemoryError as error:
                raise InputError(
                    f"the GPU has not enough memory for {counted(len(clips), 'window')} at once: choose a smaller "
                    "batch_size (--batch-size)"
                ) from error
        if not logits.isfinite().all():
            check_finite(self.model, "the model")
            overflows = f"{_NAMES[self.precision]} overflows, use precision=fp32"
            raise InputError(f"logits are not finite although the weights are: {overflows}")
        # In float64 from here on, where a processor's way of adding does not show.
        probabilities = calibrated(logits.unflatten(0, (count, views)).numpy(), self.temperature or 1.0)
        return Scored(probabilities, features.unflatten(0, (count, views)).mean(1).numpy())


def open_predictor(
    checkpoint: str | Path | LGIFormer,
    *,
    classes: Sequence[str] | str | None = None,
    precision: PrecisionName = "auto",
    device: str = "auto",
    batch_size: int | None = None,
    calibrate: bool = True,
) -> Predictor:
    """Load a classifier, once for many videos.

    Args:
        checkpoint: a run folder, a saved model, a checkpoint of a run, a published fine-tuned file, a model of the
            hub (see `maedfer.load`); or a classifier, which is taken to the device and into evaluation mode.
        classes: names in label order, or the name of a data set whose protocol is known ("dfew"); needed where the
            checkpoint does not name them.
        precision: "auto" = what `maedfer evaluate` computes in: bf16 on a processor or GPU that multiplies it fast.
        device: "cpu", "cuda", "cuda:1", or "auto" = a GPU where there is one.
        batch_size: windows at once; None = 1 on a CPU, 32 on a GPU.
        calibrate: apply the temperature that the checkpoint holds, if it does.

    Raises:
        InputError: nothing that gives classes (weights of pre-training, a model without a head), other classes than
            it has, weights that are not finite, a device or a precision that is not there.
    """
    where = chosen_device(device)
    model, held = (checkpoint, None) if isinstance(checkpoint, LGIFormer) else _load(checkpoint, where)
    name = "the model" if isinstance(checkpoint, LGIFormer) else repr(str(checkpoint))
    if not isinstance(model, LGIFormer):
        raise InputError(
            f"{name} holds a masked autoencoder, weights of pre-training: fine-tune it first, only a classifier "
            "gives expressions"
        )
    config = model.config
    if not config.num_classes:
        raise InputError(f"{name} holds a feature extractor without a head: it gives no classes")
    if len(config.clip_size) != 3 or config.in_channels != 3:
        raise InputError(
            f"{name} takes {config.in_channels} channels of {list(config.clip_size)}: a video needs a model of "
            "frames, height and width in 3 channels"
        )
    check_finite(model, name)
    predictor = Predictor(
        model,
        chosen_classes(model, classes, name),
        checkpoint="" if isinstance(checkpoint, LGIFormer) else pinned(str(named(checkpoint))),
        precision=precision,
        device=where,
        batch_size=batch_size,
        temperature=model.clip_settings.temperature if calibrate and model.clip_settings is not None else None,
    )
    if held is not None:
        # The digest looks at all weights once more.
        _ = predictor.about
        let_go_once_packed(model, held, predictor.warm_up)
    return predictor


def weights_digest(model: LGIFormer) -> str:
    """SHA-256 of a model's parameters and kept buffers, whatever file they came from: names, shapes and values."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _load(checkpoint: str | Path, device: torch.device) -> tuple[LGIFormer | MAEDFER, WeightsInFile | None]:
    """A model, and the file in which its large weights stay where csrc multiplies with packings of them."""
    folder = saved_folder(checkpoint := named(checkpoint))
    if folder is not None and device.type == "cpu":
        found = load_in_file(folder)
        if found is not None and _by_csrc(found[0].config, device):
            return found
    return load_path(checkpoint), None


def _by_csrc(config: LGIFormerConfig, device: torch.device) -> bool:
    """Whether all products of a model are csrc's."""
    computes = arithmetic.computed_by(config.impl, device)
    return device.type == "cpu" and (computes, arithmetic.steady_multiplier()) == ("native", "csrc")


def _autocast(kind: str, low: torch.dtype | None) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if low is None else torch.autocast(kind, low)


def _pass(model: LGIFormer, low: torch.dtype | None, frames: Tensor) -> Outputs:
    # Inside of what is captured, so that no cast of a weight outlives it.
    with _autocast(frames.device.type, low):
        features = model.forward_features(frames)
        # Libraries sum products of few rows in an order that hangs on how many there are; one row is another operation.
        groups = features.split(1) if frames.device.type == "cpu" else (features,)
        logits = [model.classify(rows if len(rows) > 1 else rows.expand(2, -1))[: len(rows)] for rows in groups]
        return torch.cat(logits).float(), features.float()


def chosen_classes(model: LGIFormer, given: Sequence[str] | str | None, name: str) -> tuple[str, ...]:
    """The classes of a model, in label order.

    Args:
        model: the classifier.
        given: as `open_predictor` takes them.
        name: of the model, for messages.

    Raises:
        InputError: the model names none and none are given, or others than it has.
    """
    known = model.clip_settings.classes if model.clip_settings is not None else ()
    count = model.config.num_classes
    if given is None:
        if not known:
            raise InputError(
                f"{name} does not name its {count} classes: give classes, in the order of its labels, or the data "
                f"set that it was trained on (one of {', '.join(sorted(PROTOCOLS))})"
            )
        return known
    # A data set by itself, or as the only name of a list.
    names = [given] if isinstance(given, str) else [str(one) for one in given]
    by_name = isinstance(given, str) or (len(names) == 1 and names[0] in PROTOCOLS)
    classes = tuple(find_protocol(names[0]).classes if by_name else names)
    if len(classes) != count:
        raise InputError(
            f"classes has {len(classes)} names ({some(classes, 8)}) but {name} has {count} classes: give the classes "
            "it was trained on"
        )
    if len(set(classes)) != count:
        raise InputError(f"classes has a name twice: {list(classes)}")
    if known and classes != known:
        what = "in another order" if sorted(classes) == sorted(known) else "under other names"
        raise InputError(
            f"classes has those of {name} {what}: {list(classes)} here, {list(known)} there: leave it out to take "
            "the model's"
        )
    return classes


def chosen_device(name: str) -> torch.device:
    """The device of a name: "cpu", "cuda", "cuda:1", or "auto" = a GPU where there is one.

    Raises:
        InputError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device is {name!r} but torch finds {torch.cuda.device_count()} CUDA devices: use cpu")
    return device


def _precision(asked: str, device: torch.device) -> tuple[str, str]:
    """What is computed in, and why."""
    if asked not in get_args(PrecisionName):
        raise unknown("precision", asked, get_args(PrecisionName))
    if device.type == "cuda":
        # Emulated bfloat16 works but is slower than float32.
        native, gpu = torch.cuda.is_bf16_supported(including_emulation=False), torch.cuda.get_device_name(device)
        if asked == "bf16" and not native:
            raise InputError(f"{gpu} has no bfloat16: use precision=fp16")
        name = ("bf16" if native else "fp16") if asked == "auto" else asked
        return name, f"{_NAMES[name]}, " + (f"which {gpu} multiplies fast" if asked == "auto" else "as asked for")
    if asked == "fp16":
        raise InputError("precision=fp16 needs a GPU: use fp32 or bf16 on a CPU")
    instructions = arithmetic.bfloat16_instructions()
    neither = "the processor has neither AMX-BF16 nor AVX512-BF16"
    if asked == "auto":
        if instructions:
            return "bf16", f"bfloat16, which this processor multiplies fast ({instructions}); fp32 is exacter"
        return "fp32", f"float32, as {neither}"
    slow = f", slow here: {neither}" if asked == "bf16" and not instructions else ""
    return asked, f"{_NAMES[asked]}, as asked for{slow}"


def _version(package: str) -> str | None:
    if package == "maedfer":
        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return None
