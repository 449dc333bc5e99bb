"""Synaptic Intelligence in plain NumPy, float64: slow and easy to check.

The method is that of Zenke, Poole and Ganguli, "Continual Learning Through
Synaptic Intelligence", ICML 2017.  The paper's symbols and the names used here:

    theta~  reference      weights when the previous task ended (before the
                           first task ends: when tracking began)
    omega   path_integral  running importance of the current task
    Omega   importance     consolidated importance of all tasks so far
    xi      damping        > 0, keeps the division at a task's end finite
    c       strength       >= 0, multiplies the penalty

`Network` gives a loss and its hand-written gradients, the optimizers repeat
the arithmetic of Keras 3, `ReferenceSI` is the method itself and `fit` the
training loop.  Weights are lists of arrays in Keras's order: kernel, bias,
kernel, bias, ...
"""

import numpy as np


def as_floats(arrays):
    """Float64 copies of `arrays`."""
    return [np.array(array, dtype=np.float64) for array in arrays]


def zeros_like(arrays):
    return [np.zeros_like(array) for array in arrays]


def random_weights(sizes, seed=0):
    """Random kernels and biases for layers of the given sizes."""
    rng = np.random.default_rng(seed)
    weights = []
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        weights.append(rng.normal(size=(inputs, outputs)) / np.sqrt(inputs))
        weights.append(0.1 * rng.normal(size=outputs))
    return weights


# --- The net ----------------------------------------------------------------


def cross_entropy(logits, labels):
    """Softmax cross-entropy of each sample; `labels` are integers."""
    labels = np.asarray(labels).reshape(-1).astype(int)
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    gradient = np.exp(log_softmax)
    gradient[rows, labels] -= 1.0
    return -log_softmax[rows, labels], gradient


class Network:
    """A multi-layer perceptron: ReLU, a linear last layer, cross-entropy.

    `l2` adds l2 * sum(kernel**2) over all kernels (no biases) to the task
    loss, as keras.regularizers.L2(l2) on every layer does; `l1` likewise adds
    l1 * sum(|kernel|).
    """

    def __init__(self, l2=0.0, l1=0.0):
        self.l2, self.l1 = l2, l1

    def forward(self, weights, x):
        """The outputs, the input of each layer, each layer's x @ k + b."""
        signal = np.asarray(x, np.float64)
        inputs, sums = [], []
        for kernel, bias in zip(weights[0::2], weights[1::2], strict=True):
            if sums:
                signal = np.maximum(sums[-1], 0.0)
            inputs.append(signal)
            sums.append(signal @ kernel + bias)
        return sums[-1], inputs, sums

    def loss_and_gradients(self, weights, x, y, sample_weight=None):
        """(task loss, [its gradient by each of `weights`]).

        The loss is sum(sample_weight * loss of the sample) / batch size,
        Keras's "sum_over_batch_size", plus the L2 term.
        """
        outputs, inputs, sums = self.forward(weights, x)
        losses, delta = cross_entropy(outputs, y)
        batch_size = len(losses)
        if sample_weight is None:
            sample_weight = np.ones(batch_size)
        share = np.asarray(sample_weight, np.float64) / batch_size
        loss = np.sum(share * losses)
        delta = share[:, np.newaxis] * delta

        gradients = zeros_like(weights)
        for layer in reversed(range(len(inputs))):
            kernel = weights[2 * layer]
            loss += self.l2 * np.sum(kernel**2)
            loss += self.l1 * np.sum(np.abs(kernel))
            gradients[2 * layer] = inputs[layer].T @ delta
            gradients[2 * layer] += 2.0 * self.l2 * kernel
            gradients[2 * layer] += self.l1 * np.sign(kernel)
            gradients[2 * layer + 1] = delta.sum(axis=0)
            if layer > 0:
                delta = (delta @ kernel.T) * (sums[layer - 1] > 0.0)
        return float(loss), gradients


# --- Optimizers -------------------------------------------------------------


