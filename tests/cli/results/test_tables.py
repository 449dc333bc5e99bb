"""The tables in a terminal and where the output is piped."""

import os
import subprocess
import sys

import numpy as np
import pytest
import rich.console
from keras_si_cli.methods import METHODS
from keras_si_cli.results import tables
from keras_si_cli.results.results import Trial
from result_helpers import NAN, make_results, make_trial


def shown(table, width=80):
    console = rich.console.Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


@pytest.fixture
def two_methods():
    return make_results(
        make_trial(), make_trial(seed=1, shift=0.1), make_trial("naive")
    )


def test_table_of_a_run_has_a_row_a_task_and_a_column_a_method(two_methods):
    two_methods.trials.append(Trial.empty("l2", 0, 2))
    lines = shown(tables.accuracy_table(two_methods)).splitlines()
    # si after task 1: 90 and 80; after task 2: 85 and 75.
    assert [line.split() for line in lines] == [
        ["task", "si", "naive", "l2"],
        [lines[1]],
        ["1", "85.00", "±", "5.00", "90.00", "-"],
        ["2", "80.00", "±", "5.00", "85.00", "-"],
    ]
    assert tables.notes(two_methods) == [
        "si: backward transfer -10.00 ± 0.00 points, forward transfer 5.00 ± "
        "5.00 points, forgetting 10.00 ± 0.00 points",
        "naive: backward transfer -10.00 points, forward transfer 10.00 "
        "points, forgetting 10.00 points",
        "± is one standard error of the mean over the seeds",
    ]


def test_comparison_has_a_line_a_run_and_a_row_a_method(two_methods):
    begun = make_results(Trial.empty("naive", 0, 2), seeds=3)
    labelled = [("one", two_methods), ("two", begun)]
    lines = shown(tables.comparison_table(labelled, 80)).splitlines()
    assert [" ".join(line.split()) for line in lines[4:]] == [
        "one",
        "si 80.00 ± 5.00 -10.00 ± 0.00 5.00 ± 5.00 10.00 ± 0.00 2",
        "naive 85.00 -10.00 10.00 10.00 1",
        "two",
        "naive - - - - 0",
    ]
    # Columns are the same in both.
    assert len({len(line) for line in (lines[2], *lines[5:7], lines[8])}) == 1
    notes = tables.comparison_notes(labelled)
    assert "one: 1 of 4 trials are not finished." in notes
    assert "two: 3 of 3 trials are not finished." in notes


def test_trial_that_was_given_up_and_held_out_data_are_named():
    trial = Trial.empty("si", 4, 2)
    trial.failed = "the loss turned NaN in task 1, epoch 2"
    made = make_results(trial, held_out=True)
    assert tables.comparison_notes([("a", made)]) == [
        f"a: si with seed 4 was given up: {trial.failed}",
        "a is judged on the last sixth of the training data, held out.",
    ]


@pytest.fixture
def widest():
    """All methods, with the longest numbers that there are in practice."""
    return make_results(
        *(
            Trial(
                name,
                seed,
                np.array([[1.0, 0.0], [0.8 - 0.3 * seed, 1.0]]),
                untrained=np.array([NAN, 0.6 - 0.3 * seed]),
            )
            for name in METHODS
            for seed in range(2)
        )
    )


def test_no_number_is_cut_in_80_columns(widest):
    """A mean of 100 and 82.5, -20 and -50, -60 and -30; errors of 7.5, 15."""
    assert len(METHODS) == 5
    lines = shown(tables.accuracy_table(widest)).splitlines()
    assert lines[2].split() == ["1", *5 * "100.00 ± 0.00".split()]
    assert lines[3].split() == ["2", *5 * "82.50 ± 7.50".split()]
    label = "a-folder-with-a-name-that-is-longer-than-any-column"
    other = shown(tables.comparison_table([(label, widest)], 80)).splitlines()
    assert other[4] == label
    numbers = "82.50 ± 7.50 -35.00 ± 15.00 -45.00 ± 15.00 35.00 ± 15.00 2"
    assert [line.split() for line in other[5:]] == [
        [name, *numbers.split()] for name in METHODS
    ]
    assert max(map(len, lines + other)) <= 80


def test_with_less_room_a_number_is_broken_and_not_cut(widest):
    labelled = [("a", widest), ("b", widest)]
    for table in (
        tables.accuracy_table(widest),
        tables.comparison_table(labelled, 50),
    ):
        text = shown(table, width=50)
        assert max(map(len, text.splitlines())) <= 50
        assert text.count("±") >= 10 and "…" not in text


@pytest.mark.parametrize("name", ["a[b]", "[/nope]", "[red]x", ":smile:"])
def test_names_are_shown_as_they_are(name):
    made = make_results(make_trial(name))
    assert name in shown(tables.accuracy_table(made))
    lines = shown(tables.comparison_table([(name, made)], 80)).splitlines()
    assert lines[4] == name
    assert lines[5].split()[0] == name


def test_report_that_is_piped_is_plain_text_of_80_columns(widest, tmp_path):
    widest.save(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "keras_si_cli", "report", os.fspath(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "TERM": "dumb"},
        check=True,
    )
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in done.stdout
    numbers = "82.50 ± 7.50 -35.00 ± 15.00 -45.00 ± 15.00 35.00 ± 15.00 2"
    assert [line.split() for line in lines if " si " in line] == [
        ["si", *numbers.split()]
    ]
