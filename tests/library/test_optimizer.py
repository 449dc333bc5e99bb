"""The optimizer around the user's: its settings, its reset, its copies."""

import copy

import keras
import numpy as np
import pytest
from helpers import (
    DAMPING,
    SIZES,
    STRENGTH,
    assert_equal,
    assert_matches_oracle,
    assert_near,
    begin,
    fit,
    flat,
    learn,
    learned,
    make_model,
    make_oracle,
    only_on,
    sgd,
)
from helpers import compile_eagerly as compile_model
from helpers import compile_model as compile_traced
from keras import ops

from keras_si import SICallback
from keras_si.optimizer import SIOptimizer

# Settings.


@pytest.mark.parametrize(
    ("name", "value"),
    [("clipnorm", 1e-3), ("weight_decay", 5.0), ("beta_1", 0.0)],
)
def test_setting_written_under_si_has_the_effect_it_has_without(name, value):
    ends = []
    for with_si in (False, True):
        keras.utils.set_random_seed(3)
        model, si, task, _ = begin(strength=0.0)
        if with_si:
            si.set_model(model)
        setattr(model.optimizer, name, value)
        assert getattr(model.optimizer, name) == value
        fit(model, task, *[si] * with_si)
        ends.append(model.get_weights())
    assert_equal(*ends)


def test_every_public_setting_is_the_inner_optimizers():
    model, si, *_ = begin()
    si.set_model(model)
    outer, inner = model.optimizer, model.optimizer.inner_optimizer
    names = [
        n for n in vars(inner) if n[0] != "_" and n not in ("name", "built")
    ]
    assert {"clipnorm", "use_ema", "loss_scale_factor", "epsilon"} < {*names}
    for name in names:
        assert getattr(outer, name) is getattr(inner, name), name
        setattr(outer, name, 0.25)
        assert getattr(outer, name) == getattr(inner, name) == 0.25, name
    with pytest.raises(AttributeError, match="momentum_of_mine"):
        outer.momentum_of_mine  # noqa: B018
    assert not hasattr(outer, "_momentum")


@only_on("tensorflow", reason="its update is compiled by itself")
@pytest.mark.parametrize("through", ["wrapper", "handle"])
def test_setting_has_effect_on_an_update_that_was_compiled(through):
    handle = sgd()
    model, si, task, _ = learned(handle, compile=compile_traced)
    optimizer = model.optimizer if through == "wrapper" else handle
    optimizer.clipvalue = 1e-12
    model.make_train_function(force=True)
    before = model.get_weights()
    fit(model, task, si)
    assert_near(before, model.get_weights(), atol=1e-10)


def test_setting_written_before_the_optimizer_is_built_is_kept():
    model, si, *_ = begin(sgd())
    si.set_model(model)
    other = from_config(model.optimizer)
    other.clipnorm = 0.5
    other.build(model.trainable_variables)
    assert other.clipnorm == other.inner_optimizer.clipnorm == 0.5
    assert other.use_ema is False


# Reset.


def test_reset_optimizer_trains_as_a_new_one_and_keeps_what_si_knows():
    ends = []
    for reset in (True, False):
        keras.utils.set_random_seed(3)
        model, si, _, second = learned(strength=5.0)
        model.optimizer.learning_rate = 2e-2
        importance = flat(si.get_importance())
        if reset:
            si.reset_optimizer()
            np.testing.assert_array_equal(importance, flat(si.get_importance()))
        else:
            compile_model(model, keras.optimizers.Adam(2e-2))
        assert int(ops.convert_to_numpy(model.optimizer.iterations)) in (0, 6)
        logs = fit(model, second, si).history
        ends.append((model.get_weights(), logs["si_penalty"]))
    assert_near(ends[0][0], ends[1][0], atol=1e-6)
    np.testing.assert_allclose(ends[0][1], ends[1][1], rtol=1e-4)


