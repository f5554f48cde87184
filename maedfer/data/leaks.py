"""Clips that are in several lists, or several times in one: what makes scores better than they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from maedfer.data.annotations import VIDEO_SUFFIXES, Clip, clip_key
from maedfer.data.source import ClipSource

# Above this number of clips, links are not followed: it costs a look at the disk for each.
_FOLLOW = 200_000


def leaks(lists: Mapping[str, Sequence[Clip]]) -> list[str]:
    """Say which clips are in two of the lists, or twice in one.

    A clip is the same whichever way its path is written, links to it included; so are a video and the folder of frames
    beside it that has its name. Clips of shards are the same where their pictures are. Contents are not read.

    Args:
        lists: clips by the name that the sentences are to have for their list, the one that is learned from first.

    Returns:
        A sentence for every two lists that share clips or cannot be compared, and for every list with clips that are
        there twice.
    """
    # Folders are few: only the clip itself is looked at for every line.
    real_folder = lru_cache(maxsize=None)(os.path.realpath)
    places = {name: _places(clips, real_folder) for name, clips in lists.items()}
    sentences = []
    for name, (found, twice) in places.items():
        if twice:
            key, again = next(iter(twice.items()))
            lines = f"the first is {again.name!r}, in lines {found[key].line} and {again.line}"
            sentences.append(f"{_count(len(twice))} more than once in {name} ({lines})")
    names = list(places)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            first, second = places[name][0], places[other][0]
            if _form(lists[name]) != _form(lists[other]):
                sentences.append(_unknown(name, lists[name], other, lists[other]))
                continue
            both = [key for key in second if key in first]
            if both:
                sentences.append(_shared(name, first, other, second, both))
    return sentences


def shared_people(name: str, clips: Sequence[Clip], other: str, others: Sequence[Clip]) -> list[str]:
    """Say that people are in two lists, as far as the lists tell who is in clips.

    Args:
        name, other: what the sentence is to call the lists, the one that is learned from first.
        clips, others: of these lists.

    Returns:
        A sentence, or nothing.
    """
    known = {clip.subject for clip in clips} - {""}
    tested = {clip.subject for clip in others} - {""} if known else known
    both = known & tested
    if not both:
        return []
    count = sum(clip.subject in both for clip in others)
    people = f"all {len(tested):,}" if len(both) == len(tested) else f"{len(both):,} of {len(tested):,}"
    return [
        f"{people} subjects of {other} are in {name} too (the first is {min(both)!r}), with {count:,} of "
        f"{len(others):,} clips: scores on {other} tell how people who are known fare"
    ]


def _form(clips: Sequence[Clip]) -> str:
    """How clips are stored; what is stored otherwise has other digests."""
    return clips.form if isinstance(clips, ClipSource) else ""


def _unknown(name: str, clips: Sequence[Clip], other: str, others: Sequence[Clip]) -> str:
    known = {clip.name for clip in clips}
    same = sum(clip.name in known for clip in others)
    names = f"; {same:,} of {len(others):,} names of {other} are in {name} too" if same else ""
    if _form(clips) and _form(others):
        why = "as their shards store pictures in different ways"
    else:
        why = "as one of them is shards, which do not tell the files that they were made of"
    return f"whether clips of {other} are in {name} too is not known, {why}{names}"


def _shared(name: str, first: dict[str, Clip], other: str, second: dict[str, Clip], both: list[str]) -> str:
    a, b = first[both[0]], second[both[0]]
    labels = sum(first[key].label != second[key].label for key in both)
    more = f", {labels:,} of them with another label" if labels else ""
    what = f"all {len(both):,} clips" if len(both) == len(second) else f"{len(both):,} of {len(second):,} clips"
    same = ", which has no others" if len(both) == len(first) == len(second) else ""
    return (
        f"{what} of {other} are in {name} too{same}{more} (the first is {b.name!r}, in lines {b.line} and {a.line}): "
        f"scores on {other} do not tell how other clips would fare"
    )


def _count(number: int) -> str:
    return "1 clip is" if number == 1 else f"{number:,} clips are"


def _places(clips: Sequence[Clip], real_folder: Callable[[str], str]) -> tuple[dict[str, Clip], dict[str, Clip]]:
    """Clips by what tells them apart, and those that are there again."""
    follow = len(clips) <= _FOLLOW
    places: dict[str, Clip] = {}
    again: dict[str, Clip] = {}
    for clip in clips:
        key = clip.digest
        if not key:
            key = clip_key(clip.path)
            if follow:
                folder, name = os.path.split(key)
                key = os.path.realpath(key) if os.path.islink(key) else os.path.join(real_folder(folder), name)
            stem, suffix = os.path.splitext(key)
            key = stem if suffix.lower() in VIDEO_SUFFIXES else key
        if places.setdefault(key, clip) is not clip:
            again.setdefault(key, clip)
    return places, again
