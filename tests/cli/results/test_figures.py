"""The figures: their data, their axes, and how lines look."""

import os
from xml.etree import ElementTree

import pytest
from keras_si_cli.results import figures
from keras_si_cli.results.results import Trial
from matplotlib.image import imread
from result_helpers import NAN, make_results, make_trial, two_methods


def constant(accuracy, tasks=1, seed=0):
    trial = Trial.empty("si", seed, tasks)
    trial.accuracy[:] = accuracy
    return trial


def lines_of(axes):
    """The name and the accuracies of each line."""
    return {
        line.get_label(): pytest.approx(line.get_ydata().tolist(), nan_ok=True)
        for line in axes.lines
    }


def test_average_figure_has_means_and_a_band_over_seeds():
    # A run of another length fits in.
    short = ("$short$", make_results(constant(0.8)))
    axes = figures.average_figure([("a", two_methods()), short]).axes[0]
    assert lines_of(axes) == {
        "a: Synaptic Intelligence": [0.85, 0.80],
        "a: plain training": [0.90, 0.85],
        "$short$: Synaptic Intelligence": [0.8],
    }
    # Half of the range of two seeds: 0.80 to 0.90, and 0.75 to 0.85.
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.75, 0.90))


def test_figure_of_a_task_begins_where_it_is_learned():
    made = make_results(make_trial(), make_trial("new"))
    figure = figures.task_figure(made)
    first, second = map(lines_of, figure.axes)
    assert first["Synaptic Intelligence"] == [0.9, 0.8]
    # 0.4 was measured, but before task 2 was learned.
    assert second == {"Synaptic Intelligence": [NAN, 0.9], "new": [NAN, 0.9]}
    assert [axes.get_title() for axes in figure.axes] == ["task 1", "task 2"]
    assert figure.get_suptitle() == "split MNIST, task scenario"
    made = make_results(constant(0.5, tasks=7))
    shown = [axes.get_visible() for axes in figures.task_figure(made).axes]
    assert shown == [*7 * [True], False]


DRAW = {
    "average": lambda made: figures.average_figure([("", made)]),
    "per task": figures.task_figure,
}


@pytest.mark.parametrize(
    ("accuracies", "start"),
    [
        ([0.04], 0),
        ([0.12], 0.1),
        ([0.75], 0.7),
        ([1.0], 0.9),
        # A mean of 0.94, and an error of 0.06: the band goes down to 0.88.
        ([1.0, 0.88], 0.8),
    ],
)
@pytest.mark.parametrize("draw", DRAW)
def test_axis_starts_at_a_full_ten_percent_and_marks_are_right(
    accuracies, start, draw
):
    trials = [constant(a, seed=seed) for seed, a in enumerate(accuracies)]
    figure = DRAW[draw](make_results(*trials))
    figure.canvas.draw()
    axis = figure.axes[0].yaxis
    assert axis.get_view_interval() == pytest.approx([start, 1], abs=1e-6)
    marks = {
        mark: label.get_text()
        for mark, label in zip(
            axis.get_majorticklocs(), axis.get_majorticklabels()
        )
        if start - 1e-6 < mark < 1 + 1e-6
    }
    assert 3 <= len(marks) <= 11
    for mark, text in marks.items():
        assert float(text.removesuffix("%")) == pytest.approx(100 * mark)


def look_of(line):
    return line.get_color(), line.get_marker(), line.get_linestyle()


def test_no_two_lines_differ_by_colour_alone():
    looks = [tuple(look.values()) for look in figures.LOOKS]
    assert len(set(looks)) == 140
    assert len({look[1:] for look in looks[:28]}) == 28


def test_method_looks_the_same_in_every_run():
    alone = make_results(make_trial("naive"))
    for draw in DRAW.values():
        _, beside = draw(two_methods()).axes[0].lines
        (line,) = draw(alone).axes[0].lines
        assert look_of(line) == look_of(beside)
    # Two runs in one figure: their lines must differ.
    pair = figures.average_figure([("a", alone), ("b", alone)])
    one, other = pair.axes[0].lines
    assert look_of(one) != look_of(other)


def test_files_of_a_run_open_and_name_each_method(tmp_path):
    figures.write_figures(two_methods(), tmp_path)
    (tmp_path / "notes.png").write_text("mine")
    assert sorted(os.listdir(tmp_path)) == [
        *("accuracy_per_task.png", "accuracy_per_task.svg"),
        *("average_accuracy.png", "average_accuracy.svg", "notes.png"),
    ]
    image = imread(tmp_path / "average_accuracy.png")
    assert image.shape[1] == 1120
    assert image[..., :3].std() > 0.01  # Not an empty page.
    for name in ("average_accuracy.svg", "accuracy_per_task.svg"):
        text = (tmp_path / name).read_text()
        assert ElementTree.fromstring(text).tag.endswith("svg")
        for part in ("Synaptic Intelligence", "plain training", "split MNIST"):
            assert part in text
    # The same results give the same bytes.
    again = figures.image(figures.task_figure(two_methods()), ".svg")
    assert (tmp_path / "accuracy_per_task.svg").read_bytes() == again
    figures.remove_figures(tmp_path)
    assert os.listdir(tmp_path) == ["notes.png"]
