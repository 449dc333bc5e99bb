"""What protects a model that was trained before, when it learns task B.

A net learns task A by a plain `fit`. Then it is fine-tuned on task B: plainly,
with L2 (every importance 1), with the Fisher information of 1,000 old images
(`fisher_importance` and `add_importance`), and, as somebody would who had
thought of it in time, with SI from the start of A. All by one `SICallback`,
which has another importance each time, with a new optimizer for B.

    python benchmarks/protect.py mnist --output FOLDER
    python benchmarks/protect.py cifar10 --data-dir FOLDER --output FOLDER

`mnist`: the net of Zenke, Poole & Ganguli 2017 (section 4.2), 784-2000-2000-10;
B is A with its pixels permuted. `cifar10`, read by TensorFlow Datasets: a small
convolutional net; A is airplane, automobile, bird and cat, B is deer, dog, frog
and horse, each with four outputs of its own.

The strength of each protection is chosen with a seed of its own on a sixth of
the training data that is held out: by factors of ten, until the mean accuracy
on A and B falls on both sides. The table is of the test set. Nets compute in
bfloat16, with float32 weights. Into the folder go `protect.json`, all that was
measured, and `table.md`. A folder that has a part of it is continued.
"""

import argparse
import dataclasses
import pathlib
import shlex
import sys

from keras_si_cli import files
from keras_si_cli.training import start

ROWS = {
    "plain": "plain fine-tuning",
    "l2": "L2: every importance 1",
    "fisher": "Fisher information of {samples:,} old images",
    "si": "SI from the start of A",
}
RECORD, TABLE = "protect.json", "table.md"


@dataclasses.dataclass(frozen=True)
class Story:
    """What is measured; `guesses` are where the searches for c begin."""

    dataset: str
    batch_size: int
    guesses: dict[str, float]
    epochs: int = 5
    samples: int = 1000
    seeds: int = 3
    precision: str = "mixed_bfloat16"
    hidden: tuple[int, ...] = (2000, 2000)
    images: int | None = None
    tries: int = 8

    def quick(self):
        """Returns the same in seconds: it shows nothing."""
        small = {"epochs": 1, "samples": 20, "seeds": 1, "tries": 2}
        return dataclasses.replace(self, images=400, hidden=(16,), **small)


STORIES = {
    "mnist": Story("mnist", 256, {"l2": 1e-3, "fisher": 1e3, "si": 10.0}),
    "cifar10": Story("cifar10", 128, {"l2": 1e-2, "fisher": 1e3, "si": 10.0}),
}


def two_tasks(story, data, seed):
    """Returns A and B."""
    import numpy as np
    from keras_si_cli.experiments import tasks
    from keras_si_cli.experiments.data import Split

    def examples(split, outputs):
        chosen = np.isin(split.labels, outputs)
        found = Split(split.images[chosen], split.labels[chosen])
        return tasks.Examples.of(
            Split(found.images[: story.images], found.labels[: story.images])
        )

    permuted = story.dataset == "mnist"
    every = tuple(range(10))
    pixels = int(np.prod(data.train.images.shape[1:]))
    return [
        tasks.Task(
            index=index,
            train_examples=examples(data.train, outputs),
            test_examples=examples(data.test, outputs),
            permutation=tasks.pixel_permutation(
                seed, index if permuted else 0, pixels
            ),
            outputs=outputs,
            batch_size=story.batch_size,
            seed=seed,
        )
        for index, outputs in enumerate(
            (every, every) if permuted else ((0, 1, 2, 3), (4, 5, 6, 7))
        )
    ]