class Optimizer:
    """What Keras 3's optimizers share.

    A step is, in this order: clip the gradients (`clipnorm` by each
    variable's norm, or `global_clipnorm` by the norm of all together, or
    `clipvalue` by element), decay the weights (w -= w * weight_decay * lr),
    add the subclass's `increment`, apply the constraints `project`: a
    list with a callable or None for each weight.

    A callable `learning_rate` is given `iterations`, the steps taken so far.
    """

    slots = ()  # Names of the hidden state: lists of arrays, one per weight.

    def __init__(
        self,
        learning_rate,
        *,
        clipnorm=None,
        global_clipnorm=None,
        clipvalue=None,
        weight_decay=None,
        project=None,
    ):
        self.learning_rate = learning_rate
        self.clipnorm = clipnorm
        self.global_clipnorm = global_clipnorm
        self.clipvalue = clipvalue
        self.weight_decay = weight_decay
        self.project = project
        self.iterations = 0
        for slot in self.slots:
            setattr(self, slot, [])

    def clip(self, gradients):
        if self.clipnorm:
            return [clip_norm([g], self.clipnorm)[0] for g in gradients]
        if self.global_clipnorm:
            return clip_norm(gradients, self.global_clipnorm)
        if self.clipvalue:
            limit = self.clipvalue
            return [np.clip(g, -limit, limit) for g in gradients]
        return gradients

    def step(self, weights, gradients):
        """The new weights; the arrays passed in are left as they are."""
        if self.iterations == 0:
            for slot in self.slots:
                setattr(self, slot, zeros_like(weights))
        lr = self.learning_rate
        if callable(lr):
            lr = float(lr(self.iterations))
        gradients = self.clip(gradients)
        if self.weight_decay is not None:
            weights = [w - w * self.weight_decay * lr for w in weights]
        weights = [
            w + self.increment(i, g, lr)
            for i, (w, g) in enumerate(zip(weights, gradients, strict=True))
        ]
        self.iterations += 1
        pairs = zip(self.project or [None] * len(weights), weights, strict=True)
        return [w if project is None else project(w) for project, w in pairs]

    def increment(self, i, g, lr):
        """What the gradient `g` adds to weight number `i`."""
        raise NotImplementedError


def clip_norm(gradients, limit):
    """Scale `gradients` down so that their common norm is <= `limit`."""
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
    return [g * limit / max(norm, limit) for g in gradients]


class SGD(Optimizer):
    slots = ("momentums",)

    def __init__(
        self, learning_rate=0.01, momentum=0.0, nesterov=False, **options
    ):
        super().__init__(learning_rate, **options)
        self.momentum = momentum
        self.nesterov = nesterov

    def increment(self, i, g, lr):
        m = self.momentums[i] = self.momentum * self.momentums[i] - lr * g
        return self.momentum * m - lr * g if self.nesterov else m


class Adam(Optimizer):
    slots = ("momentums", "velocities")

    def __init__(
        self,
        learning_rate=1e-3,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        **options,
    ):
        super().__init__(learning_rate, **options)
        self.beta_1, self.beta_2 = beta_1, beta_2
        self.epsilon = epsilon

    def increment(self, i, g, lr):
        t = self.iterations + 1
        alpha = lr * np.sqrt(1.0 - self.beta_2**t) / (1.0 - self.beta_1**t)
        m, v = self.momentums[i], self.velocities[i]
        m = self.momentums[i] = m + (g - m) * (1.0 - self.beta_1)
        v = self.velocities[i] = v + (g**2 - v) * (1.0 - self.beta_2)
        return -m * alpha / (np.sqrt(v) + self.epsilon)


class RMSprop(Optimizer):
    slots = ("velocities",)

    def __init__(self, learning_rate=1e-3, rho=0.9, epsilon=1e-7, **options):
        super().__init__(learning_rate, **options)
        self.rho, self.epsilon = rho, epsilon

    def increment(self, i, g, lr):
        v = self.rho * self.velocities[i] + (1.0 - self.rho) * g**2
        self.velocities[i] = v
        return -lr * g / np.sqrt(v + self.epsilon)


class Lion(Optimizer):
    slots = ("momentums",)

    def __init__(self, learning_rate=1e-3, beta_1=0.9, beta_2=0.99, **options):
        super().__init__(learning_rate, **options)
        self.beta_1, self.beta_2 = beta_1, beta_2

    def increment(self, i, g, lr):
        m = self.momentums[i]
        self.momentums[i] = m * self.beta_2 + g * (1.0 - self.beta_2)
        return -lr * np.sign(m * self.beta_1 + g * (1.0 - self.beta_1))