def test_state_zeroed_with_the_moments_is_refused(tmp_path):
    model, si, _, task = learned()
    rate = float(ops.convert_to_numpy(model.optimizer.learning_rate))
    for variable in model.optimizer.variables:
        variable.assign(np.zeros(variable.shape, variable.dtype))
    model.optimizer.learning_rate = rate
    for call in (
        si.get_importance,
        lambda: fit(model, task, si),
        lambda: SICallback().set_model(model),
        lambda: model.save(tmp_path / "model.keras"),
        lambda: SICallback().set_model(compile_model(model)),
    ):
        with pytest.raises(ValueError, match="erased.*reset_optimizer"):
            call()


def test_state_zeroed_in_a_loop_of_batches_shows_as_a_loss_of_nan():
    model, si, task, _ = begin()
    si.set_model(model)
    model.train_on_batch(*task)
    for variable in model.optimizer.variables:
        variable.assign(np.zeros(variable.shape, variable.dtype))
    losses = [model.train_on_batch(*task) for _ in range(2)]
    assert np.isnan(losses[1])
    assert all(np.isfinite(each).all() for each in model.get_weights())
    with pytest.raises(ValueError, match="erased"):
        si.get_importance()


def test_reset_optimizer_drops_the_micro_batches_of_a_step_that_was_begun():
    """A step of SGD is -rate * g, so omega is step^2 / rate."""
    model, si, task, other = begin(sgd(gradient_accumulation_steps=2))
    si.set_model(model)
    model.train_on_batch(*task)
    si.reset_optimizer()
    before = model.get_weights()
    for _ in range(2):
        model.train_on_batch(*other)
    omega = si.get_path_integral().values()
    for old, now, each in zip(before, model.get_weights(), omega, strict=True):
        np.testing.assert_allclose(
            each, (now - old) ** 2 / 0.1, rtol=1e-3, atol=1e-7
        )


class OptimizerWithState(keras.optimizers.SGD):
    state = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.state = "its own"


def test_attribute_of_the_optimizer_that_si_has_too_is_left_alone():
    model, si, *_ = learned(OptimizerWithState(0.1))
    si.detach()
    assert model.optimizer.state == "its own"


# Copies of the optimizer, and of a model that has it.


def from_config(optimizer):
    return type(optimizer).from_config(optimizer.get_config())


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        from_config,
        pytest.param(
            copy.deepcopy,
            marks=pytest.mark.filterwarnings("ignore:.*(restored|Skipping)"),
        ),
    ],
)
def test_copy_of_the_optimizer_is_as_a_new_one_of_the_users(make, built):
    model, si, _, second = learned(sgd(), strength=STRENGTH, damping=DAMPING)
    importance = flat(si.get_importance())
    copied = make(model.optimizer)
    if not built:
        model, importance = make_model(built=False), 0 * importance
    fit(compile_model(model, copied), second, si)
    inner = model.optimizer.inner_optimizer
    assert isinstance(inner, keras.optimizers.SGD)
    assert not isinstance(inner, SIOptimizer)
    now = flat(si.get_importance())
    assert (now >= 0).all()
    assert (now != importance).any()
    assert now.sum() > 0.9 * importance.sum()


def by_config(model):
    other = type(model).from_config(model.get_config())
    other.build((None, SIZES[0]))
    other.compile_from_config(model.get_compile_config())
    other.run_eagerly = model.run_eagerly
    return other


@pytest.mark.parametrize(
    ("make", "consolidate"),
    [(keras.models.clone_model, "train_end"), (by_config, 2)],
)
def test_clone_trains_as_without_si_until_a_callback_is_passed(
    make, consolidate
):
    settings = {"strength": 50.0, "consolidate": consolidate}
    model, _, first, second = learned(sgd(), **settings)
    cloned = make(model)
    assert cloned.optimizer is not None
    plain = compile_model(make_model(), sgd())
    plain.set_weights(cloned.get_weights())
    for each in (cloned, plain):
        logs = fit(each, first).history
    assert set(logs) == {"loss"}
    assert_near(cloned.get_weights(), plain.get_weights())
    # And it is a first task that the callback then meets.
    reference = make_oracle(cloned)
    si = SICallback(STRENGTH, DAMPING)
    for task in (first, second):
        fit(cloned, task, si)
        learn(reference, task)
    assert_matches_oracle(cloned, si, reference)
