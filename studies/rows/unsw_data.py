"""Data, models, scores and tables for unsw_shift.py."""

import dataclasses
import statistics

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.preprocessing import OneHotEncoder, QuantileTransformer

from mixer_jax.data.splits import split_base
from mixer_jax.data.tables import Table
from mixer_jax.data.tables import schema as schemas
from mixer_jax.data.tables import sets as table_sets

COUNTERS = (
  'ct_srv_src', 'ct_dst_ltm', 'ct_src_dport_ltm', 'ct_dst_sport_ltm', 'ct_dst_src_ltm', 'ct_src_ltm', 'ct_srv_dst'
)  # fmt: skip
SEQUENCE = ('stcpb', 'dtcpb')
GROUPS = {
  'counters (7 ct_)': COUNTERS,
  'volume': ('spkts', 'dpkts', 'sbytes', 'dbytes', 'sloss', 'dloss', 'smean', 'dmean'),
  'time': ('dur', 'rate', 'sload', 'dload', 'sinpkt', 'dinpkt', 'sjit', 'djit'),
  'ttl': ('sttl', 'dttl', 'ct_state_ttl'),
  'round trip': ('tcprtt', 'synack', 'ackdat'),
  'proto, service, state': ('proto', 'service', 'state'),
  'window': ('swin', 'dwin'),
  'sequence numbers': SEQUENCE,
  'http, ftp': ('trans_depth', 'response_body_len', 'is_ftp_login', 'ct_ftp_cmd', 'ct_flw_http_mthd',
                'is_sm_ips_ports'),
}  # fmt: skip
SCORES = ('accuracy', 'missed attacks', 'false alarms', 'AUC')
COMPARED = (*SCORES, 'rows right that A0 has wrong', 'wrong', 'z', 'best threshold in hindsight')


@dataclasses.dataclass(frozen=True)
class Data:
  """x, y: training features, float64 [rows, columns] with categories as integers, and labels; z, t: the test set's."""

  names: tuple[str, ...]
  words: dict[str, tuple[str, ...]]
  x: np.ndarray
  y: np.ndarray
  z: np.ndarray
  t: np.ndarray

  def at(self, *names: str) -> list[int]:
    return [self.names.index(name) for name in names]

  def but(self, *names: str) -> list[int]:
    return [i for i, name in enumerate(self.names) if name not in names]

  def strata(self, rows: np.ndarray) -> np.ndarray:
    """'tcp/-/FIN/254' for each row: proto, service, state, sttl."""
    text = [[('?', *self.words[name])[int(code)] for code in rows[:, self.at(name)[0]]] for name in self.words]
    return np.array(['/'.join(parts) + f'/{ttl:g}' for *parts, ttl in zip(*text, self.sttl(rows), strict=True)])

  def sttl(self, rows: np.ndarray) -> np.ndarray:
    return rows[:, self.at('sttl')[0]]


def read(config: dict, data_dir: str | None) -> Data:
  of = config['data']
  keys = {'label': of['label'], 'drop': of['drop'], 'categorical': of['categorical'], 'data_dir': data_dir}
  train, test = (table_sets.load(of['name'], split_base(of[split]), **keys) for split in ('train', 'test'))
  schema = schemas.fit(train, label=of['label'], dropped=of['drop'], categorical=of['categorical'], scaling='standard')

  def matrix(table: Table) -> np.ndarray:  # float64: in schema.arrays' float32, distinct rows can become equal
    codes = iter(schema.arrays(table)[0]['categories'].T)
    columns = [next(codes) if name in schema.categories else table.columns[name] for name in schema.columns]
    return np.stack(columns, axis=1).astype(np.float64)

  return Data(schema.columns, schema.categories, matrix(train), schema.labels(train), matrix(test), schema.labels(test))


def boosting(seed: int = 0, rounds: int = 100, **settings) -> HistGradientBoostingClassifier:
  return HistGradientBoostingClassifier(
    max_iter=rounds, learning_rate=0.1, max_leaf_nodes=31, early_stopping=False, random_state=seed, **settings
  )


def predict(model, rows: np.ndarray) -> np.ndarray:
  return model.predict_proba(rows)[:, 1]


def identity(rows: np.ndarray) -> np.ndarray:
  """An id for each row, equal for identical rows."""
  return np.unique(rows, axis=0, return_inverse=True)[1].ravel()


def distinct(rows: np.ndarray) -> np.ndarray:
  """The first index of each distinct row."""
  return np.sort(np.unique(rows, axis=0, return_index=True)[1])


def folds(rows: np.ndarray, label: np.ndarray, count: int, seed: int = 0, group: np.ndarray | None = None) -> list:
  if group is None:
    return list(StratifiedKFold(count, shuffle=True, random_state=seed).split(rows, label))
  return list(StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(rows, label, group))


def held_out(make, rows: np.ndarray, label: np.ndarray, parts: list) -> np.ndarray:
  """Out-of-fold probabilities."""
  result = np.zeros(len(rows))
  for learn, rest in parts:
    result[rest] = predict(make().fit(rows[learn], label[learn]), rows[rest])
  return result


def encode(data: Data, rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Features for linear models and distances: quantiles of `rows` in [-1, 1], one-hot categories, rare ones merged."""
  numbers, words = data.but(*data.words), data.at(*data.words)
  quantile = QuantileTransformer(n_quantiles=200, subsample=10**6, random_state=0).fit(rows[:, numbers])
  hot = OneHotEncoder(handle_unknown='ignore', sparse_output=False, min_frequency=20).fit(rows[:, words])
  return tuple(np.c_[2 * quantile.transform(r[:, numbers]) - 1, hot.transform(r[:, words])] for r in (rows, others))


def density_ratio(x: np.ndarray, z: np.ndarray, seed: int = 0) -> np.ndarray:
  """p(row | z) / p(row | x) for the rows of x, from a classifier that separates x and z."""
  both, file = np.concatenate([x, z]), np.repeat([0, 1], [len(x), len(z)])
  make = lambda: boosting(rounds=80, l2_regularization=5, min_samples_leaf=50)
  p = held_out(make, both, file, folds(both, file, 3, seed, identity(both)))[: len(x)]
  return p / (1 - p) * len(x) / len(z)


def log_odds(p):
  p = np.clip(p, 1e-6, 1 - 1e-6)
  return np.log(p / (1 - p))


def score(p: np.ndarray, label: np.ndarray, weight: np.ndarray | None = None) -> list[float]:
  """SCORES at the threshold 0.5."""
  weight = np.ones(len(p)) if weight is None else weight
  wrong = (p >= 0.5) != label
  rates = [1 - np.average(wrong, weights=weight)]
  rates += [np.average(wrong[label == c], weights=weight[label == c]) for c in (1, 0)]
  return [100 * rate for rate in rates] + [roc_auc_score(label, p, sample_weight=weight)]


def best_threshold(p: np.ndarray, label: np.ndarray, thresholds: np.ndarray) -> tuple[float, float]:
  """(accuracy, threshold) of the most accurate one; with test labels, this is hindsight."""
  return max((100 * float(((p >= t) == label).mean()), float(t)) for t in thresholds)


def show(*columns: str, rows: list) -> None:
  print(f'| {" | ".join(columns)} |\n|{"---|" * len(columns)}')
  for row in rows:
    print(f'| {" | ".join(map(str, row))} |', flush=True)
  print()


def spread(values: list[float]) -> str:
  return f'{statistics.fmean(values):.2f}' + (f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else '')