# --- Synaptic Intelligence --------------------------------------------------


class ReferenceSI:
    """Synaptic Intelligence around a network and an optimizer.

    `network` needs only `loss_and_gradients(weights, x, y, sample_weight)`.
    `accumulation` is the number of micro-batches per optimizer step.
    `tracked` says of each weight whether SI covers it (default: all).  A
    weight that is not covered is trained without a penalty, and its entries
    in `path_integral`, `importance` and `reference` stay zero.
    """

    def __init__(
        self,
        network,
        weights,
        optimizer,
        strength,
        damping,
        accumulation=1,
        tracked=None,
    ):
        self.network = network
        self.weights = as_floats(weights)
        self.optimizer = optimizer
        self.strength = strength
        self.damping = damping
        self.accumulation = accumulation
        self.tracked = [True] * len(weights) if tracked is None else tracked
        self.path_integral = zeros_like(self.weights)
        self.importance = zeros_like(self.weights)
        self.reference = zeros_like(self.weights)
        self.task_buffer = []
        self.total_buffer = []
        self.set_reference()

    def tracked_indices(self):
        return [i for i, tracked in enumerate(self.tracked) if tracked]

    def set_reference(self):
        """theta~ = theta."""
        for i in self.tracked_indices():
            self.reference[i] = self.weights[i].copy()

    def drift(self):
        """theta - theta~."""
        pairs = zip(self.weights, self.reference, strict=True)
        return [weight - reference for weight, reference in pairs]

    def penalty(self):
        """c * sum over all weights of Omega * (theta - theta~)**2."""
        pairs = zip(self.importance, self.drift(), strict=True)
        return float(self.strength * sum(np.sum(o * d**2) for o, d in pairs))

    def penalty_gradients(self):
        """2 * c * Omega * (theta - theta~)."""
        pairs = zip(self.importance, self.drift(), strict=True)
        return [2.0 * self.strength * o * d for o, d in pairs]

    def train_step(self, x, y, sample_weight=None):
        """One batch; the logs are those of the weights before the step.

        With `accumulation` = k the weights move at every k-th call only, by
        the mean gradients of these k calls.
        """
        task_loss, task_gradients = self.network.loss_and_gradients(
            self.weights, x, y, sample_weight
        )
        logs = {"task_loss": task_loss, "penalty": self.penalty()}
        pairs = zip(task_gradients, self.penalty_gradients(), strict=True)
        self.task_buffer.append(task_gradients)
        self.total_buffer.append([task + penalty for task, penalty in pairs])
        if len(self.task_buffer) == self.accumulation:
            self.apply(mean(self.task_buffer), mean(self.total_buffer))
            self.task_buffer, self.total_buffer = [], []
        return logs

    def apply(self, task_gradients, total_gradients):
        """Step along the total gradient; omega += -g * (after - before).

        g is the gradient of the task loss alone, and not clipped.
        """
        before = self.weights
        after = self.optimizer.step(before, total_gradients)
        for i in self.tracked_indices():
            self.path_integral[i] += -task_gradients[i] * (after[i] - before[i])
        self.weights = after

    def consolidate(self):
        """End a task: Omega <- relu(Omega + omega / (drift**2 + xi)).

        Then omega = 0 and theta~ = theta.  The optimizer's state, and the
        gradients of micro-batches not yet applied, are kept.
        """
        drift = self.drift()
        for i in self.tracked_indices():
            gain = self.path_integral[i] / (drift[i] ** 2 + self.damping)
            self.importance[i] = np.maximum(self.importance[i] + gain, 0.0)
            self.path_integral[i] = np.zeros_like(self.path_integral[i])
        self.set_reference()


def mean(gradient_lists):
    """The mean of lists of gradients, weight by weight."""
    return [
        sum(gradients) / len(gradients)
        for gradients in zip(*gradient_lists, strict=True)
    ]


def fit(si, x, y, batch_size, epochs):
    """Train in the given order; the last batch of an epoch may be smaller."""
    for _ in range(epochs):
        for start in range(0, len(x), batch_size):
            batch = slice(start, start + batch_size)
            si.train_step(x[batch], y[batch])
