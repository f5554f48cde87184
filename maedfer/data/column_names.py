"""Names of columns that annotation files have, as `column_name` writes them."""

from __future__ import annotations

# Names of columns, the best first: of `id,name,path` the last one is the path.
PATHS = (
    "path", "video_path", "clip_path", "file_path", "filepath", "frames_path", "frame_path", "relative_path",
    "filename", "file_name", "file", "video_file", "video_name", "videoname", "video", "clip_name", "clip", "frame_dir",
    "rel_path", "folder", "dir", "clip_id", "video_id", "sample", "name", "id",
)  # fmt: skip
LABELS = (
    "label", "labels", "label_id", "label_index", "class_id", "class_index", "class_label", "class", "class_name",
    "label_name", "emotion_id", "emotion_label", "emotion", "expression", "target", "category",
)  # fmt: skip
SUBJECTS = (
    "subject", "subject_id", "subject_name", "actor", "actor_id", "speaker", "speaker_id", "person", "person_id",
    "participant", "participant_id", "identity",
)  # fmt: skip
FRAMES = ("frames", "num_frames", "total_frames", "n_frames", "nframes", "frame_count")
SPLITS = ("split", "subset", "partition", "usage", "set", "part", "fold")
PIECES = ("start", "end", "start_time", "end_time", "start_frame", "end_frame")
_OTHERS = ("", "index", "unnamed:_0", "fps", "duration", *SUBJECTS, *FRAMES, *SPLITS, *PIECES)
KNOWN = {*PATHS, *LABELS, *_OTHERS}
