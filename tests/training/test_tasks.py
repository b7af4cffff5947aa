"""The classification task against torch-like formulas in NumPy and scikit-learn's top-5."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from mixer_jax.errors import MixerError
from mixer_jax.training import tasks

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(64, 8)) * 3
LABEL = RANDOM.integers(0, 8, 64)


def scores(label=LABEL, *, training=False, **settings):
  settings = {'loss': 'softmax', 'label_smoothing': 0.0} | settings
  batch = {'label': jnp.asarray(label)}
  result = tasks.classification(classes=8, **settings)(jnp.asarray(LOGITS, jnp.float32), batch, training=training)
  return {name: np.asarray(value) for name, value in result.items()}


def log_softmax(x):
  return x - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)) - x.max(1, keepdims=True)


def test_softmax_cross_entropy():
  np.testing.assert_allclose(scores()['loss'], -log_softmax(LOGITS)[np.arange(64), LABEL], rtol=1e-5)


def test_sigmoid_cross_entropy_sums_over_the_classes():
  p, y = 1 / (1 + np.exp(-LOGITS)), np.eye(8)[LABEL]
  expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(1)
  np.testing.assert_allclose(scores(loss='sigmoid')['loss'], expected, rtol=1e-5)


def test_label_smoothing_counts_in_training_only():
  smoothed = np.eye(8)[LABEL] * 0.8 + 0.2 / 8
  expected = -(smoothed * log_softmax(LOGITS)).sum(1)
  np.testing.assert_allclose(scores(label_smoothing=0.2, training=True)['loss'], expected, rtol=1e-5)
  np.testing.assert_array_equal(scores(label_smoothing=0.2)['loss'], scores()['loss'])


def test_accuracy_and_top5_are_scikit_learns():
  result = scores()
  assert result['accuracy'].mean() == pytest.approx(metrics.accuracy_score(LABEL, LOGITS.argmax(1)))
  top5 = metrics.top_k_accuracy_score(LABEL, LOGITS, k=5, labels=np.arange(8))
  assert result['top5'].mean() == pytest.approx(top5)
  assert 0.3 < top5 < 0.95


def test_labels_may_be_distributions():
  mixed = 0.7 * np.eye(8)[LABEL] + 0.3 * np.eye(8)[np.roll(LABEL, 1)]
  result = scores(mixed.astype(np.float32))
  np.testing.assert_allclose(result['loss'], -(mixed * log_softmax(LOGITS)).sum(1), rtol=1e-5)
  np.testing.assert_array_equal(result['accuracy'], scores()['accuracy'])


def test_five_classes_have_no_top5():
  settings = {'loss': 'softmax', 'label_smoothing': 0.0, 'classes': 5}
  result = tasks.classification(**settings)(jnp.asarray(LOGITS[:, :5]), {'label': jnp.asarray(LABEL % 5)})
  assert set(result) == {'loss', 'accuracy'}


def test_refusals():
  with pytest.raises(MixerError, match="unknown task.loss 'hinge'"):
    scores(loss='hinge')
  with pytest.raises(MixerError, match='label_smoothing is 1'):
    scores(label_smoothing=1.0)
