"""studies/rows/rows_threshold.py: its arithmetic against brute force and a known shift, a small run, a refusal."""

import csv
import importlib
from pathlib import Path

import numpy as np
import pytest
from scipy import special

import mixer_jax
from mixer_jax import config as configs
from mixer_jax.errors import MixerError
from mixer_jax.training import loop

ROOT = Path(mixer_jax.__file__).parents[1]


@pytest.fixture(scope='module')
def script():
  with pytest.MonkeyPatch.context() as patch:  # as for a script, whose own folder comes first
    patch.syspath_prepend(ROOT / 'studies' / 'rows')
    return importlib.import_module('rows_threshold')


def draw(share, size, seed):
  """Probabilities that are right where half of the examples are positive, of data with another share."""
  random = np.random.default_rng(seed)
  label = (random.random(size) < share).astype(int)
  x = random.normal(size=size) + np.where(label == 1, 1.0, -1.0)
  return special.expit(2 * x), label


@pytest.mark.parametrize('seed', range(5))
def test_the_best_threshold_is_that_of_brute_force(script, seed):
  probability, label = draw(0.3, 200, seed)
  probability = probability.round(2)  # with ties
  found = script.accuracy(probability, label, script.best_threshold(probability, label))
  every = [script.accuracy(probability, label, t) for t in np.linspace(-0.005, 1.005, 102)]
  assert found == pytest.approx(max(every))


def test_em_finds_the_share_of_positives(script):
  probability, _ = draw(0.2, 200_000, 0)
  moved = script.em(probability, 0.5)[0]
  assert moved.mean() == pytest.approx(0.2, abs=0.005)
  odds = probability / (1 - probability) * moved.mean() / (1 - moved.mean())
  np.testing.assert_allclose(moved, odds / (1 + odds), rtol=1e-4)


def test_em_leaves_the_right_prior_alone(script):
  probability, _ = draw(0.5, 200_000, 1)
  assert np.abs(script.em(probability, 0.5)[0] - probability).max() < 0.01


def train(folder, workdir, *arguments):
  small = ['--config.total=4 steps', '--config.batch_size=16', '--config.model.hidden=8', '--config.model.blocks=1']
  rare = [f'--config.{name}_every=0' for name in ('log', 'eval', 'checkpoint')]
  config = configs.load([f'--config={ROOT}/configs/csv.py:{folder}', *small, *rare, *arguments])
  loop.train_and_evaluate(config, workdir)


@pytest.fixture(scope='module')
def table(tmp_path_factory):
  folder, random = tmp_path_factory.mktemp('table'), np.random.default_rng(0)
  for split in ('train', 'val', 'test'):
    label = random.integers(0, 2, 60)
    rows = np.column_stack([random.normal(size=(60, 3)).round(4) + label[:, None], label])
    with (folder / f'{split}.csv').open('w', newline='') as file:
      csv.writer(file).writerows([['a', 'b', 'c', 'label'], *rows.tolist()])
  return folder


@pytest.mark.nightly
def test_a_finished_run(script, table, tmp_path, capsys):
  train(table, tmp_path / 'run')
  capsys.readouterr()
  script.main([str(tmp_path / 'run')])
  header, _, *lines = capsys.readouterr().out.splitlines()
  assert header == '| decision | val accuracy | test accuracy |'
  cells = {line.split(' | ')[0].strip('| '): line.strip(' |').split(' | ')[1:] for line in lines[:4]}
  one_half, chosen, em, best = cells.values()
  assert float(chosen[0]) >= float(one_half[0]) and float(best[-1]) >= max(float(c[1]) for c in (one_half, chosen, em))
  assert lines[-1].startswith('1 runs; threshold of val: 0.')


def test_a_run_without_val_is_refused(script, table, tmp_path):
  train(table, tmp_path / 'run', '--config.data.val=')
  with pytest.raises(MixerError, match="thresholds need two classes, a val and a test split, but it has 2 classes, ''"):
    script.main([str(tmp_path / 'run')])


def test_a_run_that_is_not_finished_is_refused(script, table, tmp_path):
  train(table, tmp_path / 'run')
  (tmp_path / 'run' / 'summary.json').unlink()
  with pytest.raises(MixerError, match='run is not a finished run: it has no summary.json; finish it'):
    script.main([str(tmp_path / 'run')])
