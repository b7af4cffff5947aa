"""A Mixer on your own table: a CSV file of numbers and categories, one column of which is the label.

Source: a token for every column, as configs/unsw_nb15.py (arXiv 2106.11959, 2105.01601), for any number of columns.
Arguments: the file, of which a random fifth is held out, never a copy of a training row; or a folder with train.csv
  and, as far as there are, val.csv (which chooses the best checkpoint) and test.csv. The label is the column `label`;
  `:PATH:COLUMN` names another.
  The label's values in the training file are counted here. Two make a binary task, whose positive class is the last in
  order (1 of 0 and 1, `normal` of `attack` and `normal`), more make a classification. --config.data.label=COLUMN names
  another column too, but counts nothing anew: for other than two classes also set --config.data.classes=N and
  --config.task="{'name': 'classification', 'loss': 'softmax', 'label_smoothing': 0.0, 'report':
  True}".
  --config.data.drop=COLUMN leaves a column out, --config.data.categorical=COLUMN makes categories of numbers; for
  several give it again or write "('a', 'b')", all of the categorical ones then. What is made of the columns is printed
  when training starts; look at it.
Expected: depends on the table. The 569 rows of configs/breast_cancer.py as a CSV file: 96.5, 99.1 and 97.4% of the 114
  held-out rows with the seeds 0 to 2. For so few, --config.model.bins=0 may do better.
Hardware: 2 CPU cores; a minute for these, ten for 20,000 rows of 42 columns.
Data: UTF-8, commas, the columns' names in the first line, blank lines at the end only. An empty cell among numbers is
  missing and becomes the column's median; among categories it is a category of its own where a training row has one,
  else unknown, as is any other that no training row has. Missing and unknown cells are counted.
Command: python -m mixer_jax.train --config=configs/csv.py:PATH --workdir=runs/mine
"""

from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from mixer_jax.data.tables import csv
from mixer_jax.data.tables import sets as table_sets

# What a table of thousands of columns has less of: training on 320 rows of 10,000 takes 2.4 GiB on a CPU at most, and
# 6.3 with the batch of 64; a token MLP as wide as the columns are many would have hundreds of millions of parameters.
TOKEN_MLP = 256
MANY, BATCH_OF_MANY = 1000, 16


def get_config(arg=None):
  path, label = Path(arg or '.').expanduser(), 'label'
  if not path.exists() and ':' in str(arg):
    path, label = Path(arg.rpartition(':')[0]).expanduser(), arg.rpartition(':')[2]
  train = path / 'train.csv' if path.is_dir() else path
  if not train.is_file():
    raise ValueError(f'{train} is no file; use --config=configs/csv.py:PATH with a CSV file or a folder with train.csv')
  val, test = (name if (path / f'{name}.csv').is_file() else '' for name in ('val', 'test'))
  split, test = ('train', test) if val or test else ('train[:80%]', 'train[80%:]')
  columns = len(csv.read_header(train))
  classes = max(2, table_sets.count_classes(train, label) or 2)
  config = ConfigDict()
  config.seed = 0
  config.total = '40 epochs'
  config.batch_size = 64 if columns <= MANY else BATCH_OF_MANY
  config.eval_batch_size = 4 * config.batch_size
  config.accumulate = 1
  config.ema = 0.99
  config.model = {
    'name': 'tabular', 'tokens': 'columns', 'patch': 1, 'bins': 16, 'hidden': 32, 'blocks': 2,
    'token_expansion': min(1.0, TOKEN_MLP / columns), 'channel_expansion': 2.0, 'activation': 'gelu', 'dropout': 0.1,
    'stochastic_depth': 0.0, 'pool': 'mean', 'init': 'torch',
  }  # fmt: skip
  if classes == 2:
    config.task = {'name': 'binary', 'positive_weight': 1.0}
  else:
    config.task = {'name': 'classification', 'loss': 'softmax', 'label_smoothing': 0.0, 'report': True}
  config.data = {
    'name': f'csv:{path}', 'train': split, 'val': val, 'test': test, 'label': label, 'drop': (),
    'categorical': placeholder(tuple), 'scaling': 'quantile', 'column_order': 0, 'classes': classes,
    'resident_mib': 2048.0, 'workers': 0,
  }  # fmt: skip
  config.augment = {}
  config.augment_until = '100%'
  config.optimizer = {'name': 'adamw', 'b1': 0.9, 'b2': 0.99, 'eps': 1e-8, 'weight_decay': 0.05, 'clip': 1.0}
  config.schedule = {'name': 'cosine', 'peak': 2e-3, 'warmup': '5%', 'floor': 1e-6}
  config.init_from = {'weights': '', 'checkpoint': 'last', 'head': 'keep', 'tokens': 'keep', 'stem': 'keep'}
  config.sam = {}
  config.update_noise = {}
  config.layers = {}
  config.mesh = {'data': -1, 'fsdp': 1}
  config.watch = {}
  config.log_every = '2 epochs'
  config.eval_every = '5 epochs'
  config.checkpoint_every = '10 epochs'
  return config
