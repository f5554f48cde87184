"""The card of a model that is published: what it is, how it is used, and what its answers are not.

What was measured of it only its run knows: `maedfer.report.model_card` writes that into the card.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maedfer.errors import InputError, require
from maedfer.models.clip_settings import ClipSettings
from maedfer.models.config import LGIFormerConfig, ModelConfig
from maedfer.models.hub import MARK

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
_TAGS = ("maedfer", "facial-expression-recognition", "dynamic-facial-expression-recognition", "video")

INTENDED = """\
For research on faces in video, and for describing recordings whose people have agreed to it. Check it against people's
ratings of your own recordings before results are used. Not for decisions about single people: whom to hire, teach,
treat, insure, suspect or sell to. The law of some places forbids to infer emotions at work and in schools.

**What a label is, and what it is not.** The model says which of the acted or posed expressions of its training set a
face resembles. That is no measurement of what somebody feels, thinks or intends, and no diagnosis: people smile without
being happy, and are sad with a still face. Expressions, their frequency and what people read in them differ between
cultures and situations, and a model is worse for who is rare in its training set."""
_UNCALIBRATED = """\
**Uncalibrated.** The probability that the model gives says more than it knows: of clips with confidence 0.9, fewer than
nine in ten may be right. `maedfer evaluate --calibrate` fits a temperature."""
_NO_LICENCE = """\
None is stated here: ask who published the weights what they may be used for. What weights were trained on and began
from may have terms of its own, which a licence of the weights does not take away."""


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """What only the one who publishes a model can say.

    Args:
        license: identifier that the hub knows ("mit", "cc-by-nc-4.0"), or "other" with a name; None = nothing is said.
        license_name, license_link: of another licence.
        data: name of the data set that the scores are of.
        about: what else there is to say, as Markdown.
    """

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    data: str | None = None
    about: str = ""

    def __post_init__(self) -> None:
        if self.license is not None and not _LICENCE.fullmatch(self.license):
            raise InputError(
                f"license {self.license!r} is no identifier: give one that the hub knows, such as mit, or other"
            )
        if (self.license == "other") != bool(self.license_name):
            raise InputError(
                "a license_name belongs to license other, and that needs one: give both, or a known licence"
            )
        if self.license_link and self.license != "other":
            raise InputError(
                "a license_link belongs to license other: leave it out, the hub knows where the others lie"
            )

    @property
    def metadata(self) -> dict[str, str]:
        """The same as keys of a card."""
        names = ("license", "license_name", "license_link")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


@dataclasses.dataclass
class Card:
    """A card in the making; `str` gives its text.

    Attributes:
        title: its heading.
        metadata: what stands in YAML before the text.
        sections: Markdown by heading, in order; those that are empty are left out.
    """

    title: str
    metadata: dict[str, Any]
    sections: dict[str, str]

    def __str__(self) -> str:
        yaml = require("yaml", "hub")
        head = yaml.safe_dump(self.metadata, sort_keys=False, allow_unicode=True, width=120)
        body = "".join(f"\n## {name}\n\n{text.strip()}\n" for name, text in self.sections.items() if text.strip())
        return f"---\n{head}---\n{MARK}\n\n# {self.title}\n{body}"


def base_card(
    config: ModelConfig, clip_settings: ClipSettings | None, parameters: int, repository: str, facts: CardFacts
) -> Card:
    """The card of a model of which nothing is known but what is saved with it.

    Args:
        config: of the model.
        clip_settings: the same; None where none are kept.
        parameters: how many it has.
        repository: where it will be, "user/name".
        facts: what its publisher says.
    """
    classifies = isinstance(config, LGIFormerConfig) and config.num_classes > 0
    metadata: dict[str, Any] = {**facts.metadata, "library_name": "maedfer"}
    if classifies:
        metadata["pipeline_tag"] = "video-classification"
    metadata["tags"] = [*_TAGS, "lgi-former" if isinstance(config, LGIFormerConfig) else "mae-dfer"]
    sections = {
        "What it is": _what(config, clip_settings, parameters),
        "About": facts.about,
        "How to use it": _use(repository, classifies),
        "Data": "" if facts.data is None else f"{one_line(facts.data)}, as its publisher names it.",
        "Scores": "None are known of these weights.",
        "Calibration": _calibration(clip_settings) if classifies else "",
        "Intended use": INTENDED,
        "Settings": "",
        "Versions": "",
        "Licence": _licence(facts),
    }
    return Card(repository.partition("/")[2], metadata, sections)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown; columns after the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def one_line(text: str) -> str:
    """Text without line breaks, and without bytes of a name that are no UTF-8."""
    return " ".join(text.encode(errors="replace").decode().split())


def fenced(text: str, kind: str = "") -> str:
    """Text as a block of code."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{kind}\n{text.strip()}\n{fence}"


