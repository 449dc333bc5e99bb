"""Each method, and what it does to a run over tasks that split the classes."""

import functools
import itertools

import keras
import numpy as np
import pytest
from keras_si_cli import methods
from keras_si_cli.experiments import config, data, nets
from keras_si_cli.training import runner

import keras_si

# Two images of each class for the test, but three of classes 1 and 2.
TEST_LABELS = np.array([0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5], "int32")


def made_up(pairs):
    """Returns 10 images of each class to train with."""
    rng = np.random.default_rng(0)
    count = 2 * pairs
    train = data.Split(
        rng.integers(0, 255, (10 * count, 3, 3, 1), "uint8"),
        np.arange(10 * count, dtype="int32") % count,
    )
    labels = TEST_LABELS[TEST_LABELS < count]
    test = data.Split(
        rng.integers(0, 255, (len(labels), 3, 3, 1), "uint8"), labels
    )
    return data.Data("made up", count, train, test)


def run(*names, **given):
    """Runs split MNIST's protocol on pairs of made-up classes."""
    options = {
        "methods": names,
        "tasks": 2,
        "epochs": 1,
        "hidden": (8,),
        "batch_size": 10,
        "jit": False,
        **given,
    }
    resolved = config.resolve("smnist", "paper", options)
    return runner.run(resolved, dataset=made_up(resolved.tasks)).trials


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner.figures, "write_figures", lambda *args: None)


@pytest.fixture
def heard(monkeypatch):
    """Which outputs were active at each fit and each evaluation.

    Nothing is trained: what would be asked of Keras is what is looked at.
    """
    calls = []

    def spy(name):
        def hear(model, *args, **kwargs):
            mask = model.layers[-1]
            calls.append((name, tuple(getattr(mask, "active", ())), kwargs))
            return {"accuracy": 0.5}

        return hear

    for name in ("fit", "evaluate"):
        monkeypatch.setattr(keras.Sequential, name, spy(name))
    return calls


A, B, C = (0, 1), (2, 3), (4, 5)
AB, ABC = (*A, *B), (*A, *B, *C)
UNTRAINED = [("evaluate", [B, C])]


# Of each fit, and of the evaluations that follow one another.
@pytest.mark.parametrize(
    ("method", "scenario", "expected"),
    [
        (
            *("naive", "task"),
            [
                *(*UNTRAINED, ("fit", [A]), ("evaluate", [A, B])),
                *(("fit", [B]), ("evaluate", [A, B, C])),
                *(("fit", [C]), ("evaluate", [A, B, C])),
            ],
        ),
        (
            *("joint", "task"),
            [
                *(*UNTRAINED, ("fit", [A]), ("evaluate", [A, B])),
                *(("fit", [AB]), ("evaluate", [A, B, C])),
                *(("fit", [ABC]), ("evaluate", [A, B, C])),
            ],
        ),
        (
            *("replay", "task"),
            [
                *(*UNTRAINED, ("fit", [A]), ("evaluate", [A, B])),
                *(("fit", [AB]), ("evaluate", [A, B, C])),
                *(("fit", [ABC]), ("evaluate", [A, B, C])),
            ],
        ),
        (
            *("replay", "class"),
            [
                *(("fit", [A]), ("evaluate", [A])),
                *(("fit", [AB]), ("evaluate", [AB] * 2)),
                *(("fit", [ABC]), ("evaluate", [ABC] * 3)),
            ],
        ),
        (
            *("scratch", "task"),
            [(name, [x]) for x in (A, B, C) for name in ("fit", "evaluate")],
        ),
        (
            *("naive", "class"),
            [
                *(("fit", [A]), ("evaluate", [A])),
                *(("fit", [AB]), ("evaluate", [AB] * 2)),
                *(("fit", [ABC]), ("evaluate", [ABC] * 3)),
            ],
        ),
        (
            *("naive", "domain"),
            [
                ("evaluate", [()] * 2),
                *(("fit", [()]), ("evaluate", [()] * 2)),
                *(("fit", [()]), ("evaluate", [()] * 3)) * 2,
            ],
        ),
    ],
)
def test_which_outputs_count_and_when(heard, method, scenario, expected):
    run(method, scenario=scenario, tasks=3)
    grouped = [
        (name, [call[1] for call in calls])
        for name, calls in itertools.groupby(heard, key=lambda call: call[0])
    ]
    assert grouped == expected


def test_an_untrained_net_with_zero_outputs_names_the_first_class():
    """Of task 2 it gets class 2 right, by hand: 3 of 5; once for all."""
    runs = run("naive", "l2", epochs=None, steps=1, strength=1.0)
    assert len(runs) == 2
    for run_ in runs:
        assert np.isnan(run_.untrained[0])
        assert run_.untrained[1] == pytest.approx(3 / 5)
        expected = run_.accuracy[0, 1] - 3 / 5
        assert run_.measures["forward_transfer"] == pytest.approx(expected)


