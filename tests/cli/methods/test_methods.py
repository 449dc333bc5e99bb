"""Each method, and what it does to a run over tasks that split the classes."""

import functools

import keras
import numpy as np
import pytest
from cli_helpers import bright_rows
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
    train, test = (
        data.Split(rng.integers(0, 255, (len(of), 3, 3, 1), "uint8"), of)
        for of in (
            np.arange(10 * count, dtype="int32") % count,
            TEST_LABELS[TEST_LABELS < count],
        )
    )
    return data.Data("made up", count, train, test)


SMALL = {
    **{"tasks": 2, "epochs": 1, "hidden": (8,), "batch_size": 10},
    "jit": False,
}


def run(*names, dataset=None, **given):
    """Runs split MNIST's protocol on pairs of made-up classes."""
    options = {"methods": names, **SMALL, **given}
    resolved = config.resolve("smnist", "paper", options)
    dataset = dataset or made_up(resolved.tasks)
    return runner.run(resolved, dataset=dataset).trials


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


A, B = (0, 1), (2, 3)
PAIRS = {(): "", A: "A", B: "B", (4, 5): "C"}
PAIRS |= {(*A, *B): "AB", (*A, *B, 4, 5): "ABC"}
MIXED = "eB eC fA eA eB fAB eA eB eC fABC eA eB eC"
TOLD_APART = "fA eA fAB eAB eAB fABC eABC eABC eABC"


# Each fit and evaluation, with the pairs of outputs that counted.
@pytest.mark.parametrize(
    ("method", "scenario", "expected"),
    [
        ("naive", "task", "eB eC fA eA eB fB eA eB eC fC eA eB eC"),
        ("joint", "task", MIXED),
        ("replay", "task", MIXED),
        ("replay", "class", TOLD_APART),
        ("scratch", "task", "fA eA fB eB fC eC"),
        ("naive", "class", TOLD_APART),
        ("naive", "domain", "e e f e e f e e e f e e e"),
    ],
)
def test_which_outputs_count_and_when(heard, method, scenario, expected):
    run(method, scenario=scenario, tasks=3)
    calls = [name[0] + PAIRS[active] for name, active, _ in heard]
    assert calls == expected.split()


def test_an_untrained_net_with_zero_outputs_names_the_first_class(eager):
    """Of task 2 it gets class 2 right, by hand: 3 of 5; once for all."""
    runs = run("naive", "l2", epochs=None, steps=1, strength=1.0)
    assert len(runs) == 2
    for run_ in runs:
        assert np.isnan(run_.untrained[0])
        assert run_.untrained[1] == pytest.approx(3 / 5)
        expected = run_.accuracy[0, 1] - 3 / 5
        assert run_.measures["forward_transfer"] == pytest.approx(expected)


def test_each_seed_has_an_untrained_net_of_its_own(monkeypatch, eager):
    monkeypatch.setattr(keras.Sequential, "fit", lambda *args, **kwargs: None)
    given = {"output_weights": "glorot", "tasks": 3}
    (alone,) = run("naive", seed=1, **given)
    first, *second = run("naive", "l2", seeds=2, strength=1.0, **given)[1:]
    assert (first.seed, [each.seed for each in second]) == (0, [1, 1])
    assert (first.untrained[1:] != alone.untrained[1:]).any()
    for each in second:
        np.testing.assert_array_equal(each.untrained, alone.untrained)


@pytest.fixture
def starts(monkeypatch):
    """The weights at the start of each fit, and the steps taken."""
    seen = []
    original = keras.Sequential.fit

    def spy(model, *args, **kwargs):
        optimizer = model.optimizer
        moved = int(optimizer.iterations) if optimizer.built else 0
        seen.append((model.get_weights()[:2], moved))
        return original(model, *args, **kwargs)

    monkeypatch.setattr(keras.Sequential, "fit", spy)
    return seen


def test_methods_start_alike_and_are_made_once_for_a_trial(
    starts, eager, monkeypatch
):
    made = []

    class Made(methods.Method):
        def __init__(self, strength, damping):
            made.append((strength, damping))

    for name in ("one", "two"):
        monkeypatch.setitem(methods.METHODS, name, Made)
    run("one", "two", seeds=2)
    assert made == [(1.0, 0.001)] * 4
    # Of each trial's first task.
    one, two, other, another = [weights for weights, _ in starts[::2]]
    for a, b in zip([*one, *other], [*two, *another], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one[0], other[0])


