"""One file with arrays and a record; each damage to it is found."""

import os
import random

import failing_disk
import numpy as np
import pytest
from cli_helpers import Killed, make_config
from keras_si_cli import files, methods
from keras_si_cli.errors import RunError
from keras_si_cli.experiments import nets
from keras_si_cli.training import checkpoint
from keras_si_cli.training.checkpoint import CHECKPOINT, Checkpoint, Position

RESULTS = {"benchmark": "pmnist", "trials": [{"accuracy": [0.1, None]}]}


def make(task, shape=(2, 3)):
    arrays = [np.full(shape, task + 0.1, "float32"), np.int64(task)]
    return Checkpoint(RESULTS, Position(task, 1, True), arrays)


def content(found):
    arrays = map(np.asarray, found.variables)
    arrays = [(array.dtype.name, array.tolist()) for array in arrays]
    return found.results, found.position, arrays


def test_a_checkpoint_comes_back_and_is_one_file(tmp_path):
    assert checkpoint.load(tmp_path) is None
    make(0).save(tmp_path)
    make(3).save(tmp_path)
    assert os.listdir(tmp_path) == ["checkpoint.npz"]
    row = [float(np.float32(3.1))] * 3
    assert content(checkpoint.load(tmp_path)) == (
        RESULTS,
        Position(3, 1, True),
        [("float32", [row, row]), ("int64", 3)],
    )


def test_a_kill_between_any_two_operations_leaves_a_whole_checkpoint(
    tmp_path, monkeypatch
):
    """Each operation on the disk is the last one, in turn."""
    for last in range(100):
        folder = tmp_path / str(last)
        folder.mkdir()
        make(0).save(folder)
        left = iter(range(last))

        def count(operation, path, left=left):
            if next(left, None) is None:
                raise Killed  # Also where the draft would be tidied away.

        failing_disk.install(monkeypatch, count)
        killed = True
        try:
            make(1).save(folder)
            killed = False
        except Killed:
            pass
        monkeypatch.undo()
        found = checkpoint.load(folder)
        assert content(found) == content(make(found.position.task))
        if not killed:
            break
    assert found.position.task == 1
    assert last >= 5  # open, write, fsync, replace, fsync of the folder


def test_a_bit_flipped_anywhere_is_found_or_changes_nothing(tmp_path):
    make(1, shape=(4, 5)).save(tmp_path)
    path = tmp_path / CHECKPOINT
    whole = path.read_bytes()
    expected = content(checkpoint.load(tmp_path))
    rng = random.Random(0)
    found = 0
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert content(checkpoint.load(tmp_path)) == expected
        except files.DamagedFile as error:
            assert str(path) in str(error)
            found += 1
    assert found > 250  # Not: the dates and the attributes of the members.
    for length in range(0, len(whole), 31):
        path.write_bytes(whole[:length])
        with pytest.raises(files.DamagedFile):
            checkpoint.load(tmp_path)


def test_damage_that_makes_an_array_smaller_is_found(tmp_path):
    """NumPy reads no further then, and so never compares the CRC."""
    make(1, shape=(99,)).save(tmp_path)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes().replace(b"(99,)", b"(98,)", 1))
    with pytest.raises(files.DamagedFile, match="CRC of arr_0.npy is wrong"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    "record",
    [
        "{}",
        "",
        '{"schema": 4, "arrays": 2, "results": {}, "position": {}}',
        '{"schema": 4, "arrays": 0, "results": {}, "position": {"x": 3}}',
        np.array([{}], object),
    ],
)
def test_an_npz_that_keras_si_did_not_write_is_no_checkpoint(tmp_path, record):
    np.savez(tmp_path / CHECKPOINT, np.ones(3), record=record)
    with pytest.raises(files.DamagedFile, match="checkpoint.npz is damaged"):
        checkpoint.load(tmp_path)


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    np.savez(tmp_path / CHECKPOINT, record='{"schema": 5}')
    with pytest.raises(RunError, match="schema 5, expected 4; continue with"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("changed", ["shape", "dtype", "count"])
def test_arrays_of_another_model_are_refused_and_none_is_assigned(changed):
    config = make_config()
    model = nets.compile_classifier(nets.build(config, (2, 2, 1), 3), config)
    method = methods.METHODS["naive"](1.0, 1.0)
    model.optimizer.build(model.trainable_variables)
    variables = checkpoint.variables(model, method)
    *arrays, last = [np.zeros(v.shape, v.dtype) for v in variables]
    if changed != "count":
        other = last.astype("float16")
        arrays.append(np.zeros(7, last.dtype) if changed == "shape" else other)
    before = model.get_weights()
    with pytest.raises(RunError, match="another version of keras-si or Keras"):
        checkpoint.restore(model, method, arrays)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
