"""Test accuracy of finished binary runs of a table under other decision rules than probability 0.5.

  python studies/rows/rows_threshold.py runs/unsw/as_it_stands/seed*

`threshold of val`: the most accurate threshold on the run's val split, the middle one of several. `EM`: the
probabilities adapted to the test rows' prior, estimated from their features without labels (Saerens et al. 2002,
"Adjusting the outputs of a classifier to new a priori probabilities"). `hindsight`: the best threshold on the test
rows, an upper bound that uses their labels. Prints a Markdown table: accuracy on val and test, mean and deviation over
the runs.
"""

import argparse

import numpy as np
from unsw_data import spread
from unsw_shift import em

from mixer_jax import cli
from mixer_jax.data import inputs as data_inputs
from mixer_jax.errors import MixerError
from mixer_jax.inference.classify import make_answers
from mixer_jax.training import restore
from mixer_jax.training.summary import check_finished


def score(run, split: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
  """Probabilities of the positive class, and labels."""
  arrays = run.experiment.data.source(split, data_dir).arrays
  inputs = {name: arrays[name] for name in run.experiment.data.inputs}
  probabilities = make_answers(run)(inputs, data_inputs.ROWS)['probabilities']
  return probabilities[:, 1].astype(np.float64), arrays['label']


def accuracy(probability: np.ndarray, label: np.ndarray, threshold: float = 0.5) -> float:
  return 100 * ((probability > threshold) == label).mean()


def best_threshold(probability: np.ndarray, label: np.ndarray) -> float:
  order = np.argsort(probability)
  values, label = probability[order], label[order]
  # A cut before row i predicts negative for the rows before it.
  right = np.concatenate([[0], np.cumsum(label == 0)]) + label.sum() - np.concatenate([[0], np.cumsum(label)])
  edges = np.concatenate([[0], (values[1:] + values[:-1]) / 2, [1]])
  possible = np.concatenate([[True], np.diff(values) > 0, [True]])
  best = np.flatnonzero(possible & (right == right[possible].max()))
  return float(edges[best[len(best) // 2]])


def main(arguments: list[str]) -> None:
  options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  options.add_argument('runs', nargs='+', help='run directories')
  options.add_argument('--data_dir')
  options.add_argument('--debug', action='store_true', help='show the traceback of an error')
  known = options.parse_args(arguments)
  table: dict[str, list[tuple[float, float]]] = {}
  numbers: dict[str, list[float]] = {'threshold of val': [], 'share of positives by EM (%)': []}
  for workdir in known.runs:
    check_finished(workdir)
    run = restore.restore(workdir)
    data = run.experiment.data
    if len(run.classes) != 2 or not (data.val and data.test):
      raise MixerError(
        f'{workdir}: thresholds need two classes, a val and a test split, but it has {len(run.classes)} classes,'
        f' {data.val!r} and {data.test!r}'
      )
    val, test = (score(run, split, known.data_dir) for split in (data.val, data.test))
    prior = data.schema.labels(data.table(data.train, known.data_dir)).mean()
    threshold, (moved, share) = best_threshold(*val), em(test[0], prior)
    numbers['threshold of val'].append(threshold)
    numbers['share of positives by EM (%)'].append(100 * share)
    for name, pair in {
      'one half': (accuracy(*val), accuracy(*test)),
      'threshold of val (on val: the rows that chose it)': (accuracy(*val, threshold), accuracy(*test, threshold)),
      'EM': (accuracy(em(val[0], prior)[0], val[1]), accuracy(moved, test[1])),
      'hindsight (uses test labels)': (float('nan'), accuracy(*test, best_threshold(*test))),
    }.items():
      table.setdefault(name, []).append(pair)
  print('| decision | val accuracy | test accuracy |\n|---|---|---|')
  for name, pairs in table.items():
    val, test = zip(*pairs, strict=True)
    print(f'| {name} | {"" if np.isnan(val[0]) else spread(val)} | {spread(test)} |')
  print(f'\n{len(known.runs)} runs; ' + '; '.join(f'{name}: {spread(values)}' for name, values in numbers.items()))


if __name__ == '__main__':
  cli.run(main)
