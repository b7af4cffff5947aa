"""A Mixer on your own table: a CSV file of numbers and categories, one column of which is the label.

Source: one token per column, as in configs/unsw_nb15.py (arXiv 2106.11959, 2105.01601), for any number of columns.
Arguments: a file, of which a tenth is held out as val and a fifth as test; or a folder with train.csv and, optionally,
  val.csv and test.csv (without val.csv a tenth of train.csv is held out). Held-out parts have every class in
  proportion and no copies of training rows; the best checkpoint is chosen on val, never on test. Files may be .csv.gz.
  The label is the column `label`; `:PATH:COLUMN` selects another.
  This config counts the label's values in the training file. Two values make a binary task, whose positive class is the
  last in sorted order (1 of 0 and 1, `normal` of `attack` and `normal`); more make a classification task.
  --config.data.label=COLUMN also selects a column, but does not count its values: for more than two classes also
  set --config.task.name=classification --config.task.report=True.
  --config.data.drop=COLUMN drops a column; --config.data.categorical=COLUMN treats numbers as categories and must then
  name all categorical columns. For several columns repeat the flag or write "('a', 'b')". Training starts by printing
  how it reads the columns: check it.
Expected: depends on the table. For the 569 rows of configs/breast_cancer.py as a CSV file, 99.1, 99.1 and 100% of
  the 114 test rows with seeds 0 to 2, at the last step. With so few rows, --config.model.bins=0 may do better.
Hardware: 2 CPU cores; one minute for that table, ten for 20,000 rows of 42 columns.
Data: UTF-8, or UTF-16 with its mark; commas, column names in the first line, blank lines only at the end. Empty
  numeric cells become the median of their column. Empty categorical cells are their own category if a training row
  has one, else unknown, like any value not in the training rows. Missing and unknown cells are counted and reported.
Command: python -m mixer_jax.train --config=csv:PATH --workdir=runs/mine
"""

from pathlib import Path

from ml_collections import ConfigDict

from mixer_jax.data.tables import csv
from mixer_jax.data.tables import sets as table_sets

# With thousands of columns: training on 320 rows of 10,000 takes 2.4 GiB on a CPU with the smaller batch, 6.3
# with a batch of 64; a token MLP as wide as the row would have hundreds of millions of parameters.
MANY, BATCH_OF_MANY, TOKEN_MLP = 1000, 16, 256


def get_config(arg=None):
  path, label = Path(arg or '.').expanduser(), 'label'
  if not path.exists() and ':' in str(arg):
    path, label = Path(arg.rpartition(':')[0]).expanduser(), arg.rpartition(':')[2]
  train = table_sets.own_file(path)
  if not train:
    raise ValueError(f'{path} is not a file, nor a folder with train.csv; use --config=csv:PATH[:COLUMN]')
  columns = len(csv.read_header(train))
  classes = table_sets.count_classes(train, label)
  config = ConfigDict()
  config.total = '40 epochs'
  config.batch_size = 64 if columns <= MANY else BATCH_OF_MANY
  config.eval_batch_size = 4 * config.batch_size
  config.ema = 0.99
  config.model = {'name': 'tabular', 'bins': 16, 'hidden': 32, 'blocks': 2, 'dropout': 0.1, 'channel_expansion': 2.0}
  config.model.token_expansion = min(1.0, TOKEN_MLP / columns)
  config.task = {'name': 'binary'} if classes < 3 else {'name': 'classification', 'report': True}
  config.data = {'name': f'csv:{path}', 'label': label, 'stratified': True, **table_sets.own_splits(path)}
  config.optimizer = {'name': 'adamw', 'b2': 0.99, 'weight_decay': 0.05, 'clip': 1.0}
  config.schedule = {'name': 'cosine', 'peak': 2e-3, 'warmup': '5%', 'floor': 1e-6}
  config.log_every = '2 epochs'
  config.eval_every = '5 epochs'
  config.checkpoint_every = '10 epochs'
  return config
