"""One file with arrays and results; each damage to it is found."""

import itertools
import os
import pathlib
import random

import failing_disk
import numpy as np
import pytest
from cli_helpers import make_config
from keras_si_cli import files, methods
from keras_si_cli.errors import RunError
from keras_si_cli.experiments import nets
from keras_si_cli.results.results import Results, Trial
from keras_si_cli.training import checkpoint
from keras_si_cli.training.checkpoint import Checkpoint, Position
from keras_si_cli.training.folder import CHECKPOINT

CONFIG = make_config(methods=("si", "naive"))


def results(*tasks_done, config=CONFIG):
    """The results of a run whose trials have done so many of two tasks."""
    made = Results("pmnist", {"keras": "3"}, "CPU", config.to_dict())
    for method, done in zip(config.methods, tasks_done):
        made.trials.append(Trial.empty(method, 0, 2))
        made.trials[-1].accuracy[:done, :done] = 0.5
    return made


def make(task, shape=(2, 3), **given):
    arrays = [np.full(shape, task + 0.1, "float32"), np.int64(task)]
    return Checkpoint(results(2, 1, **given), Position(task, 1, True), arrays)


def content(found):
    arrays = map(np.asarray, found.variables)
    arrays = [(array.dtype.name, array.tolist()) for array in arrays]
    return files.as_json(found.results.to_dict()), found.position, arrays


def test_a_checkpoint_comes_back_and_is_one_file():
    checkpoint.save(make(0), ".")
    checkpoint.save(make(3), ".")
    assert os.listdir() == ["checkpoint.npz"]
    found = checkpoint.load(".")
    assert content(found) == content(make(3))
    row = [float(np.float32(3.1))] * 3
    assert content(found)[2] == [("float32", [row, row]), ("int64", 3)]


def test_a_kill_between_any_two_operations_leaves_a_whole_checkpoint():
    for done in itertools.count():
        folder = str(done)
        os.mkdir(folder)
        checkpoint.save(make(0), folder)
        killed = failing_disk.is_killed(
            *(done, failing_disk.OPERATIONS),
            *(checkpoint.save, make(1), folder),
        )
        found = checkpoint.load(folder)
        assert content(found) == content(make(found.position.task))
        if not killed:
            break
    assert found.position.task == 1
    assert done >= 5  # open, write, fsync, replace, fsync of the folder


def test_a_bit_flipped_anywhere_is_found_or_changes_nothing():
    checkpoint.save(make(1, shape=(4, 5)), ".")
    path = pathlib.Path(CHECKPOINT)
    whole = path.read_bytes()
    expected = content(checkpoint.load("."))
    rng = random.Random(0)
    found = 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert content(checkpoint.load(".")) == expected
        except files.DamagedFile as error:
            assert str(path) in str(error)
            found += 1
    assert found > 120  # Not: the dates and the attributes of the members.
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(files.DamagedFile):
            checkpoint.load(".")


def test_damage_that_makes_an_array_smaller_is_found():
    """NumPy reads no further then, and so never compares the CRC."""
    checkpoint.save(make(1, shape=(99,)), ".")
    path = pathlib.Path(CHECKPOINT)
    path.write_bytes(path.read_bytes().replace(b"(99,)", b"(98,)", 1))
    with pytest.raises(files.DamagedFile, match="CRC of arr_0.npy is wrong"):
        checkpoint.load(".")


@pytest.mark.parametrize(
    "record",
    ["{}", "", '{"schema": 5, "results": {}}', np.array([{}], object)],
)
def test_an_npz_that_keras_si_did_not_write_is_no_checkpoint(record):
    np.savez(CHECKPOINT, np.ones(3), record=record)
    with pytest.raises(files.DamagedFile, match="checkpoint.npz is damaged"):
        checkpoint.load(".")


def test_a_checkpoint_of_another_version_is_refused():
    np.savez(CHECKPOINT, record='{"schema": 4}')
    with pytest.raises(RunError, match="schema 4, expected 5; continue with"):
        checkpoint.load(".")


@pytest.mark.parametrize("changed", ["shape", "dtype", "count"])
def test_arrays_of_another_model_are_refused_and_none_is_assigned(changed):
    config = make_config()
    model = nets.compile_classifier(nets.build(config, (2, 2, 1), 3), config)
    method = methods.METHODS["naive"](1.0, 1.0)
    model.optimizer.build(model.trainable_variables)
    variables = checkpoint.variables(model, method)
    *arrays, last = [np.zeros(v.shape, v.dtype) for v in variables]
    others = {"shape": [np.zeros(7, last.dtype)], "count": []}
    arrays += others.get(changed, [last.astype("float16")])
    before = model.get_weights()
    with pytest.raises(RunError, match="another version of keras-si or Keras"):
        checkpoint.restore(model, method, arrays)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


# Where a run stands.

NO_CHECKPOINT = "there is no good checkpoint.npz in ."


def where():
    """Tasks done, position, and the notes without the files' own words."""
    found, notes = checkpoint.find(".", CONFIG)
    done = [trial.tasks_done for trial in found.results.trials]
    return done, found.position, [note.split(":")[0] for note in notes]


def test_a_run_stands_where_its_checkpoint_says():
    assert checkpoint.find(".", CONFIG) == (Checkpoint(), [])
    results().save(".")
    assert where() == ([], Position(), [])
    checkpoint.save(make(1), ".")
    assert where() == ([2, 1], Position(1, 1, True), [])


@pytest.mark.parametrize("damage", [None, b"text"])
def test_without_a_good_checkpoint_what_is_finished_counts(damage):
    results(2, 1).save(".")
    if damage is not None:
        pathlib.Path(CHECKPOINT).write_bytes(damage)
    named = [] if damage is None else ["checkpoint.npz is damaged"]
    assert where() == ([2], Position(), [*named, NO_CHECKPOINT])


def test_results_that_are_none_are_named_and_the_checkpoint_is_used():
    checkpoint.save(make(1), ".")
    pathlib.Path("results.json").write_text("{}")
    expected = ([2, 1], Position(1, 1, True), ["results.json is damaged"])
    assert where() == expected


def test_when_nothing_good_is_left_it_is_refused_and_nothing_is_deleted():
    pathlib.Path("results.json").write_text("{")
    for _ in range(2):
        before = sorted(os.listdir())
        with pytest.raises(RunError, match="Nothing is left to continue from"):
            checkpoint.find(".", CONFIG)
        assert sorted(os.listdir()) == before
        pathlib.Path(CHECKPOINT).write_text("damaged")


@pytest.mark.parametrize("where", ["results.json", CHECKPOINT])
def test_files_of_a_run_with_other_options_are_refused(where):
    other = make_config(methods=("si", "naive"), seed=5)
    ours = {"results.json": CONFIG, CHECKPOINT: CONFIG, where: other}
    results(1, config=ours["results.json"]).save(".")
    checkpoint.save(make(1, config=ours[CHECKPOINT]), ".")
    with pytest.raises(RunError, match="of a run with seed 5, but config.json"):
        checkpoint.find(".", CONFIG)