def new_net(story, image_shape):
    """Returns a net with a new optimizer, Adam."""
    import keras
    import numpy as np
    from keras_si_cli.experiments import nets

    from keras_si import OutputMask

    layers = keras.layers
    # So that the variables of every net have the same paths.
    keras.backend.clear_session()
    # After that, which forgets the policy too.
    keras.config.set_dtype_policy(story.precision)
    first = [
        keras.Input((int(np.prod(image_shape)),), dtype="uint8"),
        nets.ToFeatures(),
    ]
    if story.dataset == "mnist":
        dense = [layers.Dense(n, activation="relu") for n in story.hidden]
        last = [layers.Dense(10, dtype="float32")]
        net = keras.Sequential([*first, *dense, *last])
    else:
        body = [layers.Reshape(image_shape)]
        for filters in (32, 64, 64):
            body += [
                layers.Conv2D(filters, 3, activation="relu", padding="same"),
                layers.MaxPooling2D(),
            ]
        body += [layers.Flatten(), layers.Dense(128, activation="relu")]
        last = [layers.Dense(8, dtype="float32"), OutputMask(dtype="float32")]
        net = keras.Sequential([*first, *body, *last])
    net.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return net


class OneSeed:
    """Task A as one seed learns it, and what comes of it on task B."""

    def __init__(self, story, data, seed):
        self.story, self.seed = story, seed
        self.a, self.b = two_tasks(story, data, seed)
        self.shape = data.train.images.shape[1:]
        self._learned, self._importance = {}, {}

    def fine_tune(self, row, strength):
        """Returns the accuracy on A before B, on A after B, and on B."""
        from keras_si import SICallback

        weights, before = self._after_a("si" if row == "si" else "plain")
        net = new_net(self.story, self.shape)
        net.set_weights(weights)
        callbacks = []
        if row != "plain":
            si = SICallback(strength=strength)
            si.set_model(net)
            si.add_importance(self._importance_for(row, net))
            callbacks = [si]
        self._fit(net, self.b, callbacks)
        return [before, *(accuracy(net, task) for task in (self.a, self.b))]

    def _after_a(self, how):
        """Returns the weights that learned A, and their accuracy."""
        import keras

        from keras_si import SICallback

        if how not in self._learned:
            keras.utils.set_random_seed(self.seed)
            net = new_net(self.story, self.shape)
            si = SICallback()  # Its strength means nothing to a first task.
            self._fit(net, self.a, [si] if how == "si" else [])
            if how == "si":
                self._importance["si"] = si.get_importance()
            self._learned[how] = net.get_weights(), accuracy(net, self.a)
        return self._learned[how]

    def _importance_for(self, row, net):
        """Returns a dict of paths to arrays; `net` is as A has left it."""
        import numpy as np
        from keras_si_cli.experiments import nets

        from keras_si import fisher_importance

        if row not in self._importance and row == "fisher":
            nets.set_active_outputs(net, self.a.outputs)
            images = self.a.train_examples.images.numpy()
            self._importance[row] = fisher_importance(
                net,
                images,
                samples=self.story.samples,
                seed=self.seed,
                verbose=0,
            )
        elif row not in self._importance:
            self._importance[row] = {
                variable.path: np.ones(variable.shape, "float32")
                for variable in net.trainable_variables
            }
        return self._importance[row]

    def _fit(self, net, task, callbacks):
        from keras_si_cli.experiments import nets

        nets.set_active_outputs(net, task.outputs)
        net.fit(
            task.train(self.story.epochs),
            epochs=self.story.epochs,
            steps_per_epoch=task.steps_per_epoch,
            callbacks=callbacks,
            shuffle=False,  # The pipeline has done it.
            verbose=0,
        )


def accuracy(net, task):
    from keras_si_cli.experiments import nets

    nets.set_active_outputs(net, task.outputs)
    found = net.evaluate(task.test, verbose=0, return_dict=True)["accuracy"]
    # Back to the count that it is: the metric's mean is a rounded float32.
    count = len(task.test_examples)
    return round(found * count) / count


def search(guess, score, tries):
    """Returns the best of guess * 10**k, where k + 1 and k - 1 are worse.

    `score` is called with `tries` values at most.
    """

    def value(k):
        return float(f"{guess * 10.0**k:g}")

    scores = {0: score(value(0))}
    while len(scores) < tries:
        best = max(sorted(scores), key=scores.get)
        missing = [k for k in (best + 1, best - 1) if k not in scores]
        if not missing:
            break
        scores[missing[0]] = score(value(missing[0]))
    return value(max(sorted(scores), key=scores.get))


