"""What two switches of van de Ven & Tolias's SI do: total gradient, no ReLU.

keras-si follows Zenke, Poole & Ganguli 2017 and their code: the path integral
takes the gradient of the task's loss alone, and importance is rectified. The
SI of van de Ven & Tolias 2018 (arXiv:1809.10635) takes the gradient of the
total loss, penalty included, and does not rectify: so it is in the branch
`preprints` of their code. Their split MNIST with their c and xi (the preset
`vandeven`), with each of the four combinations, beside what they published. A
fifth row has their initial weights, too: kernels and biases uniform within
1 / sqrt(inputs), PyTorch's default, in place of Keras's.

    python benchmarks/total_gradient.py --output FOLDER

Into the folder go `total_gradient.json`, all that was measured, and `table.md`.
A folder that has a part of it is continued.
"""

import argparse
import contextlib
import pathlib
import shlex
import sys

# Sets the environment before Keras is imported.
import step_time  # noqa: F401  # isort: skip
import numpy as np
from keras_si_cli import files
from keras_si_cli.experiments import config, nets
from keras_si_cli.experiments import data as datasets
from keras_si_cli.results.results import spread
from keras_si_cli.training import runner, start

from keras_si import equations, state

# Table 3 of arXiv:1809.10635: mean and standard error of 20 seeds.
PUBLISHED = {"task": "99.14 ± 0.11", "domain": "63.77 ± 1.18"}
SWITCHES = ("total_gradient", "rectified", "their_initial_weights")
VARIANTS = {
    "task's gradient, rectified (keras-si)": (False, True, False),
    "total gradient, rectified": (True, True, False),
    "task's gradient, not rectified": (False, False, False),
    "total gradient, not rectified (theirs)": (True, False, False),
    "the same, with their initial weights": (True, False, True),
}
RECORD, TABLE = "total_gradient.json", "table.md"
QUICK = {"tasks": 2, "steps": 5, "hidden": (16,)}


@contextlib.contextmanager
def variant(total_gradient, rectified, their_initial_weights=False):
    """Lets keras-si compute it that way, for models made from here on.

    This reaches into what is private to keras-si, for a comparison alone.
    """
    accumulate = state.SIState.accumulate
    consolidate = equations.consolidate
    build = nets.build

    def accumulate_total(self, slot, gradient, before, stepped):
        pull = self.penalty_gradient(slot, before)
        accumulate(self, slot, gradient + pull, before, stepped)

    def consolidate_unrectified(
        importance, path_integral, weights, reference, damping
    ):
        change = (weights - reference) ** 2 + damping
        return importance + path_integral / change

    def build_as_theirs(config, *others):
        model = build(config, *others)
        rng = np.random.default_rng(config.seed)
        for layer in model.layers:
            if hasattr(layer, "kernel"):
                limit = layer.kernel.shape[0] ** -0.5
                for weights in (layer.kernel, layer.bias):
                    weights.assign(rng.uniform(-limit, limit, weights.shape))
        return model

    try:
        if their_initial_weights:
            nets.build = build_as_theirs
        if total_gradient:
            state.SIState.accumulate = accumulate_total
        if not rectified:
            equations.consolidate = consolidate_unrectified
        yield
    finally:
        state.SIState.accumulate = accumulate
        equations.consolidate = consolidate
        nets.build = build


def measure(record, save, options, data):
    """Fills `record["runs"]`, and calls `save` after each run."""
    keys = ("scenario", "seed", *SWITCHES)
    done = {tuple(run[key] for key in keys) for run in record["runs"]}
    # Seed by seed, so that a part of it is a comparison, too.
    for seed in range(options.seeds):
        for scenario in options.scenario:
            for name, switches in VARIANTS.items():
                key = (scenario, seed, *switches)
                if key in done:
                    continue
                chosen = config.resolve(
                    "smnist",
                    "vandeven",
                    {
                        "scenario": scenario,
                        "methods": ("si",),
                        "seed": seed,
                        **(QUICK if options.quick else {}),
                    },
                )
                with variant(*switches):
                    (trial,) = runner.run(chosen, dataset=data).trials
                # NaN, of a run that diverged, becomes null.
                accuracy = trial.measures["final_average_accuracy"]
                record["runs"].append(
                    {
                        **dict(zip(keys, key, strict=True)),
                        "strength": chosen.strength,
                        "damping": chosen.damping,
                        "average_accuracy": accuracy,
                        "accuracy": trial.accuracy.tolist(),
                        "failed": trial.failed,
                    }
                )
                print(
                    f"{scenario:<8}seed {seed}  c, accuracy"
                    f"{chosen.strength:8.2f}{100 * accuracy:8.2f}  {name}",
                    flush=True,
                )
                save()


def table(record):
    """Returns the average accuracies after the last task, in Markdown."""
    scenarios = list(dict.fromkeys(run["scenario"] for run in record["runs"]))
    lines = [
        f"| | {' | '.join(scenarios)} |",
        "|---|" + len(scenarios) * "---|",
    ]
    for name, switches in VARIANTS.items():
        cells = []
        for scenario in scenarios:
            found = [
                run["average_accuracy"]
                for run in record["runs"]
                if run["scenario"] == scenario
                and tuple(run[switch] for switch in SWITCHES) == switches
            ]
            of = spread([a for a in found if a is not None and a == a])
            cell = f"{100 * of['mean']:.2f}"
            if of["n"] > 1:
                cell += f" ± {100 * of['standard_error']:.2f}"
            if of["n"] < len(found):
                cell += f" ({len(found) - of['n']} of {len(found)} diverged)"
            cells.append(cell)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    published = " | ".join(PUBLISHED[scenario] for scenario in scenarios)
    seeds = len({run["seed"] for run in record["runs"]})
    lines += [
        f"| van de Ven & Tolias 2018, table 3, 20 seeds | {published} |",
        "",
        "Average accuracy on split MNIST after the fifth task in percent, mean "
        f"± standard error of {seeds} seeds.",
        "",
    ]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, type=pathlib.Path)
    parser.add_argument(
        "--scenario", nargs="+", choices=PUBLISHED, default=[*PUBLISHED]
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a small trial")
    options = parser.parse_args()
    start.import_quietly()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / RECORD
    record = {"command": shlex.join(["python", *sys.argv])}
    record["quick"] = options.quick
    if path.exists():
        record = files.read_json(path)
        if record["quick"] != options.quick:
            parser.error(f"{path} is of another trial; name another --output")
    mnist = datasets.load("mnist")
    record["versions"] = {**start.versions(), "data": mnist.checksum}
    record["device"] = start.device()
    record.setdefault("runs", [])
    measure(record, lambda: files.write_json(path, record), options, mnist)
    text = table(record)
    files.write_atomically(options.output / TABLE, text.encode())
    print(text)


if __name__ == "__main__":
    main()
