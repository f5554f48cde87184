from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import maedfer
from maedfer.cli import build_parser, one_line
from maedfer.errors import InputError, MissingDependencyError
from tests.cli.helpers import Call

REPOSITORY = Path(maedfer.__file__).resolve().parent.parent
COMMANDS = """pretrain finetune evaluate crossval reproduce motion features probe predict explain plan settings
report compare fewlabels ablate lists prepare crop shard synth info doctor convert export push""".split()


def python(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        timeout=60,
    )


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, maedfer.cli as c; c.main(['--version']); c.build_parser().format_help(); print(*sys.modules)"
    out = python("-c", code).stdout.split()
    assert out[:2] == ["maedfer", maedfer.__version__]
    assert not {"torch", "numpy", "yaml"} & set(out)


def test_python_m_maedfer_gives_the_status() -> None:
    assert python("-m", "maedfer", "--version").stdout == f"maedfer {maedfer.__version__}\n"
    failed = python("-m", "maedfer", "finetun")
    assert failed.returncode == 2
    assert failed.stderr == "maedfer: error: unknown command 'finetun': did you mean 'finetune'?\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_examples(
    command: str, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        call(command, "--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text and f"maedfer {command}" in text
    assert max(map(len, text.splitlines())) <= 120


def test_commands_are_the_documented_ones(call: Call) -> None:
    assert build_parser().commands() == COMMANDS
    assert "commands:" in call().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["finetune", "--bogus"], r"unrecognised argument '--bogus' \(see 'maedfer finetune --help'\)"),
        (["convert", "one"], r"the following arguments are required: OUT .*maedfer convert --help"),
        (["finetune", "dfew", "mafw"], r"'mafw' is neither the recipe \('dfew' is\) nor of the form key=value"),
        (["synth", "--out", "x", "--clips", "many"], r"argument --clips: invalid int value: 'many'"),
        (["synth"], r"the following arguments are required: --out"),
        (["info", "lgi_former_base", "--dry-run"], r"unrecognised argument '--dry-run'"),
        (["convert", "a", "b", "c"], r"unrecognised argument 'c'"),
    ],
)
def test_wrong_usage_is_one_line(argv: list[str], message: str, call: Call) -> None:
    status, out, err = call(*argv)
    assert (status, out) == (2, "")
    assert re.fullmatch(f"maedfer: error: {message}.*\n", err)


def test_options_may_stand_between_overrides(call: Call) -> None:
    first = call("finetune", "dfew", "--print-config", "seed=3")
    assert first.status == 0 and "seed: 3" in first.out
    assert call("finetune", "--print-config", "dfew", "seed=3") == first
    assert call("finetune", "dfew", "seed=3", "--print-config") == first


def test_user_errors_are_one_line_and_others_are_not_hidden(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from maedfer.doctor import build

    def fail(error: Exception) -> None:
        def run() -> None:
            raise error

        monkeypatch.setattr(build, "build", run)

    for error, line in [
        (InputError("no such thing: give another"), "no such thing: give another"),
        (MissingDependencyError("'av' is needed: pip install av"), "'av' is needed: pip install"),
        (FileNotFoundError(2, "No such file or directory", "a.csv"), "No such file or directory: 'a.csv'"),
        (PermissionError(13, "Permission denied", "/x"), "Permission denied: '/x'"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ]:
        fail(error)
        status, out, err = call("info", "--build")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"maedfer: error: {line}")
    fail(TypeError("a defect"))
    with pytest.raises(TypeError, match="a defect"):
        call("info", "--build")


def test_traceback_on_request(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" not in call("info", "nothing").err
    assert "Traceback" in call("info", "nothing", "--traceback").err
    monkeypatch.setenv("MAEDFER_TRACEBACK", "1")
    err = call("info", "nothing").err
    assert "Traceback" in err and err.splitlines()[-1].startswith("maedfer: error: unknown model")
    monkeypatch.setenv("MAEDFER_TRACEBACK", "0")
    assert "Traceback" not in call("info", "nothing").err


def test_interrupt_exits_130_with_one_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from maedfer.doctor import build

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "build", interrupted)
    assert call("info", "--build") == (130, "", "\nmaedfer: interrupted\n")


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m maedfer info --json lgi_former_base | head -1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )
    assert (done.stdout, done.stderr) == ("{\n", "")