def test_each_seed_has_an_untrained_net_of_its_own(monkeypatch):
    monkeypatch.setattr(keras.Sequential, "fit", lambda *args, **kwargs: None)
    given = {"output_weights": "glorot", "tasks": 3}
    (alone,) = run("naive", seed=1, **given)
    first, *second = run("naive", "l2", seeds=2, strength=1.0, **given)[1:]
    assert (first.seed, [each.seed for each in second]) == (0, [1, 1])
    assert (first.untrained[1:] != alone.untrained[1:]).any()
    for each in second:
        np.testing.assert_array_equal(each.untrained, alone.untrained)


def test_in_the_class_scenario_forward_transfer_is_not_measured(heard):
    (run_,) = run("naive", scenario="class")
    assert np.isnan(run_.accuracy[0, 1])
    assert np.isnan(run_.untrained).all()
    assert np.isnan(run_.measures["forward_transfer"])


def fits(monkeypatch):
    """The weights at the start of each fit, and the steps taken."""
    seen = []
    original = keras.Model.fit

    def spy(model, *args, **kwargs):
        optimizer = model.optimizer
        moved = 0
        if optimizer.built:
            moved = int(optimizer.iterations)
        seen.append((model.get_weights()[:2], moved))
        return original(model, *args, **kwargs)

    monkeypatch.setattr(keras.Sequential, "fit", spy)
    return seen


def test_scratch_gives_each_task_a_new_net_and_keeps_its_accuracy(monkeypatch):
    seen = fits(monkeypatch)
    (run_,) = run("scratch", epochs=3)
    for one, other in zip(seen[0][0], seen[1][0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert run_.accuracy[1, 0] == run_.accuracy[0, 0]
    assert (
        run_.measures["backward_transfer"],
        run_.measures["forgetting"],
    ) == (0, 0)
    assert np.isnan(run_.measures["forward_transfer"])


@pytest.mark.parametrize("reset", [True, False])
def test_the_optimizer_is_reset_between_tasks_or_kept(monkeypatch, reset):
    seen = fits(monkeypatch)
    run("naive", reset_optimizer=reset)
    # 20 examples a task, in batches of 10: two steps.
    assert [moved for _, moved in seen] == [0, 0 if reset else 2]


@pytest.mark.parametrize(
    "given, expected",
    [
        # The union of both tasks has 40 examples.
        (
            {"epochs": 3},
            {
                "naive": [(3, 2), (3, 2)],
                "replay": [(3, 2), (3, 2)],
                "joint": [(3, 2), (3, 4)],
            },
        ),
        (
            {"epochs": None, "steps": 5},
            {name: 2 * [(1, 5)] for name in ("naive", "replay", "joint")},
        ),
    ],
)
def test_how_long_each_task_is_learned(heard, given, expected):
    run(*expected, **given)
    got = [
        (kwargs["epochs"], kwargs["steps_per_epoch"])
        for name, _, kwargs in heard
        if name == "fit"
    ]
    assert got == sum(expected.values(), [])


def one_weight(**options):
    """Returns a net with one weight, 0 at first, and SGD at 1/4."""
    model = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(
                1, use_bias=False, kernel_initializer="zeros", **options
            ),
        ]
    )
    model.compile(keras.optimizers.SGD(0.25), "mse")
    return model


def by_one_weight(do, y, **options):
    """Calls `fit` or `evaluate` with the one example (1, y)."""
    return do(np.ones((1, 1)), np.full((1, 1), y), verbose=0, **options)


def weight_after_step(model, y):
    by_one_weight(model.fit, y)
    return model.get_weights()[0].item()


def test_l2_by_hand():
    """One weight, SGD; the second task is held to where the first ended."""
    model = one_weight()
    l2 = methods.METHODS["l2"](strength=0.5, damping=0.1)
    l2.attach(model)
    step = functools.partial(weight_after_step, model)

    # The gradient of (w - 1)^2 at 0 is -2, at 1/2 it is -1: there is no
    # penalty yet, whose gradient at 1/2 would be 1/2.
    assert step(1.0) == pytest.approx(0.5)
    assert step(1.0) == pytest.approx(0.75)
    l2.end_task(model, learned=None)
    # That of w^2 at 3/4 is 3/2; the penalty, 0.5 (w - 0.75)^2, has none there.
    assert step(0.0) == pytest.approx(0.375)
    # At 3/8: 2 w - 2 * 0.5 * 0.375 = 3/8.
    assert step(0.0) == pytest.approx(0.28125)
    importance, reference = map(keras.ops.convert_to_numpy, l2.variables)
    assert (importance.item(), reference.item()) == (1, pytest.approx(0.75))
    assert l2.importance() == {}  # There is nothing to report.
    assert by_one_weight(model.evaluate, 0.0) == pytest.approx(
        0.28125**2 + 0.5 * (0.28125 - 0.75) ** 2
    )


