"""An optimizer around another one: what Keras expects, passed on."""

from collections.abc import Hashable, Iterable
from typing import Any

import keras
from keras import ops

from keras_si.equations import Tensor

# The settings of every optimizer of Keras.
_SETTINGS = (
    *("weight_decay", "clipnorm", "clipvalue", "global_clipnorm"),
    *("use_ema", "ema_momentum", "ema_overwrite_frequency"),
    *("loss_scale_factor", "gradient_accumulation_steps"),
)


class OptimizerWrapper(keras.optimizers.Optimizer):
    """Has the settings and the step count of the optimizer inside it.

    It wraps by composition, as `keras.optimizers.LossScaleOptimizer` does.

    Attributes:
        inner_optimizer: The user's `keras.optimizers.Optimizer`. A subclass
            sets it after all that is its own: what is set later, and the inner
            optimizer has, is set there.
    """

    inner_optimizer: keras.optimizers.Optimizer

    def __init__(self, name: str | None) -> None:
        super().__init__(learning_rate=0.0, name=name)
        for setting in _SETTINGS:  # the inner optimizer has its own
            self.__dict__.pop(setting)

    def build(self, variables: Iterable[keras.Variable]) -> None:
        # Keras's `build` makes averages and sums of its own where these say so.
        hidden = {"use_ema": False, "gradient_accumulation_steps": None}
        self.__dict__.update(hidden)
        super().build(variables)
        for setting in hidden:
            self.__dict__.pop(setting)

    @property
    def variables(self) -> list[keras.Variable]:
        return self._variables + self.inner_optimizer.variables

    def __getattr__(self, name: str) -> Any:
        """Reads a setting (`clipnorm`, `beta_1`, ...) on the inner one."""
        if name.startswith("_") or "inner_optimizer" not in vars(self):
            raise AttributeError(
                f"'{type(self).__name__}' has no attribute '{name}'"
            )
        return getattr(self.inner_optimizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Writes it there as well."""
        inner = vars(self).get("inner_optimizer")
        if (
            inner is None
            or name.startswith("_")
            or name in vars(self)
            or hasattr(type(self), name)
            or not hasattr(inner, name)
        ):
            super().__setattr__(name, value)
        else:
            setattr(inner, name, value)

    @property
    def learning_rate(self) -> Any:
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self) -> keras.Variable:
        return self.inner_optimizer.iterations

    def apply_gradients(
        self, grads_and_vars: Iterable[tuple[Tensor, keras.Variable]]
    ) -> keras.Variable:
        super().apply_gradients(grads_and_vars)
        return self.iterations

    def scale_loss(self, loss: Tensor) -> Tensor:
        return self.inner_optimizer.scale_loss(loss)

    def exclude_from_weight_decay(self, *args: Any, **kwargs: Any) -> None:
        self.inner_optimizer.exclude_from_weight_decay(*args, **kwargs)

    def finalize_variable_values(self, var_list: list[keras.Variable]) -> None:
        self.inner_optimizer.finalize_variable_values(var_list)
        if self.inner_optimizer.use_ema:
            # Weights and their average would share one buffer, with which
            # JAX refuses to train in the next `fit`.
            for variable in var_list:
                variable.assign(ops.copy(variable))

    def reset_inner_optimizer(self) -> None:
        """Gives the inner optimizer's variables the values of a new one."""
        inner = self.inner_optimizer
        fresh = type(inner).from_config(inner.get_config())
        fresh.build(self._trainable_variables)
        for mine, new in zip(inner.variables, fresh.variables, strict=True):
            mine.assign(ops.copy(new))


def settings_of(optimizer: keras.optimizers.Optimizer) -> Hashable:
    """Returns the settings that are constants of a compiled update."""
    own = {
        name: value
        for name, value in vars(optimizer).items()
        if isinstance(value, (bool, int, float, str))
    }
    return tuple(sorted(own.items(), key=lambda item: item[0])), tuple(
        settings_of(each) for each in getattr(optimizer, "optimizers", ())
    )
