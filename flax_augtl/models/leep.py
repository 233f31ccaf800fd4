"""LEEP's empirical predictor: a target classifier without any training.

Nguyen, Hassner, Seeger, Archambeau, "LEEP: A New Measure to Evaluate Transferability of Learned Representations", ICML
2020 (arXiv 2002.12462), equations 1 and 2.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flax_augtl.config.heads import HeadSettings
from flax_augtl.models.head import normalised


def conditional(probabilities: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return P(y | z), float64 [Z, num_classes]: the target class y, given the source class z.

    It is P(y, z) / P(z) with P(y, z) = 1/n Σ_i θ(x_i)_z [y_i = y].

    Args:
      probabilities: θ(x), float [n, Z], of the source network's classes.
      labels: int [n], of the target task.
      num_classes: of the target task.
    """
    joint = np.asarray(probabilities, np.float64).T @ np.eye(num_classes)[labels]
    total = joint.sum(axis=1, keepdims=True)
    # A source class without examples has no information: use the class frequencies.
    frequency = np.bincount(labels, minlength=num_classes) / len(labels)
    return np.where(total > 0, joint / np.maximum(total, np.finfo(np.float64).tiny), frequency)


def predict(probabilities: np.ndarray, of_source: np.ndarray) -> np.ndarray:
    """Return p(y | x) = Σ_z P(y | z) θ(x)_z, float64 [n, C], for probabilities [n, Z] and P(y | z) [Z, C]."""
    return np.asarray(probabilities, np.float64) @ of_source


def speakers(of_source: np.ndarray, probabilities: np.ndarray, count: int = 5) -> list[list[tuple[int, float]]]:
    """Return, for each target class, the source classes that predict it: (z, P(z | y)), the strongest first.

    Args:
      of_source: P(y | z), [Z, C].
      probabilities: θ(x), [n, Z], of the examples that P(y | z) was computed from.
      count: number of source classes per target class.
    """
    joint = of_source * np.asarray(probabilities, np.float64).mean(axis=0)[:, None]
    share = joint / np.maximum(joint.sum(axis=0), np.finfo(np.float64).tiny)
    return [[(int(z), float(share[z, y])) for z in np.argsort(-share[:, y])[:count]] for y in range(share.shape[1])]


def initial_classifier(inputs: np.ndarray, labels: np.ndarray, of_source: np.ndarray) -> dict[str, np.ndarray]:
    """Return a target classifier on a kept classification layer that starts from LEEP's P(y | z).

    Its kernel is s (P(y | z) − P(y)): a source class predicts the target classes that it occurred with. A linear layer
    cannot be the predictor itself, which needs the softmax. The scale s minimises the cross-entropy of the training
    examples, which is convex in s.

    Args:
      inputs: of the classifier, float [n, Z]: the kept layer's outputs, normalised as the head does.
      labels: int [n].
      of_source: P(y | z), [Z, C].

    Returns:
      `kernel` float32 [Z, C] and `bias` float32 [C], the logarithm of the class frequencies.
    """
    classes = of_source.shape[1]
    frequency = (np.bincount(labels, minlength=classes) + 1) / (len(labels) + classes)
    direction = (of_source - frequency).astype(np.float32)
    scores, bias = jnp.asarray(inputs, jnp.float32) @ direction, jnp.log(jnp.asarray(frequency, jnp.float32))
    # Measure the scale in units of the scores' standard deviation, so that the search starts near the minimum.
    unit = 1.0 / max(float(jnp.std(scores)), 1e-12)

    def loss(scale):
        return optax.softmax_cross_entropy_with_integer_labels(scale * unit * scores + bias, labels).mean()

    @jax.jit
    def newton(scale):
        slope, curve = jax.grad(loss)(scale), jax.grad(jax.grad(loss))(scale)
        return scale - jnp.clip(slope / jnp.maximum(curve, 1e-6), -2.0, 2.0)

    scale = jnp.float32(1.0)
    for _ in range(50):
        scale = newton(scale)
    return {"kernel": np.asarray(direction * float(scale) * unit, np.float32), "bias": np.asarray(bias, np.float32)}


def start_classifier(
    settings: HeadSettings, logits: np.ndarray, labels: np.ndarray, num_classes: int
) -> dict[str, np.ndarray]:
    """Return the initial target classifier of a kept head whose `classifier_init_from` is `leep`.

    Args:
      settings: of the head.
      logits: of the kept classification layer for the training examples, float [n, Z].
      labels: int [n].
      num_classes: of the target task.
    """
    of_source = conditional(np.asarray(jax.nn.softmax(logits)), labels, num_classes)
    return initial_classifier(normalised(settings, logits), labels, of_source)
