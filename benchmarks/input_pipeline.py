"""Does training wait for its data? Time per step, with and without.

Prints a table and asserts nothing:

    python benchmarks/input_pipeline.py [--steps 50] [--rounds 6]

"pipeline alone" takes batches and does nothing with them; "one batch from
memory" trains on the same batch over and over, so that no data has to be
made; "with the pipeline" is what `keras-si run pmnist` does. The last two
are interleaved, so that both meet the same machine. If training does not
wait, they take the same time.
"""

import argparse
import statistics
import time

from keras_si_cli.experiments import config
from keras_si_cli.training import start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=256)
    args = parser.parse_args()

    start.import_quietly()
    import rich.box
    import rich.console
    import rich.table
    import tensorflow as tf
    from keras_si_cli.experiments import data, nets
    from keras_si_cli.experiments import tasks as tasks_module

    options = config.resolve(
        "pmnist",
        "paper",
        {
            "methods": ("naive",),
            "tasks": 2,
            "batch_size": args.batch_size,
        },
    )
    mnist = data.load("mnist")
    task = tasks_module.tasks(mnist, options, seed=0)[1]
    epochs = -(-(args.steps + 1) // task.steps_per_epoch)

    def pipeline():
        return task.train(epochs).repeat()

    # Its tensors are ready: repeating it costs nothing.
    batch = next(iter(pipeline()))
    memory = tf.data.Dataset.from_tensors(batch).cache().repeat()

    model = nets.compile_classifier(
        nets.build(options, mnist.train.images.shape[1:], mnist.num_classes),
        options,
    )

    def train(dataset):
        started = time.perf_counter()
        model.fit(
            dataset,
            steps_per_epoch=args.steps,
            shuffle=False,
            verbose=0,
        )
        return (time.perf_counter() - started) / args.steps

    def take():
        batches = iter(pipeline())
        next(batches)
        started = time.perf_counter()
        for _ in range(args.steps):
            next(batches)
        return (time.perf_counter() - started) / args.steps

    train(memory), train(pipeline())  # Traces and warms up.
    alone, from_memory, piped = [], [], []
    for _ in range(args.rounds):
        alone.append(take())
        from_memory.append(train(memory))
        piped.append(train(pipeline()))

    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column(f"ms per step, batch {args.batch_size}")
    table.add_column("min", justify="right")
    table.add_column("median", justify="right")
    for name, times in (
        ("pipeline alone", alone),
        ("training, one batch from memory", from_memory),
        ("training, with the pipeline", piped),
    ):
        table.add_row(
            name,
            f"{1e3 * min(times):.2f}",
            f"{1e3 * statistics.median(times):.2f}",
        )
    table.add_row(
        "with the pipeline / from memory",
        f"{min(piped) / min(from_memory):.3f}",
        f"{statistics.median(piped) / statistics.median(from_memory):.3f}",
    )
    rich.console.Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
