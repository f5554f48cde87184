"""What is to be said of the lists of a run: clips that are scored and were trained on, clips that are listed twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from maedfer.data.annotations import Clip
from maedfer.data.leaks import leaks
from maedfer.errors import InputError, MissingDependencyError
from maedfer.train.config import RunConfig, read_config, run_folder_of
from maedfer.train.sources import read_clips


def list_notes(cfg: RunConfig, lists: Mapping[str, Sequence[Clip]]) -> list[str]:
    """Sentences on the lists of a run; an evaluation is held against what its model was trained on.

    Args:
        cfg: the run.
        lists: their clips, by "train", "val" and "test".
    """
    named = {f"data.{split}": clips for split, clips in lists.items()}
    notes = []
    if cfg.task == "evaluate":
        try:
            trained = trained_on(cfg)
        except (InputError, MissingDependencyError) as error:
            trained = ()
            notes.append(f"whether the model was trained on clips of data.test is not known: {error}")
        if trained:
            named = {"the list that the model was trained on": trained, **named}
    return notes + leaks(named)


def trained_on(cfg: RunConfig) -> Sequence[Clip]:
    """The training clips of the run whose model is scored; none where there is no such run, as with a saved model.

    Raises:
        InputError: the run's settings or its list cannot be read.
    """
    model = cfg.eval.checkpoint
    # A run keeps its result in `<run>/model`.
    folder = run_folder_of(model) or run_folder_of(str(Path(model).parent))
    if folder is None:
        return ()
    run = read_config(folder / "config.yaml")
    return read_clips(run, run.data.train) if run.task == "finetune" else ()
