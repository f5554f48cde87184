"""What can be chosen of a preparation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from maedfer.data.subjects import SubjectPattern
from maedfer.errors import InputError
from maedfer.setting import check_range, documented, setting

CropChoice = Literal["auto", "yes", "no"]
CheckChoice = Literal["ends", "all"]
# What says how one's own clips are divided.
SPLITTING = ("subject", "folds", "test", "seed")


@documented
@dataclass(frozen=True)
class PrepareOptions:
    """How a data set is looked at, cropped and split."""

    list_file: str | None = setting(None, doc="annotation file of one's own clips (data set `list`)", path=True)
    classes: tuple[str, ...] = setting((), doc="names in label order, of one's own clips; found out where not given")
    subject: str | None = setting(
        None,
        doc="who is in a clip of one's own: a column of the list, or a pattern of which the first group (or all of it) "
        "is found in the clip's path; no one is in two parts of a split then",
    )
    folds: int = setting(1, low=1, high=1000, doc="parts that are each tested once; 1 = one split by `test`")
    test: float = setting(0.2, above=0, below=1, doc="share of one's own clips that is kept for test, where folds is 1")
    seed: int = setting(0, low=0, high=2**63 - 1, doc="says which clips of one's own are in which part")
    unlabelled: bool = setting(False, doc="a folder of one's own clips has no classes: they are for pre-training")
    crop: CropChoice = setting(
        "auto",
        doc="whether faces are cut out: yes, no, or where the clips are whole recordings; of one's own clips a sample "
        "says it",
    )
    size: int = setting(224, low=16, high=4096, doc="side of the crops in pixels")
    detector: str | None = setting(None, doc="file of a detector (CenterFace, YuNet); None = CenterFace", path=True)
    boxes: str | None = setting(None, doc="CSV of boxes made elsewhere, instead of a detector", path=True)
    fps: float | None = setting(None, above=0, doc="frames a second of folders of frames that are to be cropped")
    check: CheckChoice = setting(
        "ends", doc="what is decoded of each clip: its first, middle and last frame, or all of its frames"
    )
    digests: bool = setting(True, doc="read all bytes of every clip and write their SHA-256 into the manifest")
    workers: int = setting(1, low=1, high=1024, doc="processes")
    shard: bool = setting(False, doc="the commands to type next write shards first, and train from them")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_range(field, getattr(self, field.name), field.name)
        for name, choices in (("crop", get_args(CropChoice)), ("check", get_args(CheckChoice))):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.boxes is not None and self.detector is not None:
            raise InputError("boxes come from a file or from a detector: give boxes or detector, not both")
        if self.size % 2:
            raise InputError(f"size must be even, as pictures of mp4 files are; got {self.size}")
        if self.subject is not None:
            SubjectPattern(self.subject, "subject")
