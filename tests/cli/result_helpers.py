"""Results with numbers that can be checked by hand."""

import os

import numpy as np
from keras_si_cli.results.results import Results, Trial

NAN = np.nan
CONFIG = {
    **{"benchmark": "smnist", "preset": "paper", "scenario": "task"},
    **{"epochs": 10, "strength": 1.0, "damping": 0.001, "dataset": "mnist"},
    **{"data_dir": None, "held_out": False},
}


def make_trial(method="si", seed=0, shift=0.0, **more):
    """Average accuracy 90 and 85; BWT -10, FWT 10, forgetting 10 points."""
    accuracy = np.array([[0.9, 0.4], [0.8, 0.9]]) - shift
    return Trial(method, seed, accuracy, np.array([NAN, 0.3]), **more)


def make_results(*trials, benchmark="smnist", versions=None, **config):
    given = {
        "methods": list(dict.fromkeys(trial.method for trial in trials)),
        "seed": min((trial.seed for trial in trials), default=0),
        "seeds": len({trial.seed for trial in trials}),
        "tasks": len(trials[0].accuracy) if trials else 2,
    }
    return Results(
        benchmark,
        {"keras_si": "1"} if versions is None else versions,
        "CPU",
        {**CONFIG, "benchmark": benchmark, **given, **config},
        [*trials],
        command="keras-si run smnist",
        started="2025-01-31T23:59:59+00:00",
    )


def two_methods():
    """SI with two seeds, plain training with one."""
    return make_results(
        make_trial(), make_trial(seed=1, shift=0.1), make_trial("naive")
    )


def save(folder, results):
    os.makedirs(folder)
    results.save(folder)
