"""`keras-si` whose training is made up: `python tune_program.py tune ...`.

Nothing heavy is imported. It prints each setting that it trains. The variable
WAIT makes it wait then: for a "line" of its input, or a "signal".
"""

import math
import os
import pathlib
import signal
import sys
import types


def accuracy(config):
    """The best is strength 1 with damping 0.01."""
    away = abs(math.log10(config.strength))
    away += abs(math.log10(config.damping) + 2) / 2
    return 0.9 - away / 200


class Results:
    """What `tune` reads of results: accuracy falls by a point a task."""

    def __init__(self, config):
        last = accuracy(config)
        falling = [last + 0.01 * left for left in reversed(range(config.tasks))]
        self.trials = [
            types.SimpleNamespace(
                seed=seed, failed=None, average_accuracy=falling
            )
            for seed in range(config.seed, config.seed + config.seeds)
        ]

    def save(self, folder):
        pathlib.Path(folder, "results.json").write_text("{}")

    def spread(self, method, name):
        values = [trial.average_accuracy[-1] for trial in self.trials]
        mean = sum(values) / len(values)
        return {"mean": mean, "standard_error": 0.002, "n": len(values)}


def run(config, dataset, after_task):
    print("trains", config.strength, flush=True)
    if os.environ.get("WAIT") == "line":
        sys.stdin.readline()
    elif os.environ.get("WAIT") == "signal":
        signal.pause()
    results = Results(config)
    for trial in results.trials:
        for task in range(config.tasks):
            after_task(trial, task)
    return results


def load_all(names, data_dir, held_out):
    return types.SimpleNamespace(checksum="sha256:made-up", held_out=held_out)


def replace_training():
    from keras_si_cli.training import start

    start.import_quietly = lambda **_: None
    for name, function in (
        ("keras_si_cli.training.runner", run),
        ("keras_si_cli.experiments.data", load_all),
    ):
        sys.modules[name] = types.ModuleType(name)
        setattr(sys.modules[name], function.__name__, function)


# Processes of --jobs import this file under the other name.
if __name__ in ("__main__", "__mp_main__"):
    replace_training()
if __name__ == "__main__":
    # A shell that starts the tests in the background has Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from keras_si_cli.main import main

    main()
