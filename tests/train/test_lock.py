import errno
import fcntl
import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch

from maedfer.errors import InputError
from maedfer.train import load_config, lock, run_evaluate, run_finetune
from maedfer.train.dry_run import dry_run
from maedfer.train.lock import LOCK_FILE, check_free, hold
from maedfer.train.processes import Runtime
from maedfer.train.run_folder import check_run
from tests.train.runs import in_process, overrides, tiny, write_clips

ALONE = Runtime(torch.device("cpu"))
fork = multiprocessing.get_context("fork")


class Second(Runtime):
    """Rank 1 of a job whose main process is another one."""

    def __init__(self):
        super().__init__(torch.device("cpu"), rank=1, world=2)

    def on_main(self, function, doing="", long=False):
        return None

    def barrier(self):
        pass


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(autouse=True)
def no_grace(monkeypatch):
    monkeypatch.setattr(lock, "_GRACE", 0.0)


@pytest.fixture
def elsewhere(tmp_path):
    """Starts a process that holds tmp_path/run until it is ended."""
    started = []

    def start(runtime):
        here, there = fork.Pipe()

        def work():
            with hold(tmp_path / "run", runtime):
                there.send("held")
                time.sleep(60)

        process = fork.Process(target=work)
        process.start()
        started.append(process)
        assert here.recv() == "held"
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def test_a_folder_in_use_is_refused_before_it_is_touched(data, tmp_path, elsewhere):
    process = elsewhere(ALONE)
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    cfg = tiny("finetune", data, tmp_path / "run")
    who = (
        rf"run' is in use by process {process.pid} on \S+, started 20.*: wait until that run has ended, end it, or give"
    )
    for action in (run_finetune, lambda cfg: dry_run(cfg, print)):
        with pytest.raises(InputError, match=who) as error:
            action(cfg)
        assert "\n" not in str(error.value)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before == [LOCK_FILE]


def test_two_evaluations_into_one_folder(data, tmp_path, elsewhere):
    run_finetune(tiny("finetune", data, tmp_path / "model", "optim.epochs=1"))
    elsewhere(ALONE)
    with pytest.raises(InputError, match="is in use by process"):
        run_evaluate(load_config("evaluate", None, [f"eval.checkpoint={tmp_path / 'model'}", f"output={tmp_path}/run"]))


