"""What a run did, apart from the methods: are two results comparable?"""

from .presets import BENCHMARKS

# What makes the protocol, and what was done before it could be chosen.
PROTOCOL = {
    "scenario": "domain",
    "dataset": None,
    "tasks": None,
    "epochs": None,
    "steps": None,
    "batch_size": None,
    "hidden": None,
    "learning_rate": None,
    "reset_optimizer": False,
    "output_weights": "glorot",
    "precision": "float32",
}


def title(results):
    """Returns the benchmark's title, with what is not its default."""
    benchmark = BENCHMARKS.get(results.benchmark)
    if benchmark is None:
        return results.benchmark
    text = benchmark.title
    dataset = results.config.get("dataset")
    if dataset and dataset != benchmark.dataset:
        text += f" ({dataset})"
    scenario = results.config.get("scenario")
    if scenario and len(benchmark.scenarios) > 1:
        text += f", {scenario} scenario"
    return text


def differences(labelled):
    """Returns in what the protocols of results differ.

    Args:
        labelled: Pairs of a label and its `Results`.

    Returns:
        Pairs of an option and a dict, which gives the labels for each of
        its values. Empty if all have one protocol.
    """
    found = []
    for name in ("benchmark", *PROTOCOL):
        labels = {}
        for label, results in labelled:
            labels.setdefault(_value(results, name), []).append(label)
        if len(labels) > 1:
            found.append((name.replace("_", " "), labels))
    return found


def _value(results, name):
    if name == "benchmark":
        return results.benchmark
    value = results.config.get(name, PROTOCOL[name])
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "-" if value is None else str(value)
