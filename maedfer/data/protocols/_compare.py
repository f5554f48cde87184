"""Numbers of clips that were found, beside the published ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from maedfer.data.protocols._record import DatasetProtocol, Fold, odd_subjects


def compare_counts(protocol: DatasetProtocol, folds: Sequence[Fold]) -> list[str]:
    """Compare the numbers of clips with the published ones; gives sentences, what a difference may mean among them."""
    paths = {path for fold in folds for rows in fold for path, _ in rows}
    found = len(paths)
    test = len(folds[0].test)
    published = f"{protocol.clips:,} clips, {protocol.test_clips:,} of them in the test part of fold 1"
    if (found, test) == (protocol.clips, protocol.test_clips):
        return [f"These are the published numbers: {published}."]
    given = protocol.split == "given"
    sentences = [f"Published are {published}; found were {found:,} and {test:,}."]
    if found < protocol.clips:
        why = "the split files are cut off or of another version" if given else "files are missing or named otherwise"
        sentences.append(f"{_clips(protocol.clips - found)} fewer may mean that {why}.")
    elif found > protocol.clips:
        why = "the split files are of another version" if given else "some clips are there twice, in several folders"
        sentences.append(f"{_clips(found - protocol.clips)} more may mean that {why}.")
    else:
        sentences.append("The same clips in other parts mean that the split is another one.")
    if protocol.parse is not None:
        subjects = Counter(clip.subject for path in paths if (clip := protocol.parse(path)) is not None)
        sentences += odd_subjects(subjects, protocol.subjects)
    sentences.append("Scores on these lists cannot be compared with published ones.")
    return sentences


def _clips(number: int) -> str:
    return f"{number:,} clip" + ("" if number == 1 else "s")
