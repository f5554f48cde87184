import torch

from maedfer.train import meter as module
from maedfer.train.meter import Meter, Pace
from maedfer.train.processes import Runtime

CPU = Runtime(torch.device("cpu"))


def test_means_over_window_and_epoch_are_kept_apart():
    meter = Meter()
    for step, loss in enumerate((1.0, 3.0, float("inf"), 5.0), 1):
        meter.add(step, {"loss": torch.tensor(loss)})
        if step == 2:
            meter.fetch(CPU)
            assert meter.take("window") == {"loss": 2.0}
    assert [step for step, _ in meter.fetch(CPU)] == [3, 4]
    again = Meter()
    again.load(meter.state())
    # The step that overflowed is left out.
    assert again.take("window") == {"loss": 5.0}
    assert again.take("epoch") == {"loss": 3.0}
    assert again.take("window") == {}


def test_pace_is_that_of_the_window_and_the_time_left_that_of_the_run(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    pace = Pace(step=10, total=40)
    pace.add(clips=6, waited=0.5)
    pace.add(clips=6, waited=1.0)
    now[0] = 3.0
    # Ten steps in three seconds, twenty to come.
    assert pace.read(20) == (4.0, 0.5, 6.0)
    pace.restart()
    pace.add(clips=5, waited=9.0)
    now[0] = 8.0
    assert pace.read(30) == (1.0, 1.0, 4.0)
