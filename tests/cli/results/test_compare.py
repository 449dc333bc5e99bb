"""Runs side by side: which are one, and in what the others differ."""

import os

import pytest
from cli_helpers import invoke
from keras_si_cli.results import compare, tables
from keras_si_cli.results.results import Trial
from result_helpers import make_results, make_trial, save


def report(*args):
    result = invoke("report", *args)
    assert result.exit_code == 0, result.stderr
    return result.stdout.splitlines()


def test_runs_that_differ_in_the_seed_alone_become_one_row_with_a_band():
    """Finals of 85, 83 and 81; BWT is -10 with each; FWT of 10, 8 and 6."""
    for seed in range(3):
        results = make_results(
            make_trial(seed=seed, shift=seed / 50),
            # What depends on where a run is made.
            versions={"keras_si": "1", "keras": f"3.{seed}"},
            data_dir=f"/home/{seed}",
        )
        results.device, results.command = f"GPU {seed}", f"command {seed}"
        save(f"job-{seed}", results)
    lines = report("job-0", "job-1", "job-2")
    rows = [" ".join(line.split()) for line in lines]
    place = rows.index("job-0 and 2 more")
    # The error of 85, 83, 81 is 2 / sqrt 3.
    assert rows[place + 1] == (
        "si 83.00 ± 1.15 -10.00 ± 0.00 8.00 ± 1.15 10.00 ± 0.00 3"
    )
    assert rows.count("job-1") == 0
    text = " ".join(rows)
    assert (
        "job-0 and 2 more are one run, as at most the seed differs: job-0, "
        "job-1, job-2" in text
    )
    assert "versions of keras: 3.0 in job-0; 3.1 in job-1; 3.2 in job-2" in text
    assert "left out" not in text and "more than" not in text


def test_seed_of_two_runs_counts_once_and_is_named():
    begun = Trial.empty("si", 2, 2)
    one = make_results(make_trial(), make_trial(seed=1, shift=0.1), begun)
    failed = make_trial(seed=1, shift=0.5)
    other = make_results(failed, make_trial(seed=2, shift=0.2))
    ((label, merged),) = compare.merge([("a", one), ("b", other)])
    assert label == "a and 1 more"
    # The first one that is complete.
    finals = [trial.average_accuracy[-1] for trial in merged.trials]
    assert [trial.seed for trial in merged.trials] == [0, 1, 2]
    assert finals == pytest.approx([0.85, 0.75, 0.65])
    notes = tables.comparison_notes([(label, merged)])
    expected = "  2 trials left out: another run has the same method and seed"
    assert expected in notes
    # The runs themselves are as they were.
    assert len(one.trials) == 3 and len(other.trials) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"strength": 2.0},
        {"methods": ["si", "l2"]},
        {"new_option": 1},
        {"versions": {"data": "sha256:2"}},
        {"benchmark": "pmnist"},
    ],
)
def test_runs_that_differ_in_more_than_the_seed_stay_apart(changes):
    one = make_results(make_trial(), versions={"data": "sha256:1"})
    given = {"versions": {"data": "sha256:1"}, **changes}
    labelled = [("a", one), ("b", make_results(make_trial(seed=1), **given))]
    assert compare.merge(labelled) == labelled


def test_settings_are_compared_between_methods_that_use_them():
    labelled = [
        (name, make_results(make_trial(name), memory=memory, **settings))
        for name, memory, settings in (
            ("naive", None, {"strength": 1.0, "damping": 1.0}),
            ("l2", None, {"strength": 2.0, "damping": 2.0}),
            ("si", None, {"strength": 2.0, "damping": 3.0}),
            ("replay", 20, {"strength": 3.0, "damping": 3.0}),
            ("new", 200, {"strength": 2.0, "damping": 4.0}),
        )
    ]
    assert compare.differences(labelled[:4]) == []
    assert compare.differences(labelled) == [
        ("damping", {"3.0": ["si"], "4.0": ["new"]}),
        ("memory", {"20": ["replay"], "200": ["new"]}),
    ]
    few = make_results(make_trial("replay"), memory=20)
    many = make_results(make_trial("replay", seed=1), memory=200)
    assert len(compare.merge([("few", few), ("many", many)])) == 2
    older = make_results(make_trial("naive", seed=1))
    assert "memory" not in older.config
    naive = make_results(make_trial("naive"), memory=None, new_option=None)
    assert len(compare.merge([("naive", naive), ("older", older)])) == 1


def test_report_says_in_table_and_figure_what_differs(tmp_path):
    data = {"data": "sha256:" + 32 * "1f"}
    save("a", make_results(make_trial(), hidden=[9, 9], steps=None))
    short = {"epochs": None, "steps": 20, "held_out": True, "versions": data}
    save("b", make_results(make_trial(), hidden=[9, 9], **short))
    data = {"data": "sha256:" + 32 * "2f"}
    other = {"damping": 0.1, "steps": None, "versions": data}
    save("c", make_results(make_trial(), hidden=[9], **other))
    save("e", make_results(make_trial("naive"), hidden=[9, 9], seed=7))
    assert not [line for line in report("a", "e") if "differ" in line]
    lines = report("a", "b", "c", "--output", "all.svg")
    place = lines.index("The runs differ in more than their methods:")
    assert lines[place + 1 :] == [
        "  epochs: 10 in a, c; - in b",
        "  damping: 0.001 in a, b; 0.1 in c",
        "  held out: False in a, c; True in b",
        "  hidden: 9,9 in a, b; 9 in c",
        "  steps: - in a, c; 20 in b",
        "  data: sha256:1f1f1f1f1f1f in b; sha256:2f2f2f2f2f2f in c",
        "figure: all.svg",
    ]
    figure = (tmp_path / "all.svg").read_text()
    assert "<!-- the runs differ in: epochs, damping, held out, hidden" in (
        figure
    )


def test_titles_say_what_is_not_the_default():
    for benchmark, dataset, expected in (
        ("smnist", "mnist", "split MNIST, task scenario"),
        ("pmnist", "mnist", "permuted MNIST"),
        ("scifar", "cifar10", "split CIFAR (cifar10), task scenario"),
        ("other", "mnist", "other"),
    ):
        made = make_results(benchmark=benchmark, dataset=dataset)
        assert compare.title(made) == expected


def test_a_name_that_is_no_text_is_shown_as_text(tmp_path):
    name = os.fsdecode(b"c\xff")
    save(name, make_results(make_trial()))
    assert "c\ufffd" in report(name, "--html", "page.html")
    assert "c\ufffd" in (tmp_path / "page.html").read_text(encoding="utf-8")