def measure(story, load, record, save):
    """Fills `record`, and calls `save` whenever there is more in it.

    Args:
        story: A `Story`.
        load: Returns the `data.Data`, of which the test set is held-out
            training data if it is called with `True`.
        record: A dict, empty or partly filled.
        save: Called with nothing.
    """
    chosen = record.setdefault("strengths", {})
    seed = record.setdefault("search_seed", story.seeds)
    tried = record.setdefault("search", {row: {} for row in story.guesses})
    trials = record.setdefault("trials", [])
    if len(chosen) < len(story.guesses):
        judge = OneSeed(story, load(True), seed)
        for row, guess in story.guesses.items():

            def score(strength, row=row):
                key = f"{strength:g}"
                if key not in tried[row]:
                    tried[row][key] = judge.fine_tune(row, strength)
                    say("held out", row, strength, tried[row][key])
                    save()
                return sum(tried[row][key][1:]) / 2

            chosen[row] = search(guess, score, story.tries)
            save()
    done = {(trial["seed"], trial["row"]) for trial in trials}
    data = load(False)
    for seed in range(story.seeds):
        one = OneSeed(story, data, seed)
        for row in ROWS:
            if (seed, row) in done:
                continue
            strength = chosen.get(row)
            found = one.fine_tune(row, strength)
            say(f"seed {seed}", row, strength, found)
            names = ("a_before_b", "a_after_b", "b")
            trials.append(
                {
                    **{"seed": seed, "row": row, "strength": strength},
                    **dict(zip(names, found, strict=True)),
                }
            )
            save()


def say(where, row, strength, found):
    shown = "" if strength is None else f"{strength:g}"
    numbers = "".join(f"{100 * each:8.2f}" for each in found)
    print(f"{where:<10}{row:<8}{shown:>8}{numbers}", flush=True)


def table(story, record):
    """Returns what was measured on the test set, in Markdown."""
    from keras_si_cli.results.results import spread

    def cell(row, value):
        of = spread([value(t) for t in record["trials"] if t["row"] == row])
        error = f" ± {100 * of['standard_error']:.2f}" if of["n"] > 1 else ""
        return f"{100 * of['mean']:.2f}{error}"

    lines = [
        "| protection | c | A before B | A after B | B | mean of both |",
        "|---|---|---|---|---|---|",
    ]
    for row, name in ROWS.items():
        strength = record["strengths"].get(row)
        cells = [
            name.format(samples=story.samples),
            "" if strength is None else f"{strength:g}",
            cell(row, lambda t: t["a_before_b"]),
            cell(row, lambda t: t["a_after_b"]),
            cell(row, lambda t: t["b"]),
            cell(row, lambda t: (t["a_after_b"] + t["b"]) / 2),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Accuracy on the test set in percent, mean ± standard error of "
        f"{story.seeds} seeds.",
        "",
    ]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("story", choices=STORIES)
    parser.add_argument("--output", required=True, type=pathlib.Path)
    parser.add_argument("--data-dir", help="a data folder of TFDS")
    parser.add_argument("--quick", action="store_true", help="a small trial")
    options = parser.parse_args()
    story = STORIES[options.story]
    if options.quick:
        story = story.quick()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / RECORD
    # As JSON has it, to be compared with what is read.
    setting = files.as_json(dataclasses.asdict(story))
    command = shlex.join(["python", *sys.argv])
    record = {"command": command, "setting": setting}
    if path.exists():
        record = files.read_json(path)
        if record["setting"] != setting:
            parser.error(f"{path} is of another trial; name another --output")
    start.import_quietly()
    from keras_si_cli.experiments import data

    def load(held_out):
        found = data.load_all((story.dataset,), options.data_dir, held_out)
        if not held_out:
            record["versions"] = {**start.versions(), "data": found.checksum}
            record["device"] = start.device()
        return found

    measure(story, load, record, lambda: files.write_json(path, record))
    text = table(story, record)
    files.write_atomically(options.output / TABLE, text.encode())
    print(text)


if __name__ == "__main__":
    main()
