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

# Sets the environment before Keras is imported.
import stories  # isort: skip
import keras
import numpy as np
from keras_si_cli import files
from keras_si_cli.experiments import data as datasets
from keras_si_cli.experiments import nets
from keras_si_cli.results.results import spread
from keras_si_cli.training import start

from keras_si import SICallback, fisher_importance

ROWS = {
    "plain": "plain fine-tuning",
    "l2": "L2: every importance 1",
    "fisher": "Fisher information of {samples:,} old images",
    "si": "SI from the start of A",
}
NAMES = ("a_before_b", "a_after_b", "b")
RECORD, TABLE = "protect.json", "table.md"


class OneSeed:
    """Task A as one seed learns it, and what comes of it on task B."""

    def __init__(self, story, data, seed):
        self.story, self.seed = story, seed
        self.a, self.b = stories.two_tasks(story, data, seed)
        self.shape = data.train.images.shape[1:]
        self._learned, self._importance = {}, {}

    def fine_tune(self, row, strength):
        """Returns the accuracy on A before B, on A after B, and on B."""
        weights, before = self._after_a("si" if row == "si" else "plain")
        net = stories.new_net(self.story, self.shape)
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
        if how not in self._learned:
            keras.utils.set_random_seed(self.seed)
            net = stories.new_net(self.story, self.shape)
            si = SICallback()  # Its strength means nothing to a first task.
            self._fit(net, self.a, [si] if how == "si" else [])
            if how == "si":
                self._importance["si"] = si.get_importance()
            self._learned[how] = net.get_weights(), accuracy(net, self.a)
        return self._learned[how]

    def _importance_for(self, row, net):
        """Returns a dict of paths to arrays; `net` is as A has left it."""
        if row == "l2":
            weights = net.trainable_variables
            return {v.path: np.ones(v.shape, "float32") for v in weights}
        if row not in self._importance:  # that of SI is there since A
            nets.set_active_outputs(net, self.a.outputs)
            images = self.a.train_examples.images.numpy()
            count = self.story.samples
            self._importance[row] = fisher_importance(
                net, images, samples=count, seed=self.seed, verbose=0
            )
        return self._importance[row]

    def _fit(self, net, task, callbacks):
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
        story: A `stories.Story`.
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
            trial = {"seed": seed, "row": row, "strength": strength}
            trials.append({**trial, **dict(zip(NAMES, found, strict=True))})
            save()


def say(where, row, strength, found):
    c = "" if strength is None else f"{strength:g}"
    numbers = "".join(f"{100 * each:8.2f}" for each in found)
    print(f"{where:<10}{row:<8}{c:>8}{numbers}", flush=True)


def shown(accuracies):
    of = spread(accuracies)
    error = f" ± {100 * of['standard_error']:.2f}" if of["n"] > 1 else ""
    return f"{100 * of['mean']:.2f}{error}"


def table(story, record):
    """Returns what was measured on the test set, in Markdown."""
    lines = [
        "| protection | c | A before B | A after B | B | mean of both |",
        "|---|---|---|---|---|---|",
    ]
    for row, name in ROWS.items():
        of = [trial for trial in record["trials"] if trial["row"] == row]
        columns = [[trial[name] for trial in of] for name in NAMES]
        columns.append([(a + b) / 2 for a, b in zip(*columns[1:], strict=True)])
        cells = [name.format(samples=story.samples)]
        cells.append("" if row == "plain" else f"{of[0]['strength']:g}")
        cells += map(shown, columns)
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
    parser.add_argument("story", choices=stories.STORIES)
    parser.add_argument("--output", required=True, type=pathlib.Path)
    parser.add_argument("--data-dir", help="a data folder of TFDS")
    parser.add_argument("--quick", action="store_true", help="a small trial")
    options = parser.parse_args()
    story = stories.STORIES[options.story]
    if options.quick:
        story = story.quick()
    start.import_quietly()
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

    def load(held_out):
        found = datasets.load_all((story.dataset,), options.data_dir, held_out)
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
