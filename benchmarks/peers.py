"""What SI costs here and in Avalanche, the most used library that has it.

Both train the paper's net with Adam on batches of 256, with and without SI,
interleaved in one process, epoch by epoch:

    pip install avalanche-lib
    python benchmarks/peers.py

Each library reads its data in its own way, from memory. SI is measured when it
has a penalty to pay. The last column is the largest importance after the
first task: where it is 0, SI has no effect. Prints a table; asserts nothing.
"""

import time

import avalanche
import numpy as np
import step_time
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.supervised import Naive, SynapticIntelligence

ROUNDS = 15
BATCH_SIZE = 256


class EpochTimer(SupervisedPlugin):
    """Seconds of each epoch, from its first step to its last."""

    def before_training_epoch(self, strategy, **kwargs):
        self.start = time.perf_counter()

    def after_training_epoch(self, strategy, **kwargs):
        self.seconds = time.perf_counter() - self.start


class Contender:
    """One model, trained by Avalanche an epoch at a time."""

    def __init__(self, strategy, **settings):
        torch.manual_seed(0)
        count = step_time.STEPS * BATCH_SIZE
        x, y = torch.rand(count, 784), torch.randint(0, 10, (count,))
        rounds = ROUNDS + 2
        self.experiences = iter(
            tensors_benchmark(
                train_tensors=[(x, y)] * rounds,
                test_tensors=[(x, y)],
                task_labels=[0] * rounds,
                complete_test_set_only=True,
            ).train_stream
        )
        net = torch.nn.Sequential(
            torch.nn.Linear(784, 2000),
            torch.nn.ReLU(),
            torch.nn.Linear(2000, 2000),
            torch.nn.ReLU(),
            torch.nn.Linear(2000, 10),
        )
        self.timer = EpochTimer()
        self.strategy = strategy(
            model=net,
            optimizer=torch.optim.Adam(net.parameters(), 1e-3),
            criterion=torch.nn.CrossEntropyLoss(),
            train_mb_size=BATCH_SIZE,
            train_epochs=1,
            plugins=[self.timer],
            evaluator=None,
            **settings,
        )
        self.milliseconds = []

    def epoch(self):
        self.strategy.train(next(self.experiences))
        return 1e3 * self.timer.seconds / step_time.STEPS

    def largest_importance(self):
        for plugin in self.strategy.plugins:
            if hasattr(plugin, "ewc_data"):
                _, importance = plugin.ewc_data
                return max(float(i.data.max()) for i in importance.values())
        return None


class KerasContender(step_time.Contender):
    def __init__(self, si):
        super().__init__(step_time.mlp, BATCH_SIZE, False, si)
        self.milliseconds = []

    def largest_importance(self):
        if len(self.callbacks) == 1:
            return None
        importance = self.callbacks[0].get_importance()
        return max(array.max() for array in importance.values())


def main():
    contenders = {
        "Keras": KerasContender(si=False),
        "Keras with keras-si": KerasContender(si=True),
        "Avalanche": Contender(Naive),
        "Avalanche with its SI": Contender(
            SynapticIntelligence, si_lambda=0.1, eps=0.1
        ),
    }
    largest = {}
    for name, contender in contenders.items():
        contender.epoch()  # traces and compiles
        largest[name] = contender.largest_importance()
        contender.epoch()  # SI: the first task with importance
    for _ in range(ROUNDS):
        for contender in contenders.values():
            contender.milliseconds.append(contender.epoch())
    print(
        f"Avalanche {avalanche.__version__}, torch {torch.__version__}, "
        f"Keras on {step_time.device()}"
    )
    print(f"{'':<24}{'ms min':>9}{'median':>9}{'importance':>13}")
    for name, contender in contenders.items():
        times = np.array(contender.milliseconds)
        shown = "" if largest[name] is None else f"{largest[name]:.3g}"
        print(
            f"{name:<24}{times.min():>9.1f}{np.median(times):>9.1f}{shown:>13}"
        )


if __name__ == "__main__":
    main()
