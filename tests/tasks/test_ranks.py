"""Reports where probabilities saturate: logits from 37 on have the probability 1.0, and are ranked all the same."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from mixer_jax.tasks.binary import Binary
from mixer_jax.tasks.classification import Classification, log_odds

LOGITS = np.random.default_rng(0).normal(size=(64, 8)) * 3


def binary():
  return Binary(classes=2)


def test_sure_logits_are_ranked_all_the_same():
  logits, label = np.array([[50.0], [40.0], [45.0], [-3.0]]), np.array([1, 0, 1, 0])
  numbers = binary().report.numbers(logits, label)
  assert numbers['roc_auc'] == numbers['average_precision'] == 1.0
  # Class 0 is the surer the farther it is above the others; its probabilities are all 1.0.
  several = np.stack([logits[:, 0], np.zeros(4), np.full(4, -1.0)], axis=1)
  classes = np.where(label == 1, 0, [1, 1, 2, 2])
  numbers = Classification(loss='softmax', label_smoothing=0.0, classes=3, report=True).report.numbers(several, classes)
  ranked = [metrics.roc_auc_score(classes == 0, logits[:, 0])]
  odds = lambda k: several[:, k] - np.log(np.exp(np.delete(several, k, axis=1)).sum(axis=1))
  ranked += [metrics.roc_auc_score(classes == k, odds(k)) for k in (1, 2)]
  assert ranked[0] == 1 and numbers['macro_roc_auc'] == pytest.approx(np.mean(ranked))


def test_log_odds_are_those_of_the_softmax():
  share = special.softmax(LOGITS, axis=-1)
  np.testing.assert_allclose(log_odds(LOGITS), np.log(share / (1 - share)), rtol=1e-9)
  np.testing.assert_allclose(log_odds(np.array([[800.0, 0.0, 0.0]])), [[800 - np.log(2), -800, -800]], rtol=1e-12)


def test_report_and_accuracy_decide_at_the_same_point():
  logits = np.array([[1e-20], [-1e-20], [0.0]], np.float32)  # their probabilities are one half
  accuracy = binary().scores(jnp.asarray(logits), {'label': jnp.ones(3, int)})['accuracy']
  assert accuracy.tolist() == binary().report.predicted(logits).tolist() == [1, 0, 0]
  assert binary().report.numbers(logits, np.array([1, 0, 0]))['f1'] == 1


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('present', [(0,), (1,), (0, 1), (2,), (0, 2), (3, 1, 0), (0, 1, 2, 3)])
def test_no_metric_is_undefined_whatever_classes_a_split_lacks(present):
  """What would be undefined is not there, and what is there is finite."""
  rng = np.random.default_rng(sum(present))
  label, logits = np.array(present)[rng.integers(len(present), size=24)], rng.normal(size=(24, 4))
  label[: len(present)] = present
  several = Classification(classes=4, report=True).report.numbers(logits, label)
  two = binary().report.numbers(logits[:, :1], label) if max(present) < 2 else {}
  assert all(np.isfinite(value) and 0 <= value <= 1 for value in [*several.values(), *two.values()])
  assert ('macro_roc_auc' in several) == ('macro_average_precision' in several) == (len(present) > 1)
  assert two == {} or ('roc_auc' in two) == ('average_precision' in two) == (len(present) == 2)
  if len(present) > 1:
    odds = log_odds(logits)
    expected = [metrics.roc_auc_score(label == k, odds[:, k]) for k in present]
    assert several['macro_roc_auc'] == pytest.approx(np.mean(expected))
