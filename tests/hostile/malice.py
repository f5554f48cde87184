"""Files that were made to do harm: to run code, to fill the memory, to take forever, to reach out of their folder.

Each is refused with a sentence, at once and in little memory. Damage of every kind of file is that of `files`; what
weights, tars of shards and command lines have of their own is in `tests/models/test_weight_files.py`,
`tests/data/shards/test_check.py` and commands.txt.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from maedfer.errors import InputError
from tests.data.media import pictures, write_video
from tests.data.shards.made import make_shards
from tests.helpers import ASSETS

_LISTS, _OBJECTS = "[" * 100_000, '{"a":' * 100_000
# Nine to the ninth, and a thousand to the third.
_LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
)
_WIDE = f"a: &a [{'x, ' * 1000}x]\nb: &b [{'*a, ' * 1000}*a]\nc: [{'*b, ' * 1000}*b]\n"


@dataclass(frozen=True)
class Harm:
    """A file.

    Args:
        make: writes it into a folder.
        read: reads what is there.
        said: words of the sentence.
    """

    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    said: str


class _Code:
    """What makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it_ran",)


def harms() -> dict[str, Harm]:
    """All of them by name."""
    found = {
        f"{file} nested deeply": Harm(_run({file: text}), _report, said)
        for file, text, said in (
            ("environment.json", _OBJECTS, "nested too deeply"),
            ("metrics.json", _LISTS, "nested too deeply"),
            ("log.jsonl", f"{_OBJECTS}\n{{}}\n", "line 1 is not a JSON record"),
            ("config.yaml", f"model: {'[' * 5000}", "nested too deeply"),
        )
    }
    for name, text in (("laughs", _LAUGHS), ("wide aliases", _WIDE)):
        found[f"config.yaml of {name}"] = Harm(_run({"config.yaml": text}), _report, "settings")
        found[f"recipe of {name}"] = Harm(_text("recipe.yaml", text), _recipe, "settings")
    code = "seed: !!python/object/apply:os.mkdir [it_ran]\n"
    found |= {
        "config.yaml with code": Harm(_run({"config.yaml": code}), _report, "is not YAML"),
        "features.npz with code": Harm(_npz(_pickled), _report, "cannot be read (Object arrays"),
        "features.npz of a gigabyte": Harm(_npz(_bomb), _report, "MiB to 1024, and is not unpacked"),
        "features.npz of terabytes": Harm(_npz(_claim), _report, "cannot be read"),
        "index.npz with code": Harm(_index(_pickled), _shards, "index.npz: is damaged"),
        "index.npz of a gigabyte": Harm(_index(_bomb), _shards, "index.npz: is damaged"),
        "index.json nested deeply": Harm(_shard_index, _shards, "no index of shards"),
        "config.json nested deeply": Harm(_model(config=_OBJECTS), _load("model"), "nested too deeply"),
        "safetensors with a header of exabytes": Harm(_model(length=1 << 60), _load("model"), "header too large"),
        "safetensors with a header beyond it": Harm(_model(length=90_000_000), _load("model"), "damaged or cut short"),
        "weights that overlap": Harm(_model(overlap=True), _load("model"), "damaged or cut short"),
        "parts that lie outside": Harm(_parts, _load_published, "not a file of its own folder"),
        "checkpoint with code": Harm(_checkpoint(_Code()), _load("w.pth"), "could run code (posix.mkdir)"),
        "checkpoint of terabytes": Harm(_terabytes, _load("w.pth"), "damaged or cut short"),
        "old checkpoint of terabytes": Harm(_old_terabytes, _load("w.pth"), "damaged or cut short"),
        "one number for a trillion": Harm(_checkpoint(_expanded()), _load("w.pth"), "more than the file holds"),
        "pickle nested deeply": Harm(_nested, _load("w.pth"), "not a state dict"),
        "list of gigabytes": Harm(_sparse, _list, "more than is read whole"),
        "crops that lie outside": Harm(_crops, _journal, "no journal of crops"),
    }
    for kind in ("png", "jpg", "bmp", "gif", "tif"):
        found[f"{kind} of 60000 x 60000"] = Harm(_picture(kind), _clip("frames"), "not a readable picture")
    for atom, at, number in (("stsz", 12, 0x0FFFFFFF), ("moov", -4, 0x7FFFFFFF)):
        said = "not a readable video" if atom == "stsz" else "the file is cut off"
        found[f"video with absurd {atom}"] = Harm(_video(atom, at, number), _clip("a.mp4"), said)
    return found


