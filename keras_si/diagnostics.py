"""Warnings and refusals: SI is never without effect in silence."""

import warnings
from collections.abc import Iterable

import keras
from keras import ops

from keras_si import backend
from keras_si.state import SIState


def _warn(message: str, stacklevel: int = 3) -> None:
    warnings.warn(f"SICallback: {message}", stacklevel=stacklevel + 1)


def check_not_erased(state: SIState) -> None:
    """Refuses to continue with state that somebody has zeroed."""
    if bool(state.is_erased()):
        raise ValueError(
            "SI's state was erased: all variables of `model.optimizer` were "
            "set to 0, and importance, reference and strength are among them. "
            "Use `si.reset_optimizer()` to reset the moments of your own "
            "optimizer alone. What is lost comes back if you load it from a "
            "file; or call `si.detach()` and begin again."
        )


# When a model is attached.


def warn_of_lora(state: SIState, important: list[str]) -> None:
    """The importance of a frozen kernel does not protect its LoRA.

    Args:
        state: The `SIState`, which tracks LoRA's matrices.
        important: The names of frozen variables that have importance.
    """
    layers = {
        name.rpartition("/")[0]
        for name, variable in zip(state.names, state.variables, strict=True)
        if variable.name.startswith("lora_")
    }
    held = [n for n in important if n.rpartition("/")[0] in layers]
    if held:
        _warn(
            f"{held} are frozen under LoRA, so their importance protects "
            "nothing now: LoRA's matrices move what the layer computes. "
            "Fine-tune the kernels themselves to protect what they learned."
        )


def warn_of_newcomers(newcomers: list[str]) -> None:
    """Variables that were not tracked while a task was learned."""
    if newcomers:
        _warn(
            f"{newcomers} are tracked only from now on. What they learned "
            "before is not protected, because no step of it was measured. "
            "Train them with SI from the start, or keep them frozen."
        )


def warn_of_shifted(shifted: list[str]) -> None:
    """Variables whose importance a file had at another place."""
    if shifted:
        _warn(
            f"the importance that a file had of {shifted} is not used, because "
            "other layers stand in their places now. Unfreeze these layers, "
            "`compile` and `set_model` on the model that was loaded; then "
            "build the new one from its layers."
        )


# While a `fit` runs.


def warn_of_interrupted_fit() -> None:
    _warn(
        "the `fit` before this one has not ended its task: it was interrupted, "
        "its loss was not finite, it still runs, or the model was saved within "
        "it. This `fit` continues that task, with its path integral and its "
        "reference. If it brings a new task, call `si.consolidate()` before "
        "it."
    )


def warn_of_no_step() -> None:
    _warn(
        "no optimizer step was heard in this epoch, so SI has no effect. A "
        "custom `train_step` must use `self.optimizer`."
    )


def warn_of_nonfinite_loss() -> None:
    _warn(
        "the loss was not finite when this `fit` ended, so it ends no task: "
        "nothing is consolidated. Call `si.consolidate()` if it is one."
    )


def warn_of_nonfinite(state: SIState, stacklevel: int = 3) -> list[str]:
    """Says what is not finite; in the path integral it was zeroed.

    Returns the names of variables that are not finite.
    """
    dropped = _drop_nonfinite(state)
    if dropped:
        where = ", ".join(f"{n} in '{name}'" for name, n in dropped.items())
        _warn(
            "NaN or infinite gradients reached the path integral. These "
            f"elements of it were set to 0: {where}. Lower the learning rate "
            "or clip the gradients.",
            stacklevel,
        )
    broken = [
        name
        for slot, name in enumerate(state.names)
        if not bool(ops.all(ops.isfinite(state.weights(slot))))
    ]
    if broken:
        _warn(
            "there are NaN or infinite values in the weights of "
            f"{broken}. The steps that made them are not in the path "
            "integral, and nothing will be consolidated until the weights "
            f"are finite again.{_too_strong(state)}",
            stacklevel,
        )
    return broken


def _drop_nonfinite(state: SIState) -> dict[str, int]:
    """Zeroes what is not finite in omega; returns its count by name."""
    dropped = {}
    for name, omega in zip(state.names, state.path_integrals, strict=True):
        value = ops.convert_to_tensor(omega)
        finite = ops.isfinite(value)
        if not bool(ops.all(finite)):
            dropped[name] = int(ops.sum(ops.cast(~finite, "int32")))
            omega.assign(ops.where(finite, value, ops.zeros_like(value)))
    return dropped


def _too_strong(state: SIState) -> str:
    """Returns what to say of `strength` where there is a penalty."""
    importance = max(
        float(ops.convert_to_numpy(ops.max(each))) for each in state.importances
    )
    strength = float(ops.convert_to_numpy(state.strength))
    if not strength * importance:
        return ""
    return (
        f" `strength` may be too large for the learning rate: with plain SGD, "
        "rate * 2 * strength * max(importance) must stay below 2. Here 2 * "
        f"strength * max(importance) is {2 * strength * importance:.3g}."
    )


# When a task ends.


def check_task_end(state: SIState, stacklevel: int) -> None:
    """Refuses to consolidate weights that are not finite."""
    check_not_erased(state)
    broken = warn_of_nonfinite(state, stacklevel + 1)
    if broken:
        raise ValueError(
            "Cannot consolidate: there are NaN or infinite values in the "
            f"weights of {broken}. Importance and reference are kept as they "
            "were. Restore finite weights (for instance with "
            "`model.load_weights`), then continue."
        )


def warn_of_doubts(
    model: keras.Model,
    state: SIState,
    stacklevel: int = 3,
    unsaid: Iterable[str] = (),
) -> None:
    """Warns of what makes SI wrong or useless, of each thing once.

    Args:
        model: The model.
        state: Its `SIState`, before the task is consolidated. It knows what
            it was warned of.
        stacklevel: That of the warnings, counted from the caller.
        unsaid: Topics that do not matter this time. Defaults to none.
    """
    for topic, message in _doubts(model, state):
        if topic not in {*state.warned, *unsaid}:
            state.warned.add(topic)
            _warn(message, stacklevel)


def _doubts(model: keras.Model, state: SIState) -> Iterable[tuple[str, str]]:
    if state.steps_of_task() == 1:
        yield (
            "one step",
            "the task that ends had one optimizer step. With one step a task "
            "SI has no effect, whatever the strength: where a task begins, at "
            "its reference, the gradient of the penalty is 0. Let a task have "
            "several steps (smaller batches, more epochs).",
        )
    counts = state.counts()
    moved = [
        name
        for slot, name in enumerate(state.names)
        if counts[slot] <= 0
        and bool(ops.any(state.weights(slot) != state.references[slot]))
    ]
    if moved:
        yield (
            "unheard",
            f"{moved} moved, but no step of theirs was heard, so they gain no "
            "importance. Either another optimizer moved them (a second one, or "
            "the one that the model was compiled with: use "
            "`model.optimizer`), or their weights were set.",
        )
    layers = [
        layer.path
        for layer in backend.flatten_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
    ]
    if layers:
        yield (
            "statistics",
            f"the moving statistics of {layers} are not weights: no strength "
            "protects them from the next task's data, which can undo what was "
            "learned. Freeze these layers (`layer.trainable = False`, then "
            "`compile`) after the first task, or use LayerNormalization or "
            "GroupNormalization.",
        )
