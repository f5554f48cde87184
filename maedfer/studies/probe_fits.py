"""Finished probes of a study on disk, so that one that was ended goes on where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from maedfer import __version__
from maedfer._files import atomic_path, check_archive, parse_json, remove_temporaries
from maedfer.errors import InputError
from maedfer.evaluation.probes.fit import ProbeChoice, Trial, probe_grid
from maedfer.studies.probe_features import ListFeatures, Say
from maedfer.studies.probe_results import FITS, ProbeTask

# What fits a probe of each kind.
_LIBRARIES = {"knn": "numpy", "linear": "scikit-learn", "attentive": "torch"}


class KeptFits:
    """What finished probes chose, and what they say of the test part: a file a probe.

    Args:
        out: folder of the study.
        say: takes sentences for people.
    """

    def __init__(self, out: Path, say: Say) -> None:
        self.folder, self.say = out / FITS, say
        if self.folder.is_dir():
            remove_temporaries(self.folder)
        self._digests: dict[tuple[str, ...], str] = {}

    def key(
        self, task: ProbeTask, name: str, found: Mapping[str, ListFeatures], classes: int, options: Mapping[str, Any]
    ) -> str:
        """A digest of all that a probe depends on.

        Args:
            task: the probe.
            name: of the array of features that it reads.
            found: the features of each part.
            classes: how many there are.
            options: of the fit, plain values.
        """
        library = _LIBRARIES[task.kind]
        facts = {
            "maedfer": __version__,
            library: version(library),
            "kind": task.kind,
            "seed": task.seed,
            "grid": probe_grid(task.kind, len(found["train"].rows)),
            "classes": classes,
            **options,
            **{part: self._digest(task.who, name, features) for part, features in found.items()},
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def read(self, task: ProbeTask, key: str) -> tuple[ProbeChoice, np.ndarray] | None:
        """The choice and the probabilities of the test part, float32 [n, classes], of a probe that is there.

        A file that cannot be read is told, and is as good as none.
        """
        path = self._path(task, key)
        if not path.is_file():
            return None
        try:
            check_archive(path)
            with np.load(path, allow_pickle=False) as stored:
                record, probabilities = parse_json(stored["record"].tobytes()), stored["probabilities"]
            if record.pop("key") != key or probabilities.dtype != np.float32 or probabilities.ndim != 2:
                raise ValueError("it is of another probe")
            trials = tuple(Trial(**trial) for trial in record.pop("trials"))
            return ProbeChoice(trials=trials, **record), probabilities
        except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            self.say(f"{path} cannot be read ({error}): this probe is fitted anew")
            return None

    def keep(self, task: ProbeTask, key: str, choice: ProbeChoice, probabilities: np.ndarray) -> None:
        """Write down a probe, in the place of what it was on other features or by other settings.

        Raises:
            InputError: it cannot be written.
        """
        names = [field.name for field in dataclasses.fields(ProbeChoice)]
        record = {name: getattr(choice, name) for name in names}
        record |= {"key": key, "trials": [dataclasses.asdict(trial) for trial in choice.trials]}
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {str(self.folder)!r}: {error.strerror}") from error
        path = self._path(task, key)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            text = np.frombuffer(json.dumps(record).encode(), np.uint8)
            np.savez(file, record=text, probabilities=probabilities)
        for other in self.folder.glob(f"{task.folder}-*.npz"):
            if other != path:
                other.unlink()

    def _path(self, task: ProbeTask, key: str) -> Path:
        return self.folder / f"{task.folder}-{key[:12]}.npz"

    def _digest(self, who: str, name: str, features: ListFeatures) -> str:
        """Of features and what is known of their clips; computed once for all probes that read them."""
        place = who, name, features.clips.part
        if place not in self._digests:
            self._digests[place] = features.digest(name)
        return self._digests[place]
