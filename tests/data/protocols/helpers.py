"""Data sets in miniature, as they lie on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maedfer.data.protocols import Fold


def put(root: Path, name: str, text: str = "") -> None:
    """Write a file, and the folders to it."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def put_dfew(root: Path) -> None:
    """Two training clips, one test clip of its own in every fold, and the frame folders of all but the last."""
    for fold in range(1, 6):
        put(root, f"EmoLabel_DataSplit/train(single-labeled)/set_{fold}.csv", "video_name,label\n12,1\n16372,7\n")
        put(root, f"EmoLabel_DataSplit/test(single-labeled)/set_{fold}.csv", f"video_name,label\n{fold},4\n")
    for number in (1, 2, 3, 4, 5, 12):
        (root / f"jpg_224/{number:05d}").mkdir(parents=True)


def check_partition(folds: Sequence[Fold], total: int) -> None:
    """Every clip is in the test part of one fold and in the training part of all others."""
    tests = [path for fold in folds for path, _ in fold.test]
    assert len(tests) == len(set(tests)) == total
    for fold in folds:
        assert len(fold.train) + len(fold.test) == total
        assert not {path for path, _ in fold.train} & {path for path, _ in fold.test}
