"""Scores across data sets: the classes of a model as those of a data set that has others.

Each class of the model goes to one class of the data set, or to none. Probabilities of those that go to one class are
added up. What nothing corresponds to is left out: clips of classes that no class of the model goes to are not scored,
and where classes of the model go nowhere, the probabilities of a clip are divided by their sum over the others, as if
the model had to choose among these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maedfer._progress import counted
from maedfer.errors import InputError, unknown
from maedfer.evaluation.predictions import Predictions


@dataclasses.dataclass(frozen=True)
class ClassMap:
    """Which class of a data set each class of a model goes to.

    Args:
        model: names of the model's classes, in label order.
        dataset: names of the data set's classes, in label order.
        targets: class of the data set by class of the model; those that are missing go nowhere.
        where: what messages call the map.

    Raises:
        InputError: a name is not known, or fewer than two classes of the data set are reached.
    """

    model: tuple[str, ...]
    dataset: tuple[str, ...]
    targets: Mapping[str, str]
    where: str

    def __post_init__(self) -> None:
        for source, target in self.targets.items():
            if source not in self.model:
                raise unknown("class of the model", source, self.model, f"in {self.where}")
            if target not in self.dataset:
                raise unknown("class of the data set", target, self.dataset, f"in {self.where} (see data.classes)")
        if not self.targets:
            raise InputError(f"{self.where} names no class: write a line 'class of the model: class of the data set'")
        if len(self.reached) < 2:
            raise InputError(
                f"{self.where}: all go to one class of the data set, {self.reached[0]!r}, and there is nothing to tell "
                "apart: map to two classes or more"
            )

    @property
    def reached(self) -> tuple[str, ...]:
        """The classes of the data set that something goes to, in its order: those that are scored."""
        return tuple(name for name in self.dataset if name in self.targets.values())

    def kept(self, labels: Any) -> np.ndarray:
        """Which clips are scored, int64.

        Args:
            labels: of all clips, numbers of the data set's classes.

        Raises:
            InputError: none is of a class that is reached.
        """
        found = np.flatnonzero(self._numbers()[np.asarray(labels, np.int64)] >= 0)
        if not len(found):
            raise InputError(f"{self.where}: no clip of data.test is of a class that the model's classes go to")
        return found

    def _numbers(self) -> np.ndarray:
        """The number among those that are reached of each class of the data set, -1 where it is not."""
        reached = self.reached
        return np.array([reached.index(name) if name in reached else -1 for name in self.dataset])

    def _matrix(self) -> np.ndarray:
        """Which class of the model goes to which of those that are reached: float64 [model's, reached], of 0 and 1."""
        found = np.zeros((len(self.model), len(self.reached)))
        for source, target in self.targets.items():
            found[self.model.index(source), self.reached.index(target)] = 1
        return found

    def apply(self, found: Predictions) -> tuple[Predictions, dict[str, Any], list[str]]:
        """Predictions in the classes of the data set.

        Args:
            found: probabilities of the model's classes, labels of the data set's.

        Returns:
            Predictions of the clips whose classes are reached; what metrics.json says of it; notes.

        Raises:
            InputError: no clip is of a class that is reached.
        """
        reached, number, kept = self.reached, self._numbers(), self.kept(found.labels)
        sums = found.probabilities[kept].astype(np.float64) @ self._matrix()
        whole = sums.sum(1, keepdims=True)
        # Where nothing at all is left, nothing is known.
        probabilities = np.divide(sums, whole, out=np.full_like(sums, 1 / len(reached)), where=whole > 0)
        counts = np.bincount(found.labels, minlength=len(self.dataset))
        away = {name: int(counts[index]) for index, name in enumerate(self.dataset) if name not in reached}
        idle = [name for name in self.model if name not in self.targets]
        facts = {
            "map": dict(self.targets),
            "model_classes_left_out": idle,
            "probability_left_out": float(1 - whole.mean()) if idle else 0.0,
            "dataset_classes_left_out": away,
            "clips_left_out": len(found.labels) - len(kept),
        }
        mapped = Predictions(
            [found.names[index] for index in kept],
            number[found.labels[kept]],
            probabilities.astype(np.float32),
            reached,
            features=None if found.features is None else found.features[kept],
            skipped=tuple(
                clip._replace(label=int(number[clip.label])) for clip in found.skipped if number[clip.label] >= 0
            ),
            subjects=tuple(found.subjects[index] for index in kept) if found.subjects else (),
        )
        return mapped, facts, _notes(self, facts, int((whole <= 0).sum()))


def _notes(mapping: ClassMap, facts: Mapping[str, Any], nothing: int) -> list[str]:
    together: dict[str, list[str]] = {}
    for source, target in mapping.targets.items():
        together.setdefault(target, []).append(source)
    notes = [f"scored in {len(together)} classes of the data set, by {mapping.where}"]
    several = [f"{' + '.join(sources)} as {target}" for target, sources in together.items() if len(sources) > 1]
    if several:
        notes.append(f"probabilities are added up: {_listed(several)}")
    if facts["dataset_classes_left_out"]:
        each = [f"{name} ({counted(count, 'clip')})" for name, count in facts["dataset_classes_left_out"].items()]
        notes.append(f"no class of the model stands for {_listed(each)}: these clips are left out")
    if facts["model_classes_left_out"]:
        share = f"{facts['probability_left_out']:.1%} of the probability on average"
        notes.append(
            f"the data set has no class for the model's {_listed(facts['model_classes_left_out'])}: left out, {share}"
        )
    if nothing:
        clips = counted(nothing, "clip")
        notes.append(f"no probability is left of {clips} for any class of the data set: all count alike there")
    return notes


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
