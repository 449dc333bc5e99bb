"""What is shown: a bar in a terminal, and a line for each task."""

import io

import numpy as np
import pytest
from cli_helpers import make_config
from keras_si_cli.results.results import Trial
from keras_si_cli.training import progress
from rich.console import Console

LINE = (
    "si      seed 3  task  2/2  this task  75.00 %  average  62.50 %     "
    "1.5 s\n"
)


def shown(monkeypatch, **given):
    """Returns what a task shows on a console of the given kind."""
    file = io.StringIO()
    monkeypatch.setattr(
        progress,
        "Console",
        lambda highlight, quiet: Console(
            file=file, highlight=highlight, quiet=quiet, width=200, **given
        ),
    )
    trial = Trial("si", 3, np.array([[0.25, np.nan], [0.5, 0.75]]))
    with progress.Progress() as bar:
        bar.loading("mnist")
        bar.started(8, 2)
        bar.task_started(make_config(seeds=2), trial, 1)
        bar.step(0, {"loss": 0.1234, "accuracy": 0.5})
        bar.evaluating()
        bar.task_ended(trial, 1, 1.5)
    return file.getvalue()


def test_piped_it_is_a_line_for_each_task_and_nothing_else(monkeypatch):
    assert shown(monkeypatch) == LINE


def test_in_a_terminal_a_bar_shows_where_the_run_is(monkeypatch):
    text = shown(monkeypatch, force_terminal=True)
    assert LINE.strip() in text
    assert "si seed 3 task 2/2 evaluating" in text
    assert "loss 0.123 acc 50.0 %" in text
    assert "38%" in text  # 3 of 8 steps


@pytest.mark.parametrize("logs", [{}, {"loss": 2.0}])
def test_a_quiet_one_shows_nothing_whatever_it_hears(capsys, logs):
    with progress.Progress(quiet=True) as bar:
        bar.step(0, logs)
    assert capsys.readouterr() == ("", "")
