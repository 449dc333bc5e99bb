"""What is shown: a bar in a terminal, and a line for each task."""

import io

import numpy as np
import pytest
from cli_helpers import make_config
from keras_si_cli.results.results import Trial
from keras_si_cli.training import progress
from rich.console import Console

LINE = (
    "si        seed 3  task  2/2  this task  75.00 %  average  62.50 %     "
    "1.5 s\n"
)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_bar_in_a_terminal_and_a_line_for_each_task(monkeypatch, is_terminal):
    file = io.StringIO()
    monkeypatch.setattr(
        progress,
        "Console",
        lambda **given: Console(
            file=file, width=200, force_terminal=is_terminal, **given
        ),
    )
    trial = Trial.empty("si", 3, 2)
    trial.accuracy[:] = [[0.25, np.nan], [0.5, 0.75]]
    with progress.Progress() as bar:
        bar.loading("mnist")
        bar.started(4, 2)
        bar.task_started(make_config(seeds=2), trial, 1)
        bar.step(0, {"loss": 0.1234, "accuracy": 0.5}, 0.5)
        bar.evaluating()
        bar.task_ended(trial, 1, 1.5)
    if not is_terminal:
        assert file.getvalue() == LINE
        return
    shown = (LINE.strip(), "si seed 3 task 2/2 evaluating", "75%")
    for part in (*shown, "loss 0.123 acc 50.0 %"):
        assert part in file.getvalue()


def test_a_quiet_one_shows_nothing_whatever_it_hears(capsys):
    with progress.Progress(quiet=True) as bar:
        bar.step(0, {}, 0.1)
        bar.step(0, {"loss": 2.0}, 0.1)
    assert capsys.readouterr() == ("", "")
