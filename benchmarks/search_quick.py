"""Where the `quick` preset comes from.

    python benchmarks/search_quick.py

Runs permuted MNIST with the `quick` preset and other settings.
It is judged on the last 10,000 images of the training set, and trained on the
50,000 before them: the test set is never looked at. Prints a table.
"""

import dataclasses
import tempfile

from keras_si_cli.config import resolve
from keras_si_cli.startup import import_quietly

# Learning rate, batch size and the strengths tried with them.
GRID = (
    (1e-3, 256, (3.0, 10.0)),
    (1e-3, 128, (3.0, 10.0, 30.0)),
    (3e-3, 256, (10.0,)),
)
VALIDATION = 10_000


def settings():
    for learning_rate, batch_size, strengths in GRID:
        net = {"learning_rate": learning_rate, "batch_size": batch_size}
        yield {**net, "methods": ("naive",)}
        for strength in strengths:
            yield {**net, "methods": ("si",), "strength": strength}


def main():
    import_quietly()
    from keras_si_cli import data, runner

    mnist = data.load("mnist")
    count = len(mnist.train) - VALIDATION
    split = dataclasses.replace(
        mnist,
        train=data.Split(
            mnist.train.images[:count], mnist.train.labels[:count]
        ),
        test=data.Split(mnist.train.images[count:], mnist.train.labels[count:]),
    )
    print("learning rate  batch  method  strength  accuracy on validation")
    for given in settings():
        with tempfile.TemporaryDirectory() as folder:
            config = resolve(
                "pmnist",
                "quick",
                {**RUN_OPTIONS, **given, "output": folder},
            )
            results = runner.run(config, dataset=split)
        accuracy = results.runs[0].average_accuracy[-1]
        is_si = config.methods == ("si",)
        print(
            f"{config.learning_rate:<15}{config.batch_size:<7}"
            f"{config.methods[0]:<8}{config.strength if is_si else '':<10}"
            f"{accuracy:.2%}",
            flush=True,
        )


RUN_OPTIONS = {
    "seed": 0,
    "seeds": 1,
    "precision": "float32",
    "jit": "auto",
}

if __name__ == "__main__":
    main()