def read_card(path: str | Path) -> str:
    """A card that somebody has written.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"card {str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _cell(value: object) -> str:
    return one_line(str(value)).replace("\\", "\\\\").replace("|", "\\|")


def _what(config: ModelConfig, clip_settings: ClipSettings | None, parameters: int) -> str:
    clip = config if isinstance(config, LGIFormerConfig) else config.encoder
    design = "LGI-Former" if clip.architecture == "lgi" else "ViT with joint space-time attention"
    sizes = " x ".join(map(str, clip.clip_size))
    taken = (
        f"{clip.clip_size[0]} frames of {' x '.join(map(str, clip.clip_size[1:]))} pixels"
        if len(clip.clip_size) == 3
        else f"inputs of {sizes}"
    )
    if len(clip.clip_size) == 3 and clip_settings is not None:
        taken += f", one of every {clip_settings.stride}" if clip_settings.stride > 1 else ", one after the other"
    count = f"{parameters / 1e6:.2f} M parameters"
    if not isinstance(config, LGIFormerConfig):
        text = (
            f"A masked autoencoder for video of faces (MAE-DFER), pre-trained without labels: an encoder, {design}, to "
            f"be fine-tuned, with its decoder; {count}. It takes {taken}. It names no expressions by itself."
        )
    elif config.num_classes:
        names = clip_settings.classes if clip_settings is not None else ()
        classes = (
            ", ".join(map(one_line, names)) if names else f"{config.num_classes} classes, which nothing here names"
        )
        text = (
            f"A classifier of facial expressions in short clips of one face: {design}, {count}. It takes {taken}, and "
            f"gives the probabilities of: {classes}."
        )
    else:
        text = f"An encoder of short clips of one face without a head: {design}, {count}. It takes {taken}."
    return (
        f"{text}\n\nThe architecture is that of MAE-DFER (Sun et al., ACM Multimedia 2023, "
        "[arXiv:2307.02227](https://arxiv.org/abs/2307.02227)), computed by the Python package `maedfer`."
    )


def _use(repository: str, classifies: bool) -> str:
    if classifies:
        code = f"""
import maedfer  # with huggingface_hub

predictor = maedfer.open_predictor("hf://{repository}")
predictor.predict("interview.mp4").save("results")
"""
        more = f'`maedfer.load("hf://{repository}")` gives the model, a `torch.nn.Module`.'
    else:
        code = f"""
import maedfer  # with huggingface_hub

model = maedfer.load("hf://{repository}")
"""
        more = f"`maedfer finetune RECIPE train.init=hf://{repository} data.train=LIST data.test=LIST` starts from it."
    return (
        f"{fenced(code, 'python')}\n\n{more} `hf://{repository}@COMMIT` is one state of it. Only config.json and "
        "model.safetensors are read."
    )


def _calibration(clip_settings: ClipSettings | None) -> str:
    temperature = clip_settings.temperature if clip_settings is not None else None
    if temperature is None:
        return _UNCALIBRATED
    return (
        f"Logits are to be divided by the temperature {temperature:.6g}, which was fitted on validation clips and is "
        "kept with the model; `maedfer.open_predictor` does so."
    )


def _licence(facts: CardFacts) -> str:
    if facts.license is None:
        return _NO_LICENCE
    name = one_line(facts.license_name or facts.license)
    return (f"[{name}]({facts.license_link})" if facts.license_link else name) + ", as its publisher says."


def metric_entries(scores: Mapping[str, float], names: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """Scores as the hub lists them.

    Args:
        scores: values, by key.
        names: of the keys that are listed, what the hub calls that kind of score, and what it is called here.
    """
    return [
        {"type": names[key][0], "name": names[key][1], "value": round(float(value), 6)}
        for key, value in scores.items()
        if key in names
    ]