def test_scratch_gives_each_task_a_new_net_and_keeps_its_accuracy(
    starts, eager
):
    (run_,) = run("scratch", epochs=3)
    (first, _), (second, _) = starts
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert run_.accuracy[1, 0] == run_.accuracy[0, 0]
    assert run_.measures["backward_transfer"] == 0
    assert run_.measures["forgetting"] == 0
    assert np.isnan(run_.measures["forward_transfer"])


@pytest.mark.parametrize("reset", [True, False])
def test_the_optimizer_is_reset_between_tasks_or_kept(starts, eager, reset):
    run("naive", reset_optimizer=reset)
    # 20 examples a task, in batches of 10: two steps.
    assert [moved for _, moved in starts] == [0, 0 if reset else 2]


def test_how_long_each_task_is_learned(heard):
    names = ("naive", "replay", "joint")
    run(*names, epochs=3)
    run(*names, epochs=None, steps=5)
    got = [
        (kwargs["epochs"], kwargs["steps_per_epoch"])
        for name, _, kwargs in heard
        if name == "fit"
    ]
    # The union of both tasks has 40 examples.
    assert got == [*5 * [(3, 2)], (3, 4), *6 * [(1, 5)]]


def one_weight(**options):
    """Returns a net with one weight, 0 at first, and SGD at 1/4."""
    dense = keras.layers.Dense(
        1, use_bias=False, kernel_initializer="zeros", **options
    )
    model = keras.Sequential([keras.Input((1,)), dense])
    model.compile(keras.optimizers.SGD(0.25), "mse")
    return model


def by_one_weight(do, y, **options):
    """Calls `fit` or `evaluate` with the one example (1, y)."""
    return do(np.ones((1, 1)), np.full((1, 1), y), verbose=0, **options)


def weight_after_step(model, y):
    by_one_weight(model.fit, y)
    return model.get_weights()[0].item()


def after_two_steps(name):
    """Returns a method, its net with the weight at 3/4, and `step`."""
    model = one_weight()
    method = methods.METHODS[name](strength=0.5, damping=0.1)
    method.attach(model)
    step = functools.partial(weight_after_step, model)
    # The gradient of (w - 1)^2 at 0 is -2, at 1/2 it is -1: there is no
    # penalty yet, whose gradient at 1/2 would be 1/2.
    assert step(1.0) == pytest.approx(0.5)
    assert step(1.0) == pytest.approx(0.75)
    return method, model, step


def test_l2_by_hand():
    """One weight, SGD; the second task is held to where the first ended."""
    l2, model, step = after_two_steps("l2")
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
    model.set_weights([np.full((1, 1), 0.5)])
    l2.end_task(model, learned=None)
    # At 1/2 the layer's own penalty, w^2 / 4, has the gradient 1/4; the task,
    # (w - 1/2)^2, has none.
    assert weight_after_step(model, 0.5) == pytest.approx(0.4375)
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
    ewc, model, step = after_two_steps("ewc")
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


def test_ewc_in_a_run_adds_the_fisher_information_of_each_tasks_images(
    monkeypatch, eager
):
    """The oracle is the library's function, on images gathered by hand."""
    ends = []
    end_task = methods.METHODS["ewc"].end_task

    def spy(self, model, task):
        end_task(self, model, task)
        assert tuple(model.layers[-1].active) == task.outputs
        ends.append((model, task, model.get_weights(), self.importance()))

    monkeypatch.setattr(methods.METHODS["ewc"], "end_task", spy)
    (recorded,) = run("ewc", strength=100.0)
    assert len(ends) == 2
    total = dict.fromkeys(recorded.importance, 0.0)
    for model, task, weights, importance in ends:
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
    run("naive", "replay", scenario="class", memory=7, epochs=20)
    (naive_x, _), _, (x, _), (images, labels) = seen
    np.testing.assert_array_equal(x, naive_x)
    # In each batch 10 of the task, then 10 of the memory.
    new, old = labels.reshape(40, 2, 10).transpose(1, 0, 2)
    assert {*new.ravel()} == {*B}
    replayed = images.reshape(40, 2, 10, 9)[:, 1].reshape(400, 9)
    drawn = {
        (label, image.tobytes())
        for label, image in zip(old.ravel(), replayed, strict=True)
    }
    assert sorted(label for label, _ in drawn) == [0, 0, 0, 1, 1, 1]
    assert {image for _, image in drawn} <= {image.tobytes() for image in x}


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_replay_remembers_what_plain_training_forgets(scenario):
    naive, replay, si_replay = run(
        *("naive", "replay", "si-replay"),
        dataset=bright_rows("mnist"),
        **{"epochs": 20, "hidden": (30,), "batch_size": 20, "memory": 10},
        **{"learning_rate": 0.01, "strength": 0.01, "scenario": scenario},
    )
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
