"""scikit-learn classifiers on the table of a config, with the same rows as our runs.

  python studies/rows/rows.py --config=configs/unsw_nb15.py --seeds=10

They train on the config's training split and are scored on its val and test splits. Columns use `log` scaling;
categories are integers for the trees, one-hot for the others. Settings are fixed, not tuned. Prints a Markdown table of
means and deviations over the seeds.
"""

import argparse
import time

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from unsw_data import predict, spread

from mixer_jax import config as configs
from mixer_jax.tasks.binary import binary_report
from mixer_jax.training import experiment as experiments

METRICS = ('accuracy', 'precision', 'recall', 'macro_f1', 'roc_auc')
TREES, LINEAR = 'trees', 'linear'
MODELS = {
  'histogram gradient boosting, 300 rounds': (TREES, lambda s: HistGradientBoostingClassifier(
    max_iter=300, max_features=0.8, early_stopping=False, random_state=s)),
  'random forest, 300 trees': (TREES, lambda s: RandomForestClassifier(300, n_jobs=-1, random_state=s)),
  'logistic regression': (LINEAR, lambda s: LogisticRegression(max_iter=2000, random_state=s)),
  'MLP 128-64, early stopping': (LINEAR, lambda s: MLPClassifier(
    (128, 64), early_stopping=True, max_iter=200, random_state=s)),
}  # fmt: skip


def read(config: dict, data_dir: str | None) -> dict[str, tuple[dict[str, np.ndarray], np.ndarray]]:
  """split -> (inputs for each kind of model, labels)."""
  config = config | {'data': config['data'] | {'scaling': 'log'}}
  data = experiments.build(config, data_dir=data_dir).data
  numbers = [i for i, name in enumerate(data.schema.columns) if name not in data.schema.categories]
  result = {}
  for split in ('train', 'val', 'test'):
    if not getattr(data, split):
      continue
    arrays = data.source(getattr(data, split), data_dir).arrays
    hot = [
      np.eye(len(values) + 1)[arrays['categories'][:, i]] for i, values in enumerate(data.schema.categories.values())
    ]
    inputs = {TREES: arrays['features'], LINEAR: np.concatenate([arrays['features'][:, numbers], *hot], axis=1)}
    result[split] = inputs, arrays['label']
  return result


def score(model, inputs: np.ndarray, label: np.ndarray) -> dict[str, float]:
  probability = predict(model, inputs)
  return {'accuracy': float(((probability > 0.5) == label).mean())} | binary_report(probability, label)


def main() -> None:
  options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  options.add_argument('--seeds', type=int, default=10)
  options.add_argument('--data_dir')
  known, rest = options.parse_known_args()
  splits = read(configs.load(rest), known.data_dir)
  (inputs, label), held_out = splits.pop('train'), splits
  columns = [f'{split} {metric}' for split in held_out for metric in METRICS]
  print(f'| model | {" | ".join(columns)} | seconds |\n|{"---|" * (len(columns) + 2)}')
  for name, (kind, make) in MODELS.items():
    scores: dict[str, list[float]] = {column: [] for column in columns}
    began = time.monotonic()
    for seed in range(known.seeds):
      model = make(seed).fit(inputs[kind], label)
      for split, (others, truth) in held_out.items():
        of_split = score(model, others[kind], truth)
        for metric in METRICS:
          scores[f'{split} {metric}'].append(100 * of_split[metric])
    seconds = (time.monotonic() - began) / known.seeds
    print(f'| {name} | {" | ".join(map(spread, scores.values()))} | {seconds:.1f} |', flush=True)


if __name__ == '__main__':
  main()