def test_a_kill_frees_the_folder_at_once(tmp_path, elsewhere):
    process = elsewhere(ALONE)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (tmp_path / "run" / LOCK_FILE).is_file()
    check_free(tmp_path / "run")
    with hold(tmp_path / "run", ALONE):
        pass
    # What was there before stays.
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("name", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_job_that_is_started_again_waits_for_what_is_left_of_it(name, tmp_path, elsewhere, monkeypatch, caplog):
    process = elsewhere(ALONE)
    monkeypatch.setenv(name, "0")
    with pytest.raises(InputError, match="is in use by process"):
        check_free(tmp_path / "run")
    monkeypatch.setenv(name, "1")
    threading.Timer(0.5, process.kill).start()
    with hold(tmp_path / "run", ALONE):
        assert process.exitcode == -signal.SIGKILL or not process.is_alive()
    assert f"run' is in use by process {process.pid} on" in caplog.text and "waiting for it" in caplog.text
    # It does not wait for ever.
    elsewhere(ALONE)
    monkeypatch.setattr(lock, "_GRACE_OF_JOB", 0.3)
    with pytest.raises(InputError, match="is in use by process"):
        check_free(tmp_path / "run")


def test_processes_of_an_earlier_job_keep_a_new_one_out(tmp_path, elsewhere):
    main = elsewhere(ALONE)
    rank = elsewhere(Second())
    with pytest.raises(InputError, match=rf"process {main.pid} on \S+ and 1 more of its job"):
        check_free(tmp_path / "run")
    main.kill()
    main.join()
    for _ in range(2):
        with pytest.raises(InputError, match=rf"in use by process {rank.pid} on"), hold(tmp_path / "run", ALONE):
            pass
    rank.kill()
    rank.join()
    with hold(tmp_path / "run", ALONE):
        pass


def test_processes_that_are_forked_meanwhile_do_not_keep_it(tmp_path, elsewhere):
    with hold(tmp_path / "run", ALONE):
        child = fork.Process(target=time.sleep, args=(60,))
        child.start()
    try:
        with hold(tmp_path / "run", ALONE):
            pass
    finally:
        child.kill()
        child.join()


def test_one_process_may_have_a_folder_again_but_not_twice_at_once(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    refused = []

    def second(folder):
        try:
            with hold(folder, ALONE):
                pass
        except InputError as error:
            refused.append(str(error))

    for _ in range(2):
        with hold(tmp_path / "run", ALONE):
            for folder in (tmp_path / "run", tmp_path / "link"):
                thread = threading.Thread(target=second, args=(folder,))
                thread.start()
                thread.join()
            with pytest.raises(InputError, match="this very process"):
                check_free(tmp_path / "run")
            # The refused ones have not ended the lock of this one.
            probe = fork.Process(target=_exit_with_status_of_locking, args=(tmp_path / "run" / LOCK_FILE,))
            probe.start()
            probe.join()
            assert probe.exitcode == 1
        assert not (tmp_path / "run").exists()
    assert len(refused) == 4 and all(f"this very process ({os.getpid()} on" in text for text in refused)


def _exit_with_status_of_locking(path):
    with open(path, "r+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os._exit(1)
    os._exit(0)


def test_a_file_system_without_locks_is_told_in_a_line(tmp_path, monkeypatch, caplog):
    def none(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "lockf", none)
    with hold(tmp_path / "run", ALONE):
        pass
    (record,) = caplog.records
    assert "has no locks (No locks available): nothing keeps a second run out" in record.getMessage()
    assert not any(tmp_path.iterdir())


def test_a_start_that_fails_leaves_nothing(data, tmp_path):
    absent = f"data.train={tmp_path / 'absent.csv'}"
    with pytest.raises(InputError, match="absent"):
        run_finetune(tiny("finetune", data, tmp_path / "runs" / "a", absent))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="absent"):
        run_finetune(tiny("finetune", data, tmp_path / "mine", absent))
    assert list((tmp_path / "mine").iterdir()) == []
    run_finetune(tiny("finetune", data, tmp_path / "mine", "optim.epochs=1", "train.resume=none"))
    assert not (tmp_path / "mine" / LOCK_FILE).exists()


def test_a_run_that_failed_at_its_first_batch_does_not_change_a_later_start(tmp_path):
    data = write_clips(tmp_path / "clips", 4)
    frames = {path: path.read_bytes() for path in (data / "clip_2").iterdir()}
    for path in frames:
        path.write_bytes(b"")
    with pytest.raises(InputError, match="clip_2"):
        run_finetune(tiny("finetune", data, tmp_path / "run", "train.resume=none"))
    assert not (tmp_path / "run" / "checkpoints").exists()
    for path, content in frames.items():
        path.write_bytes(content)
    assert run_finetune(tiny("finetune", data, tmp_path / "run", "train.resume=none", "optim.epochs=1")).steps == 1


def test_a_run_of_two_processes_holds_its_folder_and_frees_it(data, tmp_path):
    # A process that the run forks is one that does not hold the folder.
    before = """
import os
from maedfer.train import lock
from maedfer.train.trainer import Trainer
original = Trainer.fit
def look(self, log):
    self.runtime.barrier()
    if self.runtime.main and not os.fork():
        lock._GRACE = 0.0
        try:
            lock.check_free(self.cfg.output)
        except ValueError as error:
            print(error, flush=True)
        os._exit(0)
    original(self, log)
Trainer.fit = look
"""
    settings = [*overrides("finetune", data, tmp_path / "run"), "optim.epochs=1", "train.batch_size=2"]
    done = in_process("finetune", settings, before, processes=2)
    assert done.ok, done.text
    assert "and 1 more of its job, started" in done.text
    assert not (tmp_path / "run" / LOCK_FILE).exists()


def test_the_file_of_a_killed_run_does_not_count_as_a_run(data, tmp_path):
    (tmp_path / LOCK_FILE).write_text('{"host": "x", "pid": 1, "started": "then"}\n')
    assert check_run(tiny("finetune", data, tmp_path, "train.resume=none")) is None
