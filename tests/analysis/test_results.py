"""Tables of many runs, by hand; the figure shows every row."""

import csv

import numpy as np
import pytest
from matplotlib import axes as axes_module
from PIL import Image

from mixer_jax.analysis import results


def summary(accuracy, loss, parameters=1000, rate=50.0):
  metrics = {'train/loss': 9.0, 'val/accuracy': accuracy, 'val/loss': loss}
  return {'metrics': metrics, 'parameters': parameters, 'examples_per_second': rate}


DONE = [
  ({'arg': 'a'}, 0, summary(0.90, 0.3)),
  ({'arg': 'a'}, 1, summary(0.94, 0.1, rate=70.0)),
  ({'arg': 'b'}, 0, summary(0.98, 0.2, 2500)),
]


def test_rows_by_hand():
  first, second = results.rows(DONE)
  assert first['arg'] == 'a' and first['seeds'] == 2 and first['parameters'] == 1000 and first['examples/s'] == 60
  assert first['val/accuracy'] == pytest.approx(0.92)
  assert first['val/accuracy deviation'] == pytest.approx(0.04 / np.sqrt(2))
  assert first['val/loss'] == pytest.approx(0.2)
  assert second['val/accuracy'] == 0.98 and np.isnan(second['val/accuracy deviation'])
  assert not any(name.startswith('train') for name in first)


def test_markdown():
  text = results.markdown(results.rows(DONE), ['val/accuracy', 'val/loss'], {'arg=c/seed0': 'out of patience'})
  lines = text.splitlines()
  assert lines[0] == '| arg | parameters | seeds | examples/s | val/accuracy | val/loss |'
  assert lines[2] == '| a | 1,000 | 2 | 60 | 92.00 ± 2.83 | 0.20000 ± 0.14142 |'
  assert lines[3] == '| b | 2,500 | 1 | 50 | 98.00 | 0.20000 |'
  assert 'Over the rows of the table, val/accuracy: 95.00 ± 4.24.' in lines
  assert lines[-1] == 'arg=c/seed0 failed: out of patience'


def test_csv_keeps_every_digit(tmp_path):
  results.write_csv(results.rows(DONE), tmp_path / 'table.csv')
  with (tmp_path / 'table.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  assert float(rows[0]['val/accuracy deviation']) == results.rows(DONE)[0]['val/accuracy deviation']


def test_the_figure_shows_errors(tmp_path, monkeypatch):
  drawn = []
  real = axes_module.Axes.errorbar

  def errorbar(self, x, y, **options):
    drawn.append((list(x), list(y)))
    return real(self, x, y, **options)

  monkeypatch.setattr(axes_module.Axes, 'errorbar', errorbar)
  results.draw(results.rows(DONE), 'val/accuracy', tmp_path / 'table.png')
  (errors, places), (parameters, again) = drawn
  assert errors == pytest.approx([8.0, 2.0]) and places == [0, 1]
  assert parameters == [1000, 2500] and again == errors
  with Image.open(tmp_path / 'table.png') as image:
    assert image.width > 500