def attempt(name: str) -> str:
    """Read one of them; says what is wrong with what happens."""
    harm = harms()[name]
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch) / "here"
        here.mkdir()
        os.chdir(here)
        harm.make(here)
        before = _all(Path(scratch))
        try:
            harm.read(here)
        except InputError as error:
            said = str(error)
        else:
            return "it is read"
        if "\n" in said or len(said) > 1000 or harm.said not in said:
            return f"it says {said[:300]!r}, and not {harm.said!r}"
        left = _all(Path(scratch)) - before
        return f"it leaves {left}" if left else ""


def _all(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def _text(name: str, text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(text)


def _run(files: dict[str, str]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name, text in {"config.yaml": "task: finetune\n", **files}.items():
            (folder / name).write_text(text)

    return make


def _pickled() -> bytes:
    content = io.BytesIO()
    np.savez(content, **_named(np.array([_Code()], object)))
    return content.getvalue()


def _claim() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in _named(None):
            archive.writestr(f"{name}.npy", _array_head((1 << 36, 16)))
    return content.getvalue()


def _bomb() -> bytes:
    """A few kilobytes of which the archive says that they become a gigabyte."""
    size = 1 << 30
    data = _array_head((size // 4,))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("features.npy", data + bytes(1 << 20))
        archive.writestr("labels.npy", _array_head((0,)))
    found = bytearray(content.getvalue())
    # The table of contents, and the head of the entry, say what it would unpack to.
    real = struct.pack("<I", len(data) + (1 << 20))
    for place in (found.index(b"PK\x03\x04") + 22, found.index(b"PK\x01\x02") + 24):
        assert found[place : place + 4] == real
        found[place : place + 4] = struct.pack("<I", size)
    return bytes(found)


def _array_head(shape: tuple[int, ...]) -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return head.getvalue()


def _named(value: Any) -> dict[str, Any]:
    return dict.fromkeys(("features", "labels", "key"), value)


def _npz(content: Callable[[], bytes]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "config.yaml").write_text("task: finetune\n")
        (folder / "features.npz").write_bytes(content())

    return make


def _index(content: Callable[[], bytes]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        made = make_shards(folder / "shards").folder
        (made / "index.npz").write_bytes(content())
        about = json.loads((made / "index.json").read_text())
        about["clips_sha256"] = hashlib.sha256((made / "index.npz").read_bytes()).hexdigest()
        (made / "index.json").write_text(json.dumps(about))

    return make


def _shard_index(folder: Path) -> None:
    (make_shards(folder / "shards").folder / "index.json").write_text(_OBJECTS)


def _model(config: str = "", length: int = 0, overlap: bool = False) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        whole = ASSETS / "run_finetune" / "whole"
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text(config or (whole / "config.json").read_text())
        content = (whole / "model.safetensors").read_bytes()
        size = int.from_bytes(content[:8], "little")
        head, rest = content[8 : 8 + size], content[8 + size :]
        if overlap:
            entries = json.loads(head)
            first, second = [name for name in entries if name != "__metadata__"][:2]
            entries[second] = entries[first]
            head = json.dumps(entries).encode()
        content = struct.pack("<Q", length or len(head)) + head + rest
        (folder / "model" / "model.safetensors").write_bytes(content)

    return make


def _parts(folder: Path) -> None:
    save_file({"w": torch.zeros(1)}, folder / "outside.safetensors")
    (folder / "parts").mkdir()
    index = {"weight_map": {"w": "../outside.safetensors"}}
    (folder / "parts" / "model.safetensors.index.json").write_text(json.dumps(index))


def _checkpoint(content: Any) -> Callable[[Path], None]:
    return lambda folder: torch.save({"model": content}, folder / "w.pth")


def _expanded() -> dict[str, Any]:
    return {"blocks.0.norm1.weight": torch.zeros(1).expand(1 << 40)}


def _repacked(folder: Path, change: Callable[[bytes], bytes]) -> None:
    """A checkpoint with another pickle."""
    whole = io.BytesIO()
    torch.save({"model": {"w": torch.zeros(7777)}}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(folder / "w.pth", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith("data.pkl") else content)


_COUNT, _MORE = b"M" + struct.pack("<H", 7777), b"\x8a\x06" + (1 << 41).to_bytes(6, "little")


def _terabytes(folder: Path) -> None:
    _repacked(folder, lambda content: content.replace(_COUNT, _MORE))


def _old_terabytes(folder: Path) -> None:
    torch.save({"model": {"w": torch.zeros(7777)}}, folder / "w.pth", _use_new_zipfile_serialization=False)
    (folder / "w.pth").write_bytes((folder / "w.pth").read_bytes().replace(_COUNT, _MORE))


def _nested(folder: Path) -> None:
    _repacked(folder, lambda _: b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")


def _sparse(folder: Path) -> None:
    with (folder / "clips.csv").open("wb") as file:
        file.truncate(20 << 30)


def _crops(folder: Path) -> None:
    (folder / "crops").mkdir()
    face: dict[str, Any] = dict.fromkeys(("face", "frames", "video_frames", "width", "height"), 9)
    face |= {"file": "../outside.mp4", "start": 0.0, "end": 2.4, "box": [1.0, 1.0, 5.0, 5.0], "detection": 0.9}
    entry = {"name": "a", "video": "a.mp4", "key": "a.mp4", "state": [1, 1], "final": True, "failure": ""}
    lines = [json.dumps({"settings": {"size": 224}}), json.dumps(entry | {"faces": [face]}), ""]
    (folder / "crops" / "journal.jsonl").write_text("\n".join(lines))


def _picture(kind: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        content = io.BytesIO()
        form = {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper())
        Image.new("RGB", (32, 24)).save(content, form)
        data = bytearray(content.getvalue())
        if kind == "png":
            data[16:24] = struct.pack(">II", 60_000, 60_000)
            data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        elif kind == "jpg":
            at = data.index(b"\xff\xc0") + 5
            data[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
        elif kind == "bmp":
            data[18:26] = struct.pack("<ii", 60_000, 60_000)
        elif kind == "gif":
            data[6:10] = struct.pack("<HH", 60_000, 60_000)
        else:
            start = struct.unpack_from("<I", data, 4)[0]
            for entry in range(struct.unpack_from("<H", data, start)[0]):
                at = start + 2 + 12 * entry
                if struct.unpack_from("<H", data, at)[0] in (256, 257):
                    struct.pack_into("<HII", data, at + 2, 4, 1, 60_000)
        (folder / "frames").mkdir()
        (folder / "frames" / f"0.{kind}").write_bytes(data)

    return make


def _video(atom: str, at: int, number: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        data = bytearray(write_video(folder / "a.mp4", pictures(12, 48, 64)).read_bytes())
        struct.pack_into(">I", data, data.index(atom.encode()) + at, number)
        (folder / "a.mp4").write_bytes(data)

    return make


def _report(folder: Path) -> None:
    from maedfer.report import write_report

    write_report(folder)


def _recipe(folder: Path) -> None:
    from maedfer.train.config import load_config

    load_config("finetune", folder / "recipe.yaml", [])


def _shards(folder: Path) -> None:
    from maedfer.data.shards.check import check_shards

    check_shards(folder / "shards")


def _load(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        import maedfer

        maedfer.load(folder / name)

    return read


def _load_published(folder: Path) -> None:
    import maedfer

    maedfer.load_published(folder / "parts")


def _list(folder: Path) -> None:
    from maedfer.data.annotations import read_annotations

    read_annotations(folder / "clips.csv")


def _journal(folder: Path) -> None:
    from maedfer.faces.crop_journal import CropJournal

    with CropJournal(folder / "crops", {"size": 224}):
        pass


def _clip(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        from maedfer.data.video import open_video

        with open_video(folder / name) as clip:
            clip.read(np.arange(1))

    return read