@pytest.mark.parametrize(
    ("shell", "status", "out", "err"),
    [
        ("settings seed >&-", 0, "", ""),
        ("finetun >&-", 2, "", "maedfer: error: unknown command 'finetun': did you mean 'finetune'?\n"),
        ("finetun 2>&-", 2, "", ""),
        ("finetun <&- >&- 2>&-", 2, "", ""),
        ("finetun 2>/dev/full", 2, "", ""),
        ("--help >/dev/full", 2, "", "maedfer: error: No space left on device\n"),
        ("--version >/dev/full", 2, "", "maedfer: error: No space left on device\n"),
        ("--help >&- 2>&-", 0, "", ""),
    ],
)
def test_streams_that_cannot_be_written(shell: str, status: int, out: str, err: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m maedfer {shell}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, out, err)


def test_any_text_can_be_printed() -> None:
    for argv, environment, shown in (
        (["finetune", "caf\udce9"], {}, r"'caf\udce9'"),
        (["finetune", "é"], {"PYTHONIOENCODING": "ascii"}, r"'\xe9'"),
        (["finetune", "é"], {"LC_ALL": "C", "PYTHONIOENCODING": "utf-8"}, "'é'"),
    ):
        done = python("-m", "maedfer", *argv, **environment)
        assert done.returncode == 2 and f"error: unknown recipe {shown}" in done.stderr


def test_a_mistyped_name_does_not_wait_for_torch() -> None:
    lines = [
        "finetune dfwe",
        "finetune none.yaml",
        "pretrain folder/none",
        "evaluate --run none",
        "report none",
        "compare none none2 --out x",
        "compare a=none b=none2 --out x",
        "convert none x",
        "features none --out x.csv",
        "finetun",
        "finetune --dry",
    ]
    code = "import sys\nsys.modules['torch'] = None\nfrom maedfer.cli import main\n"
    done = python("-c", code + f"for line in {lines}: assert main(line.split()) == 2, line")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    errors = done.stderr.splitlines()
    assert len(errors) == len(lines) and "torch" not in done.stderr
    assert all(error.startswith("maedfer: error: ") for error in errors)


def test_memory_that_does_not_suffice_is_one_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from maedfer.doctor import build

    allocator = RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: ...")
    for error in (MemoryError(), allocator):

        def fail(error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(build, "build", fail)
        status, _, err = call("info", "--build")
        assert (status, err.count("\n")) == (2, 1) and "the memory of this machine is not enough" in err


def test_a_full_disk_is_one_line_and_its_status() -> None:
    command = f"{shlex.quote(sys.executable)} -m maedfer --version >/dev/full"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": ""}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (2, "maedfer: error: No space left on device\n")


def test_words_without_end_are_cut(call: Call) -> None:
    assert len(call("finetune", "x" * 5000).err) < 500
    assert len(one_line(InputError(f"{'a' * 5000} is not {'b' * 5000}"))) < 500
    assert len(one_line(OSError(36, "File name too long", "x" * 5000))) < 500


def test_error_of_a_loader_process_keeps_its_last_line_only() -> None:
    text = (
        "Caught InputError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 1\nmaedfer.errors.InputError: a.mp4: the file is empty (0 bytes)\n'
    )
    assert one_line(InputError(text)) == "a.mp4: the file is empty (0 bytes)"


def test_without_the_extras_models_work_and_training_says_what_to_install(tmp_path: Path) -> None:
    blocked = "yaml av decord torchvision matplotlib sklearn tqdm PIL tensorboard".split()
    block = f"import sys\nfor name in {blocked}: sys.modules[name] = None\n"
    code = block + "from maedfer.cli import main\nsys.exit(main())"
    done = python("-c", code, "info", "lgi_former_tiny", "depth=2", "--json")
    assert done.returncode == 0, done.stderr
    refused = python("-c", code, "finetune", "dfew")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "'yaml' is needed here" in refused.stderr and "pip install pyyaml" in refused.stderr
    refused = python("-c", code, "synth", "--out", str(tmp_path / "s"), "--clips", "7")
    assert refused.returncode == 2 and "pip install av" in refused.stderr
