"""What is made of the whole table of a video: timeline, annotated video, and the turns that somebody asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from maedfer.prediction.many import VideoJob
from maedfer.prediction.prediction import Prediction
from maedfer.prediction.segments import Segment, pool_segments, write_segments
from maedfer.prediction.table import read_table


@dataclass(frozen=True)
class Products:
    """What is to be made of each table.

    Args:
        plot: a picture of the timeline of each face.
        annotate: the video with boxes, names and bars.
        segments: stretches of time over which probabilities are pooled; None = none are.
        note: what is to be said of confidences, below a timeline.
    """

    plot: bool = False
    annotate: bool = False
    segments: Sequence[Segment] | None = None
    note: str = ""

    def make(self, job: VideoJob, missing: bool = False) -> None:
        """Make what is wanted of a video whose table is whole.

        A timeline and an annotated video take all rows at once, about 300 bytes each.

        Args:
            job: the video.
            missing: leave pictures that are there already.

        Raises:
            InputError: something cannot be made or written.
        """
        paths = job.files.paths
        if self.segments is not None:
            # Turns may be others each time.
            format, rows = read_table(paths["table"])
            write_segments(paths["segments"], pool_segments(rows, self.segments, job.files.video), format.classes)
        # One window is no course of time.
        plot = self.plot and not job.task.options.whole and not (missing and paths["plot"].exists())
        annotate = self.annotate and not (missing and paths["video"].exists())
        if not (plot or annotate):
            return
        format, rows = read_table(paths["table"])
        record = paths["boxes"] if os.path.exists(paths["boxes"]) else None
        found = Prediction(
            list(rows),
            format.classes,
            # The name of a stream is told without the password in it.
            job.files.video if job.task.live else job.task.path,
            {**job.known, "calibration": self.note},
            options=job.task.options,
            record=record,
        )
        if plot:
            found.plot(paths["plot"])
        if annotate:
            found.annotate(paths["video"])