def test_l2_adds_to_the_penalty_that_a_layer_had():
    model = one_weight(kernel_regularizer=keras.regularizers.L2(0.25))
    l2 = methods.METHODS["l2"](0.5, 0.1)
    l2.attach(model)
    # At 0 the layer's own penalty, w^2 / 4, has no gradient.
    by_one_weight(model.fit, 1.0)
    assert model.get_weights()[0].item() == pytest.approx(0.5)
    l2.end_task(model, learned=None)
    # At 1/2 its gradient is 1/4; the task, (w - 1/2)^2, has none.
    by_one_weight(model.fit, 0.5)
    assert model.get_weights()[0].item() == pytest.approx(0.4375)
    model.set_weights([np.full((1, 1), 3.0)])
    # 3^2 / 4 of its own, and 0.5 (3 - 0.5)^2.
    assert by_one_weight(model.evaluate, 3.0) == pytest.approx(2.25 + 3.125)


class Sample:
    """A task with a few inputs, all of which `sample` returns."""

    index, seed = 0, 0

    def __init__(self, x):
        self.x = np.array(x)

    def sample(self, count):
        assert count == 1000
        return self.x


def test_ewc_by_hand():
    """One weight, SGD; F/2 of each task is the mean of x^2, by closed form."""
    model = one_weight()
    ewc = methods.METHODS["ewc"](strength=0.5, damping=0.1)
    ewc.attach(model)
    step = functools.partial(weight_after_step, model)

    # As `test_l2_by_hand`: there is no penalty yet.
    assert step(1.0) == pytest.approx(0.5)
    assert step(1.0) == pytest.approx(0.75)
    ewc.end_task(model, Sample([[1.0], [2.0], [1.0]]))
    assert [*ewc.importance()] == [model.weights[0].path]
    assert ewc.importance()[model.weights[0].path] == pytest.approx(2.0)
    # Lambda is 0.5 and F is 4: at 3/4 the penalty has no gradient, at 3/8 it
    # is that of 0.5 / 2 * 4 (w - 0.75)^2: -3/4 in all, to the task's 3/4.
    assert step(0.0) == pytest.approx(0.375)
    assert step(0.0) == pytest.approx(0.375)
    ewc.end_task(model, Sample([[3.0]]))
    # The sum of both tasks, centred where the second one ended.
    importance, reference = map(keras.ops.convert_to_numpy, ewc.variables)
    assert importance.item() == pytest.approx(2 + 9)
    assert reference.item() == pytest.approx(0.375)
    model.set_weights([np.full((1, 1), 1.375)])
    assert by_one_weight(model.evaluate, 0.0) == pytest.approx(
        1.375**2 + 0.5 * 11
    )


@pytest.fixture
def kept(monkeypatch):
    """What each method was given and knew at each task's end."""
    ends = []
    for name in ("naive", "ewc"):
        cls = methods.METHODS[name]

        def spy(self, model, learned, name=name, end_task=cls.end_task):
            end_task(self, model, learned)
            mask = model.layers[-1]
            active = tuple(getattr(mask, "active", ()))
            weights = model.get_weights()
            ends.append(
                (name, learned, model, active, weights, self.importance())
            )

        monkeypatch.setattr(cls, "end_task", spy)
    return ends


def test_ewc_in_a_run_adds_the_fisher_information_of_each_tasks_images(kept):
    """The oracle is the library's function, on images gathered by hand."""
    _, recorded = run("naive", "ewc", scenario="task", strength=100.0)
    naive, _, first, second = kept
    # Nothing holds the first task back.
    for one, other in zip(naive[4], first[4], strict=True):
        np.testing.assert_array_equal(one, other)
    model = second[2]
    total = {path: 0.0 for path in second[5]}
    for name, task, _, active, weights, importance in (first, second):
        assert (name, active) == ("ewc", task.outputs)
        model.set_weights(weights)
        nets.set_active_outputs(model, task.outputs)
        images = task.train_examples.images.numpy()
        drawn = np.random.default_rng([0, task.index, 2]).permutation(20)
        of_task = keras_si.fisher_importance(
            model, images[drawn], seed=task.index, verbose=0
        )
        for path, measured in of_task.items():
            total[path] = total[path] + measured
            np.testing.assert_allclose(importance[path], total[path], 1e-5)
            # As SI's, it is in the results.
            of_path = recorded.importance[path]
            known = [of_path[name][task.index] for name in ("mean", "max")]
            expected = [total[path].mean(), total[path].max()]
            np.testing.assert_allclose(known, expected, 1e-5)
        # The outputs of another task have none, and those of this one have.
        *_, of_outputs = of_task.values()
        assert [*np.flatnonzero(of_outputs)] == [*task.outputs]


