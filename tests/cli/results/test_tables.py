"""The tables in a terminal and where the output is piped."""

import numpy as np
import pytest
import rich.console
from keras_si_cli.methods import METHODS
from keras_si_cli.results import tables
from keras_si_cli.results.results import Trial
from result_helpers import NAN, make_results, make_trial, two_methods


def shown(table, width=80):
    console = rich.console.Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_table_of_a_run_has_a_row_a_task_and_a_column_a_method():
    made = two_methods()
    made.trials.append(Trial.empty("l2", 0, 2))
    lines = shown(tables.accuracy_table(made)).splitlines()
    # si after task 1: 90 and 80; after task 2: 85 and 75.
    assert [line.split() for line in lines] == [
        ["task", "si", "naive", "l2"],
        [lines[1]],
        ["1", "85.00", "±", "5.00", "90.00", "-"],
        ["2", "80.00", "±", "5.00", "85.00", "-"],
    ]
    assert tables.notes(made) == [
        "si: backward transfer -10.00 ± 0.00 points, forward transfer 5.00 ± "
        "5.00 points, forgetting 10.00 ± 0.00 points",
        "naive: backward transfer -10.00 points, forward transfer 10.00 "
        "points, forgetting 10.00 points",
        "± is one standard error of the mean over the seeds",
    ]


def test_comparison_has_a_line_a_run_and_a_row_a_method():
    trial = Trial.empty("naive", 4, 2)
    trial.failed = "the loss turned NaN in task 1, epoch 2"
    failed = make_results(trial, held_out=True)
    labelled = [("one", two_methods()), ("two", failed)]
    lines = shown(tables.comparison_table(labelled)).splitlines()
    assert [" ".join(line.split()) for line in lines[4:]] == [
        "one",
        "si 80.00 ± 5.00 -10.00 ± 0.00 5.00 ± 5.00 10.00 ± 0.00 2",
        "naive 85.00 -10.00 10.00 10.00 1",
        "two",
        "naive - - - - 0",
    ]
    # Columns are the same in both.
    assert len({len(line) for line in (lines[2], *lines[5:7], lines[8])}) == 1
    assert tables.comparison_notes(labelled)[:4] == [
        "± is one standard error of the mean over the seeds",
        "one is not finished: what is done counts.",
        f"two: naive with seed 4 was given up: {trial.failed}",
        "two is judged on the last sixth of the training data, held out.",
    ]


def test_no_number_is_cut_in_80_columns():
    """A mean of 100 and 82.5, -20 and -50, -60 and -30; errors of 7.5, 15."""
    names = [*METHODS][:5]
    accuracies = [
        np.array([[1.0, 0.0], [0.8 - 0.3 * seed, 1.0]]) for seed in range(2)
    ]
    widest = make_results(
        *(
            Trial(name, seed, accuracy, np.array([NAN, 0.6 - 0.3 * seed]))
            for name in names
            for seed, accuracy in enumerate(accuracies)
        )
    )
    lines = shown(tables.accuracy_table(widest)).splitlines()
    assert lines[2].split() == ["1", *5 * "100.00 ± 0.00".split()]
    assert lines[3].split() == ["2", *5 * "82.50 ± 7.50".split()]
    label = "a-folder-with-a-name-that-is-longer-than-any-column"
    other = shown(tables.comparison_table([(label, widest)])).splitlines()
    assert other[4] == label
    numbers = "82.50 ± 7.50 -35.00 ± 15.00 -45.00 ± 15.00 35.00 ± 15.00 2"
    assert [line.split() for line in other[5:]] == [
        [name, *numbers.split()] for name in names
    ]
    assert max(map(len, lines + other)) <= 80
    # With less room, they are broken.
    for table in (
        tables.accuracy_table(widest),
        tables.comparison_table([(label, widest)]),
    ):
        text = shown(table, width=50)
        assert max(map(len, text.splitlines())) <= 50
        assert text.count("±") >= 10 and "…" not in text


@pytest.mark.parametrize("name", ["a[b]", "[/nope]", "[red]x", ":smile:"])
def test_names_are_shown_as_they_are(name):
    made = make_results(make_trial(name))
    assert name in shown(tables.accuracy_table(made))
    lines = shown(tables.comparison_table([(name, made)])).splitlines()
    assert lines[4] == name
    assert lines[5].split()[0] == name
