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
  assert lines[-1] == 'arg=c/seed0 failed: out of patience'
  assert not any(line.startswith('Over') for line in lines)  # a mean over settings says nothing


def test_folds_have_a_mean():
  lines = results.markdown(results.rows(DONE), ['val/accuracy', 'val/loss'], {}, folds=True).splitlines()
  assert 'Over the 2 folds, val/accuracy: 95.00 ± 4.24.' in lines
  assert 'Over the' not in results.markdown(results.rows(DONE[:2]), ['val/accuracy'], {}, folds=True)


def test_runs_without_held_out_data_are_compared_by_training():
  alone = {'metrics': {'train/loss': 2.0}, 'parameters': 3, 'examples_per_second': 1.0}
  (row,) = results.rows([({'arg': 'a'}, 0, alone)])
  assert row['train/loss'] == 2.0 and '| 2.00000 |' in results.markdown([row], ['train/loss'], {})


@pytest.mark.parametrize(
  'keys, expected',
  [
    (['model.patch'], 'patch=0'),
    (['model.patch', 'arg'], 'patch=0, arg=1'),
    (['model.name', 'sam.name', 'batch_size'], 'model.name=0, sam.name=1, batch_size=2'),
    ([], 'as it stands'),
  ],
)
def test_rows_are_named_by_key_and_value(keys, expected):
  row = {key: str(i) for i, key in enumerate(keys)} | {'seeds': 1, 'parameters': 2, 'examples/s': 1.0, 'val/loss': 1.0}
  assert results.names([row]) == [expected]


def test_csv_keeps_every_digit(tmp_path):
  results.write_csv(results.rows(DONE), tmp_path / 'table.csv')
  with (tmp_path / 'table.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  assert float(rows[0]['val/accuracy deviation']) == results.rows(DONE)[0]['val/accuracy deviation']


def test_the_figure_shows_errors(tmp_path, monkeypatch):
  drawn, panels = [], []
  real = axes_module.Axes.errorbar

  def errorbar(self, x, y, **options):
    drawn.append((list(x), list(y)))
    panels.append(self)
    return real(self, x, y, **options)

  monkeypatch.setattr(axes_module.Axes, 'errorbar', errorbar)
  results.draw(results.rows(DONE), 'val/accuracy', tmp_path / 'table.png')
  (errors, places), (parameters, again) = drawn
  assert errors == pytest.approx([8.0, 2.0]) and places == [0, 1]
  assert parameters == [1000, 2500] and again == errors
  assert [text.get_text() for text in panels[0].get_yticklabels()] == ['arg=a', 'arg=b']
  assert panels[0].get_xlabel() == 'val error (%)\nmean ± standard deviation, 1 to 2 seeds'
  with Image.open(tmp_path / 'table.png') as image:
    assert image.width > 500