def test_si_by_hand():
    """One weight, SGD; the strength and the damping are those of the run."""
    model = one_weight()
    si = methods.METHODS["si"](strength=0.5, damping=0.6875)
    si.attach(model)
    # The gradient of (w - 1)^2 at 0 is -2, and the step 1/2; at 1/2 it is -1.
    by_one_weight(model.fit, 1.0, callbacks=si.callbacks(), epochs=2)
    assert model.get_weights()[0].item() == pytest.approx(0.75)
    # omega is 2 / 2 + 1 / 4, Omega 1.25 / (0.75^2 + 0.6875).
    (importance,) = si.importance().values()
    assert importance.item() == pytest.approx(1.0)
    # The gradient of w^2 at 3/4 is 3/2; the penalty, 0.5 (w - 0.75)^2, has
    # none there. At 3/8: 2 w - 2 * 0.5 * 0.375 = 3/8.
    by_one_weight(model.fit, 0.0, callbacks=si.callbacks(), epochs=2)
    assert model.get_weights()[0].item() == pytest.approx(0.28125)


def test_every_method_names_itself():
    for name, method in methods.METHODS.items():
        assert method.label and method.summary and method.source, name
        assert set(method.uses) <= {"strength", "damping", "memory"}


def test_what_replay_trains_on_is_the_new_task_and_a_memory(monkeypatch):
    """Of 20 images of each task, 3 of each class can be in it."""
    seen = []

    def spy(model, batches, **kwargs):
        pairs = [(x.numpy(), y.numpy()) for x, y in batches]
        seen.append([np.concatenate(part) for part in zip(*pairs)])

    monkeypatch.setattr(keras.Sequential, "fit", spy)
    for memory in (7, 200):
        seen.clear()
        run("naive", "replay", scenario="class", memory=memory, epochs=20)
        (naive_x, _), _, (x, y), (both, labels) = seen
        np.testing.assert_array_equal(x, naive_x)
        # In each batch 10 of the task, then 10 of the memory.
        new, old = labels.reshape(40, 2, 10).transpose(1, 0, 2)
        assert {*new.ravel()} == {*B} and {*old.ravel()} == {*A}
        images = both.reshape(40, 2, 10, 9)[:, 1]
        drawn = {
            label: {image.tobytes() for image in images[old == label]}
            for label in A
        }
        known = {image.tobytes() for image in x}
        for label in A:
            assert len(drawn[label]) == min(memory // 2, 10)
            assert drawn[label] <= known


def bright_rows(name, count=200):
    """Ten classes: the brighter row of an image says which."""
    rng = np.random.default_rng(0)
    labels = np.arange(count, dtype="int32") % 10
    images = rng.integers(0, 80, (count, 10, 3, 1), "uint8")
    images[np.arange(count), labels] += 120
    part = data.Split(images, labels)
    return data.Data(name, 10, part, part)


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_replay_remembers_what_plain_training_forgets(scenario):
    options = {
        "methods": ("naive", "replay", "si-replay"),
        **{"tasks": 2, "epochs": 30, "hidden": (30,), "batch_size": 20},
        **{"jit": False, "scenario": scenario, "memory": 10, "strength": 0.01},
        **{"learning_rate": 0.01},
    }
    resolved = config.resolve("smnist", "paper", options)
    naive, replay, si_replay = runner.run(
        resolved, dataset=bright_rows("mnist")
    ).trials
    # The first task is the same: there is nothing to remember yet.
    assert naive.accuracy[0, 0] == replay.accuracy[0, 0] == 1
    assert replay.accuracy[1].min() > 0.95
    assert si_replay.accuracy[1].min() > 0.95
    assert si_replay.importance and not replay.importance
    if scenario == "class":
        assert naive.accuracy[1].tolist() == [0, 1]


def test_the_mask_of_a_joint_run_is_that_of_the_task(heard, monkeypatch):
    """In the task scenario alone: elsewhere outputs are to be compared."""
    asked = []
    original = nets.compile_classifier

    def spy(model, config, outputs_by_task=None):
        asked.append(outputs_by_task)
        return original(model, config, outputs_by_task)

    monkeypatch.setattr(nets, "compile_classifier", spy)
    for method in ("joint", "replay"):
        for scenario in ("task", "class"):
            run(method, scenario=scenario)
    run("naive")
    assert asked == [*2 * [[(0, 1), (2, 3)], None], None]
