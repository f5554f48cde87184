"""Signs of life among the processes of a run: all of them end, with a sentence, when one is lost, fails or is stuck.

Every process renews a line in the store that torchrun or process 0 keeps, and looks at the line of the next process
alone: whatever their number, each costs the store a few small requests in every beat. Who finds another one silent, or
itself stuck, writes it where all look. Threads do this, whatever the main one waits for.

Time is counted in the rounds of these threads, so that a process which was stopped itself, or got no processor, does
not take its own absence for that of another.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from maedfer._progress import Patience, counted, duration
from maedfer.errors import InputError
from maedfer.train.peers import Place
from maedfer.train.whereabouts import Sign, Stay, Whereabouts

# Seconds between two beats, and those that a process has to notice by itself that another one has gone.
_BEAT, _GRACE = 2.0, 15.0
# Beats in the time after which a process is lost, at least.
_BEATS = 6
# Seconds between two looks at whether those who are waited for get on.
_LOOK = 5.0
# What a process that has left in good order leaves behind, and what stands before the reason of one that has failed.
_LEFT, _FAILED = "left", "failed "
_RESUME = "the same command goes on from the last checkpoint"


class Alarm:
    """Ends this process when another one of the run is lost, has failed or is stuck, and when it is stuck itself.

    Processes that wait for each other would notice only after minutes that one has gone.

    Args:
        where: this process; nothing is done where it is alone.
        lost_after: seconds without a sign of life after which a process is lost; 0 = never.
        timeout: seconds after which processes that do not get on are not waited for any more.
        device: of the model, through which the processes agree on a name in the store.
    """

    def __init__(
        self, where: Place, lost_after: float = 60.0, timeout: float = 600.0, device: torch.device | None = None
    ) -> None:
        self.where, self.lost_after, self.timeout = where, lost_after or float("inf"), timeout
        self.about = Whereabouts()
        self.stopped = threading.Event()
        self.ending = threading.Lock()
        self.host = socket.gethostname()
        self.talks = self.meetings = 0
        self.forgotten = 1
        self.store: dist.Store | None = None
        if where.world == 1:
            return
        # One job after another may have the same store.
        box = [secrets.token_hex(8)]
        dist.broadcast_object_list(box, src=0, device=device if device is not None and device.type == "cuda" else None)
        self.name = f"maedfer/{box[0]}"
        self.beat = min(_BEAT, self.lost_after / _BEATS)
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.keeper = f"the process that keeps the others together, at {host}:{port},"
        with contextlib.suppress(RuntimeError, ValueError):
            # A connection of its own: another thread may be waiting on that of the process group.
            self.store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False)
            self.threads = [
                threading.Thread(target=work, name=f"maedfer{work.__name__}", daemon=True)
                for work in (self._talk, self._watch)
            ]
            for thread in self.threads:
                thread.start()

    @property
    def patience(self) -> float:
        """Seconds that a block waits for others, which by then should have failed by itself."""
        return self.timeout + _GRACE

    def raise_it(self, error: BaseException) -> None:
        """Tell the other processes that this one has failed."""
        text = " ".join(str(error).split()) or type(error).__name__
        self._tell(f"{_FAILED}process {self.where.rank} has failed: {text}")
        self.stop()
        if self.store is not None and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            self._let_read()

    def stop(self) -> None:
        """Leave in good order."""
        self.stopped.set()
        if self.store is not None:
            # It says so as its last word; a store that has gone is not waited for.
            self.threads[0].join(_GRACE)

    def meet(self, main: bool) -> None:
        """Wait for all the processes, or for process 0 alone, as long as they live and get on.

        Where the store cannot be had, nothing is waited for.

        Args:
            main: whether process 0 alone is waited for.

        Raises:
            InputError: they do not get on, or the store has gone.
        """
        if self.store is None:
            return
        self.meetings += 1
        key, number = f"{self.name}/met/{self.meetings}", 1 if main else self.where.world
        try:
            here = self.where.rank == 0 or not main
            if not here or self.store.add(key, 1) < number:
                self._wait(lambda store: store.add(key, 0) >= number, "process 0" if main else "the other processes")
            if self.where.rank == 0:
                self._forget(main)
        except RuntimeError as error:
            raise InputError(f"{self.keeper} has gone: its own message says why; {_RESUME}") from error

    def _forget(self, main: bool) -> None:
        # Once all are here, none will ask for what they met for before.
        assert self.store is not None
        if not main:
            for number in range(self.forgotten, self.meetings):
                self.store.delete_key(f"{self.name}/met/{number}")
            self.forgotten = self.meetings

    def late(self) -> str:
        """For whom the others are waiting, as far as the processes say."""
        signs: list[Sign] = []
        with contextlib.suppress(RuntimeError):
            signs = self._signs()
        first = min((sign.step for sign in signs), default=0)
        late = [sign for sign in signs if sign.doing and not sign.waits]
        late = late or [sign for sign in signs if sign.step == first < self.about.step]
        if not late:
            return f"none of which says that it is behind (this one is at step {self.about.step})"
        more = f" and {counted(len(late) - 1, 'other')}" if len(late) > 1 else ""
        return f"most likely for {late[0]}{more} (this one is at step {self.about.step})"

    def _wait(self, done: Callable[[dist.Store], bool], whom: str) -> None:
        assert self.store is not None
        patience = Patience(
            lambda seconds: print(
                f"process {self.where.rank}: waiting for {whom} for {duration(seconds)}, {self.late()}", flush=True
            )
        )
        pause, clock, waited, looked = 0.001, _Clock(_LOOK), 0.0, 0.0
        known: list[tuple[int, int]] = []
        try:
            with patience, self.about.at(f"waits for {whom}", waits=True):
                while not done(self.store):
                    time.sleep(pause)
                    pause = min(2 * pause, 0.25)
                    waited += clock.passed()
                    if waited - looked < min(_LOOK, self.timeout / 4):
                        continue
                    looked, signs = waited, self._signs()
                    places = [(sign.step, sign.count) for sign in signs]
                    if places != known or any(sign.free for sign in signs):
                        waited = looked = 0.0
                    known = places
                    if waited >= self.timeout:
                        raise InputError(
                            f"{whom} did not get on for {duration(waited)} (train.timeout), {self.late()}; {_RESUME}"
                        )
        finally:
            patience.close()

    def _signs(self) -> list[Sign]:
        """What all others last said that have not left."""
        if self.store is None:
            return []
        ranks = [rank for rank in range(self.where.world) if rank != self.where.rank]
        keys = [f"{self.name}/{rank}" for rank in ranks]
        if not self.store.check(keys):
            return []
        lines = [line.decode(errors="replace") for line in self.store.multi_get(keys)]
        return [Sign.read(rank, line) for rank, line in zip(ranks, lines, strict=True) if line != _LEFT]

    def _tell(self, text: str) -> None:
        if self.store is not None:
            with contextlib.suppress(RuntimeError):
                self.store.set(f"{self.name}/failed", text)

    def _talk(self) -> None:
        """Renew the own line, look at that of the next process, and whether all have to end."""
        store = self.store
        assert store is not None
        mine, failed, clock = f"{self.name}/{self.where.rank}", f"{self.name}/failed", _Clock(2 * self.beat)
        watched, known, silent = self.where.rank, "", 0.0
        try:
            while not self.stopped.is_set():
                store.set(mine, Sign.of(self.about, self.where.rank, self.host, self.talks).line())
                if store.check([failed]):
                    self._end(store.get(failed).decode(errors="replace"))
                    return
                passed = clock.passed()
                if watched == self.where.rank or known == _LEFT:
                    # After one that has left in good order, the next one is looked at.
                    watched, known, silent = (watched + 1) % self.where.world, "", 0.0
                elif store.check([theirs := f"{self.name}/{watched}"]):
                    line = store.get(theirs).decode(errors="replace")
                    silent = silent + passed if line == known else 0.0
                    known = line
                else:
                    silent += passed
                if silent >= self.lost_after:
                    who = Sign.read(watched, known).who if known else f"process {watched}"
                    self._tell_and_end(f"{who} has shown no sign of life for {duration(silent)}")
                self.talks += 1
                self.stopped.wait(self.beat)
            store.set(mine, _LEFT)
        except RuntimeError:
            if not self.stopped.is_set():
                self._end(f"{self.keeper} has gone", _GRACE)

    def _watch(self) -> None:
        """See that the store answers, and that nothing takes longer than its limit."""
        tick = min(0.5, self.beat / 2)
        clock, stay, talks = _Clock(2 * tick), None, 0
        silent = spent = 0.0
        while not self.stopped.wait(tick):
            passed = clock.passed()
            silent = silent + passed if self.talks == talks else 0.0
            spent = spent + passed if self.about.stay is stay else 0.0
            talks, stay = self.talks, self.about.stay
            if silent >= self.lost_after:
                self._end(f"{self.keeper} has not answered for {duration(silent)}")
            if stay is not None and stay.limit and spent >= stay.limit:
                self._tell_and_end(self._too_long(stay, spent))

    def _too_long(self, stay: Stay, spent: float) -> str:
        whom = f", {self.late()}" if stay.waits else ""
        return f"process {self.where.rank} on {self.host} {stay.doing}, for {duration(spent)} ({stay.key}){whom}"

    def _tell_and_end(self, text: str) -> None:
        self._tell(text)
        self._let_read()
        self._end(text)

    def _let_read(self) -> None:
        # With process 0, what it has told goes as well.
        if self.where.rank == 0:
            time.sleep(1.5 * self.beat)

    def _end(self, text: str, grace: float = 0.0) -> None:
        """End this process, unless it does so by itself within `grace` seconds."""
        more = f"; {_RESUME}"
        if text.startswith(_FAILED):
            # Most that wait for it find out, and then leave in good order; and it may have been a mistake.
            text, grace, more = text.removeprefix(_FAILED), _GRACE, ""
        with self.ending:
            if self.stopped.wait(grace):
                return
            print(f"maedfer: error: {text}; this one ends with it{more}", file=sys.stderr, flush=True)
            os._exit(2)


class _Clock:
    """Seconds between two looks, of which none counts for more than `longest`."""

    def __init__(self, longest: float) -> None:
        self.longest, self.last = longest, time.monotonic()

    def passed(self) -> float:
        """Seconds since the last call."""
        now = time.monotonic()
        before, self.last = self.last, now
        return min(self.longest, now - before)
