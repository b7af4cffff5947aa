"""A tabular Mixer on scikit-learn's bundled breast cancer data: 569 rows of 30 numbers, malignant or benign.

Source: Wolberg et al. 1995, UCI; one token per column (arXiv 2106.11959), Mixer blocks (arXiv 2105.01601).
Arguments: none holds out the last fifth of the rows; 1 to 5 hold out that fifth. For cross-validation:
  python -m mixer_jax.sweep --config=breast_cancer --over=arg=1,2,3,4,5 --workdir=runs/folds
Expected: docs/results/breast_cancer.md.
Hardware: 2 CPU cores, less than a minute.
Command: python -m mixer_jax.train --config=breast_cancer --workdir=runs/breast_cancer
"""

from ml_collections import ConfigDict


def get_config(arg=None):
  if arg not in (None, '1', '2', '3', '4', '5'):
    raise ValueError(f'breast_cancer.py takes a fold, 1 to 5, or nothing, not {arg!r}')
  last = 20 * int(arg or 5)
  rest = [f'train[:{last - 20}%]'] * (last > 20) + [f'train[{last}%:]'] * (last < 100)
  config = ConfigDict()
  config.total = '40 epochs'
  config.batch_size = 32
  config.eval_batch_size = 512
  config.ema = 0.99
  config.model = {'name': 'tabular', 'hidden': 32, 'blocks': 2, 'dropout': 0.1}
  config.model.update({'token_expansion': 1.0, 'channel_expansion': 2.0})
  config.task = {'name': 'binary'}
  config.data = {'name': 'breast_cancer', 'train': '+'.join(rest), 'test': f'train[{last - 20}%:{last}%]'}
  config.data.scaling = 'standard'
  config.optimizer = {'name': 'adamw', 'b2': 0.99, 'weight_decay': 0.05, 'clip': 1.0}
  config.schedule = {'name': 'cosine', 'peak': 2e-3, 'warmup': '2 epochs', 'floor': 1e-6}
  config.log_every = config.eval_every = '5 epochs'
  config.checkpoint_every = '10 epochs'
  return config
