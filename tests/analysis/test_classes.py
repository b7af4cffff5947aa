"""Figures of a classifier: what is written into them is what scikit-learn counts."""

import numpy as np
import pytest
from matplotlib import axes as axes_module
from PIL import Image
from sklearn import metrics

from mixer_jax.analysis import classes

RANDOM = np.random.default_rng(0)
LABEL = RANDOM.integers(0, 3, 100)
PREDICTED = np.where(RANDOM.random(100) < 0.7, LABEL, RANDOM.integers(0, 3, 100))


@pytest.fixture
def written(monkeypatch):
  """The texts and curves that are drawn."""
  texts, curves = [], []
  text, plot = axes_module.Axes.text, axes_module.Axes.plot
  monkeypatch.setattr(
    axes_module.Axes, 'text', lambda s, x, y, t, **o: texts.append((x, y, t)) or text(s, x, y, t, **o)
  )
  monkeypatch.setattr(
    axes_module.Axes, 'plot', lambda s, x, y, *a, **o: curves.append((x, y)) or plot(s, x, y, *a, **o)
  )
  return texts, curves


def test_confusion_is_scikit_learns(tmp_path, written):
  classes.draw_confusion(LABEL, PREDICTED, ['cat', 'dog', 'owl'], tmp_path / 'confusion.png')
  expected = metrics.confusion_matrix(LABEL, PREDICTED)
  assert {(x, y): t for x, y, t in written[0]} == {(j, i): f'{expected[i, j]:,}' for i, j in np.ndindex(3, 3)}
  assert np.asarray(Image.open(tmp_path / 'confusion.png').convert('L')).std() > 10


def test_a_class_that_is_never_met_has_its_row():
  np.testing.assert_array_equal(
    classes.confusion(np.array([0, 1]), np.array([1, 1]), 3), [[0, 1, 0], [0, 1, 0], [0] * 3]
  )


def test_many_classes(tmp_path, written):
  label = RANDOM.integers(0, 100, 500)
  classes.draw_confusion(label, label, [str(i) for i in range(100)], tmp_path / 'confusion.png')
  assert written[0] == []


def test_thresholds_are_scikit_learns(tmp_path, written):
  label = RANDOM.integers(0, 2, 80)
  probability = np.clip(label * 0.3 + RANDOM.random(80) * 0.7, 0, 1)
  classes.draw_thresholds(label, probability, tmp_path / 'thresholds.png')
  false_alarms, hits, _ = metrics.roc_curve(label, probability)
  precision, recall, _ = metrics.precision_recall_curve(label, probability)
  drawn = written[1]
  np.testing.assert_array_equal(drawn[0], (false_alarms, hits))
  assert any(len(x) == len(recall) and np.array_equal(y, precision) for x, y in drawn if np.ndim(x))
  halves = [(x, y) for x, y in drawn if not np.ndim(x)]
  recalled = metrics.recall_score(label, probability > 0.5)
  assert [y for _, y in halves] == pytest.approx([recalled, metrics.precision_score(label, probability > 0.5)])
  assert [x for x, _ in halves] == pytest.approx(
    [1 - metrics.recall_score(label, probability > 0.5, pos_label=0), recalled]
  )


def test_one_class_alone(tmp_path, written):
  """A split that lacks all classes but one is drawn as any other."""
  label, predicted = np.ones(30, int), np.arange(30) % 2
  classes.draw_confusion(label, predicted, ['no', 'yes'], tmp_path / 'confusion.png')
  assert {(x, y): t for x, y, t in written[0]} == {(0, 0): '0', (1, 0): '0', (0, 1): '15', (1, 1): '15'}


def test_names_are_no_formulas_and_have_room(tmp_path):
  """Each of these names stops matplotlib if it is read as a formula, or leaves no room for the matrix."""
  names = ['$x^$', 'a_{$', 'y' * 500, 'two\nlines']
  plain = ['x', 'a', 'y', 'two lines']
  label = np.arange(20) % 4
  for path, of in ((tmp_path / 'odd.png', names), (tmp_path / 'plain.png', plain)):
    classes.draw_confusion(label, label, of, path)
  dark = [(np.asarray(Image.open(tmp_path / f'{name}.png').convert('L')) < 40).mean() for name in ('odd', 'plain')]
  assert dark[0] > 0.5 * dark[1] > 0.01
