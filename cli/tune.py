"""`tune`: a search in one process or several, and what it found."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import multiprocessing
import os
import pathlib
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import files
from . import search as searches
from .errors import Interrupted, OptionError, RunError
from .experiments.config import HELD_OUT, RunConfig
from .search import Search, best, setting_of
from .training import start

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial
    from rich.table import Table

JOURNAL, RECORD, SCHEMA = "search.log", "search.json", 2
# Options that `run` does not have or has other values for, as `shlex` joins.
NOT_OF_RUN = re.compile(
    r" ?--(method|strength|damping|trials|storage|jobs|output)"
    r"[ =]('[^']*'|\S)*"
)


def tune(
    config: RunConfig,
    *,
    strengths: Sequence[float],
    dampings: Sequence[float],
    trials: int,
    jobs: int,
    storage: str | None,
    output: str,
    arguments: Sequence[str],
) -> None:
    """Begins or continues a `Search` in `jobs` processes; shows its result.

    Without a storage, there is a journal in the folder `output`. `arguments`
    are the command line after the word `tune`.
    """
    # Not imported yet: a wrong option is to be named at once.
    if importlib.util.find_spec("optuna") is None:
        raise RunError('tune needs Optuna: pip install "keras-si[tune]"')
    search = Search(
        dataclasses.replace(config, held_out=True),
        {"strength": strengths, "damping": dampings},
        trials,
        storage or os.path.join(output, JOURNAL),
        pathlib.Path(output),
    )
    _check(search)
    if storage is not None:
        search.study()  # One that cannot be used leaves no folder.
    _make_folder(search)
    again = f"the same command with --output {shlex.quote(output)}"
    # Slurm's SIGTERM, too, frees the setting that is under way.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        search.study()
        failed = _processes(search, jobs) if jobs > 1 else _work(search)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; to continue: {again}") from None
    found = searches.in_order(search)
    _show(found, search, arguments)
    if failed:
        raise RunError(
            f"{failed} of {jobs} processes ended early, perhaps for want of "
            f"memory; what is finished is kept. To continue: {again}"
        )
    if best(found) is None:
        raise RunError("no setting was finished; try a smaller --strength")


def _check(search: Search) -> None:
    """Refuses what cannot be searched."""
    limits = search.limits.values()
    if len(search.config.methods) > 1 or not limits:
        raise OptionError(
            "--method",
            f"received {', '.join(search.config.methods)}; expected one that "
            "has a strength",
        )
    if 0 in search.given["strength"]:  # It has no logarithm.
        raise OptionError("--strength", "received 0, expected more than 0")
    if search.storage.startswith("sqlite"):
        problem = "SQLite can give two processes one setting; name a file"
        raise OptionError("--storage", problem)
    if search.trials and all(low == high for low, high in limits):
        raise OptionError(
            "--trials",
            "has no range; give two values of --strength or --damping, or "
            "leave --strength out",
        )
    if not search.trials and not any(search.given.values()):
        raise OptionError(
            "--strength",
            "is missing: give values to try, or --trials to search for some",
        )


def _make_folder(search: Search) -> None:
    folder, problem = search.folder, "has other files"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A process that started at the same moment may be a step ahead.
        if not (folder / RECORD).exists() and all(
            path.name.startswith((".", JOURNAL)) for path in folder.iterdir()
        ):
            files.write_json(folder / RECORD, {"schema": SCHEMA})
    except OSError as error:
        problem = f"cannot be used ({error.strerror})"
    if not (folder / RECORD).exists():
        raise OptionError("--output", f"{folder} {problem}; name another one")


def _work(search: Search, threads: int | None = None) -> int:
    """Tries settings until none is left; returns that no process failed."""
    config = search.config
    start.import_quietly(threads=threads, deterministic=config.deterministic)
    from .experiments import data

    held_out = data.load_all(config.datasets, config.data_dir, held_out=True)
    study = search.study(held_out.checksum)
    with searches.named_process(search) as name:
        attempt = functools.partial(searches.attempt, search, held_out, name)
        while searches.is_left(search, study):
            study.optimize(
                attempt,
                n_trials=1,
                catch=searches.NotNeeded,
                callbacks=[_say],
            )
    return 0


def _processes(search: Search, jobs: int) -> int:
    """Works in several processes; returns how many of them failed."""
    new = multiprocessing.get_context("spawn").Process
    children = [new(target=_child, args=(search, jobs)) for _ in range(jobs)]
    # Ctrl-C reaches them too: they inherit that it is ignored, and are ended.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for child in children:
            child.start()
        signal.signal(signal.SIGINT, before)
        for child in children:
            child.join()
    finally:
        signal.signal(signal.SIGINT, before)
        for child in children:
            child.terminate()
            child.join()
    return sum(child.exitcode != 0 for child in children)


def _child(search: Search, jobs: int) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _work(search, max(1, start.cores() // jobs))
    except KeyboardInterrupt:
        sys.exit(Interrupted.exit_code)
    except (OptionError, RunError) as error:
        error.show()
        sys.exit(error.exit_code)


def _say(_: optuna.Study, trial: FrozenTrial) -> None:
    """Prints a line about a trial that has just ended."""
    if trial.state.name != "FAIL":
        parts = [f"{n} {v:.4g}" for n, v in setting_of(trial).items()]
        parts += [_percent(trial), _note(trial)]
        print("  ".join(parts).rstrip(), flush=True)


def _percent(trial: FrozenTrial) -> str:
    """Average accuracy after the last task, or the last one evaluated."""
    if trial.last_step is None:
        return "-"
    text = f"{100 * trial.intermediate_values[trial.last_step]:.2f}"
    spread = trial.user_attrs.get("spread", {"n": 0})
    if spread["n"] > 1:
        text += f" ± {100 * spread['standard_error']:.2f}"
    return text


def _note(trial: FrozenTrial) -> str:
    return {
        "PRUNED": f"given up {trial.user_attrs.get('given_up')}",
        "RUNNING": f"under way in {trial.user_attrs.get('process')}",
        "WAITING": "waiting",
    }.get(trial.state.name, "")


def _show(
    trials: Sequence[FrozenTrial], search: Search, arguments: Sequence[str]
) -> None:
    """Prints the table and the best setting; writes record and figure."""
    from rich.console import Console
    from rich.text import Text

    method = search.config.methods[0]
    leader = best(trials)
    record = {
        "schema": SCHEMA,
        "judged_on": HELD_OUT,
        "protocol": search.protocol,
        "points": [
            {
                "method": method,
                **setting_of(trial),
                "final_average_accuracy": trial.user_attrs.get("spread"),
                "note": _note(trial),
            }
            for trial in trials
        ],
        "best": [{"method": method, **setting_of(leader)}] if leader else [],
    }
    files.write_json(search.folder / RECORD, record)
    console = Console(highlight=False)
    lines = [f"judged on {HELD_OUT}"]
    if trials:
        console.print(_table(trials, leader))
    if any(trial.state.name in ("RUNNING", "WAITING") for trial in trials):
        lines += ["not over yet: the same command shows the rest later"]
    if leader is not None:
        setting = setting_of(leader)
        chosen = " ".join(f"--{n} {v!r}" for n, v in setting.items())
        chosen = f"--method {method} {chosen}"
        kept = NOT_OF_RUN.sub("", shlex.join(["run", *arguments]))
        lines += [f"best: {chosen}"]
        lines += ["on the test set:", f"  keras-si {kept} {chosen}"]
        _draw(method, trials, search.folder)
    for line in [*lines, f"search: {search.folder}"]:
        console.print(Text(line), soft_wrap=True)


def _table(trials: Sequence[FrozenTrial], leader: FrozenTrial | None) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for heading in (*setting_of(trials[0]), "average\naccuracy, %"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for trial in trials:
        cells = [f"{value:.4g}" for value in setting_of(trial).values()]
        note = "best" if trial is leader else escape(_note(trial))
        table.add_row(*cells, _percent(trial), note)
    return table


def _draw(
    method: str, trials: Sequence[FrozenTrial], folder: pathlib.Path
) -> None:
    """Draws accuracy over what was varied: a curve, or a map."""
    from matplotlib.figure import Figure

    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    accuracies = [100 * (trial.value or 0.0) for trial in done]
    columns = {n: [setting_of(t)[n] for t in done] for n in setting_of(done[0])}
    varied = [name for name, values in columns.items() if len({*values}) > 1]
    if not varied:
        return
    x, y = columns[varied[0]], columns[varied[-1]]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    if len(varied) == 1:
        axes.plot(x, accuracies, "o-")
        axes.set_ylabel("average accuracy, %")
    else:
        squares = axes.scatter(x, y, c=accuracies, s=300, marker="s")
        figure.colorbar(squares, label="average accuracy, %")
        axes.set(ylabel=varied[1], yscale="log")
        axes.yaxis.set_major_formatter("{x:g}")
        for across, up, accuracy in zip(x, y, accuracies, strict=True):
            axes.text(across, up, f"{accuracy:.2f}\n", ha="center")
    axes.set(
        xlabel=varied[0], xscale="log", title=f"{method}, judged on {HELD_OUT}"
    )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(0.15)
    for kind in ("png", "svg"):  # Our figures would import Keras.
        files.write_atomically(
            folder / f"search.{kind}",
            functools.partial(figure.savefig, format=kind, dpi=160),
        )
