"""Comparing results files and revisions."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as cli
from benchmarks import compare
from maedfer.errors import InputError
from tests.benchmarks.rows import row


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"machine": {"device": "a device", "commit": path.stem}, "rows": rows}))
    return path


def test_table_marks_changes_beyond_the_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skipped = {"workload": "block", "size": "B=1", "provider": "xformers", "mode": None, "skipped": "absent"}
    before = [row("block", "B=1", "ours", mode, 10.0) for mode in ("forward", "backward", "both", "old")]
    after = [
        row("block", "B=1", "ours", "forward", 12.0),
        row("block", "B=1", "ours", "backward", 8.0),
        # Beyond the threshold, but the spreads overlap.
        {**row("block", "B=1", "ours", "both", 11.0), "p20": 10.0},
        row("block", "B=1", "ours", "new", 1.0),
    ]
    files = [write(tmp_path / "a.json", [*before, skipped]), write(tmp_path / "b.json", after)]
    assert cli.main(["compare", *map(str, files)]) == 0
    lines = {line.split("  ")[3].split(" ")[0]: line for line in capsys.readouterr().out.splitlines() if "ours" in line}
    assert lines["forward"].endswith("1.200 slower") and lines["backward"].endswith("0.800 faster")
    assert lines["both"].endswith("1.100")
    assert lines["old:"].endswith("only before") and lines["new:"].endswith("only after")
    assert cli.main(["compare", "--fail", *map(str, files)]) == 1
    assert cli.main(["compare", "--fail", "--threshold", "0.3", *map(str, files)]) == 0


def test_least_median_of_several_rounds() -> None:
    rounds = [{"rows": [row("block", "B=1", "ours", "both", ms)]} for ms in (3.0, 2.0)]
    assert [one["ms"] for one in compare.merge(rounds)["rows"]] == [2.0]


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write(tmp_path / "good.json", [])
    other = tmp_path / "other.json"
    other.write_text("[]")
    for wrong, message in ((tmp_path / "absent.json", "cannot read"), (other, 'has no "rows"')):
        assert cli.main(["compare", str(good), str(wrong)]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["compare", str(good)]) == 2
    assert "give two results files, or --base REV" in capsys.readouterr().err


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of two commits, of which only the second has benchmarks."""

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)

    folder = tmp_path / "repository"
    (folder / "benchmarks").mkdir(parents=True)
    (folder / "README").write_text("first")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    (folder / "benchmarks" / "__init__.py").write_text("")
    (folder / "benchmarks" / "__main__.py").write_text(
        "import json, sys\n"
        "rows = [{'workload': 'w', 'size': 's', 'provider': 'p', 'mode': sys.argv[3], 'ms': 1, 'p20': 1, 'p80': 1}]\n"
        "open(sys.argv[sys.argv.index('--out') + 1], 'w').write(json.dumps({'rows': rows}))\n"
    )
    git("add", ".")
    git("commit", "--quiet", "-m", "second")
    monkeypatch.setattr(compare, "_REPOSITORY", folder)
    monkeypatch.setattr(compare, "MODULES", {"cpu": None, "cuda": None})
    return folder


def test_revisions_are_measured_in_turns_and_cleaned_up(repository: Path) -> None:
    before, after = compare.compare_revisions("HEAD", ["--op", "block"])
    assert [one["mode"] for one in (*before["rows"], *after["rows"])] == ["block", "block"]
    worktrees = subprocess.run(["git", "worktree", "list"], cwd=repository, capture_output=True, text=True, check=True)
    assert len(worktrees.stdout.splitlines()) == 1


def test_revisions_that_cannot_be_measured(repository: Path) -> None:
    with pytest.raises(InputError, match="revision HEAD~1 has no benchmarks to run"):
        compare.compare_revisions("HEAD~1", [])
    with pytest.raises(InputError, match="git worktree add .*nothing"):
        compare.compare_revisions("nothing", [])


def test_a_revision_is_measured_with_the_parts_of_csrc_that_are_compiled_here(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "note"
    (repository / "csrc").mkdir()
    (repository / "csrc" / "file.h").write_text("")
    setup = (
        f"import os; open({str(note)!r}, 'a').write(os.environ['MAEDFER_BUILD_CPU'] + os.environ['MAEDFER_BUILD_CUDA'])"
    )
    (repository / "setup.py").write_text(setup)
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for arguments in (("add", "."), ("commit", "--quiet", "-m", "third")):
        subprocess.run(["git", *who, *arguments], cwd=repository, check=True, capture_output=True)
    compare.compare_revisions("HEAD", ["--op", "block"])
    assert not note.exists(), "nothing is compiled here, so nothing is there"
    monkeypatch.setattr(compare, "MODULES", {"cpu": object(), "cuda": None})
    compare.compare_revisions("HEAD", ["--op", "block"])
    assert note.read_text() == "10"
