"""Why classifiers of the UNSW-NB15 coursework files reach 97% in cross-validation but 90% on the test rows.

  python studies/rows/unsw_shift.py --parts=gap,files,strata,ceiling,methods,hindsight --seeds=5

Prints Markdown tables; rates are percentages. Files and columns are those of configs/unsw_nb15.py, whose keys can be
overridden (--config.data.drop=...), in --data_dir or MIXER_DATA_DIR. All rows of the training file are training rows.
"Boosting" is scikit-learn's HistGradientBoostingClassifier: rate 0.1, 31 leaves, 100 rounds (80 to separate the files
and to learn from 3,200 rows or fewer). "Identical" rows are equal in all but id and label. Parts:
  gap        the cost of each step from cross-validation to the test rows;
  files      which columns separate the two files, regardless of the label;
  strata     where the share of attacks differs between the files, where the errors are, and the labels of identical
             and nearest rows;
  ceiling    accuracy within the test file, with both files mixed, and within the training rows;
  methods    accuracy of methods that learn from the training rows only (A) or also see the test rows' features (B);
  hindsight  boosting with columns that were chosen by test labels, and its cost on training rows.

Test labels: `files` needs none. `methods` scores with them, its last column needs them, and they suggested the method
with a star. They chose the columns of `hindsight`. `gap`, `strata` and `ceiling` use them to explain: no number there
is a method's result. In the tables, "score" means that predictions are scored with test labels, "use" that weights,
thresholds or learning need them.

Settings are fixed, not tuned. More methods were tried than are kept, and which to keep was decided after scoring them.
`gap`, `files` and `strata` use seed 0, the others --seeds seeds. On a busy machine set OMP_NUM_THREADS=1: threads that
wait for each other are many times slower than one thread.
"""

import argparse
import collections
import statistics
import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer
from unsw_data import (
  COMPARED,
  COUNTERS,
  GROUPS,
  SCORES,
  SEQUENCE,
  Data,
  best_threshold,
  boosting,
  density_ratio,
  distinct,
  encode,
  folds,
  held_out,
  identity,
  log_odds,
  predict,
  read,
  score,
  show,
  spread,
)

from mixer_jax import config as configs


def gap(data: Data, _seeds: int) -> None:
  x, y, z, t = data.x, data.y, data.z, data.t
  apart = held_out(boosting, x, y, folds(x, y, 5, group=identity(x)))
  on_test = predict(boosting().fit(x, y), z)
  prior = np.where(y == 1, t.mean() / y.mean(), (1 - t.mean()) / (1 - y.mean()))
  by_class = prior.copy()
  for c in (0, 1):
    by_class[y == c] *= density_ratio(x[y == c], z[t == c])
  moved = lambda by: 1 / (1 + np.exp(-log_odds(on_test) - by))
  move = log_odds(t.mean()) - log_odds(y.mean())
  threshold = best_threshold(on_test, t, np.linspace(0.02, 0.98, 97))[1]
  rows = []
  for what, labels, p, label, weight in (
    ('1 training rows, 5-fold cross-validation', '', held_out(boosting, x, y, folds(x, y, 5)), y, np.ones(len(y))),
    ('2 identical rows in one fold', '', apart, y, np.ones(len(y))),
    ("3 as 2, weighted to the test file's share of attacks", 'use', apart, y, prior),
    ('4 as 2, weighted by adversarial ratio: p(x)', '', apart, y, density_ratio(x, z)),
    ('5 as 3, and by adversarial ratio within each class: p(x given y) p(y)', 'use', apart, y, by_class),
    ('6 test rows', 'score', on_test, t, np.ones(len(t))),
    (f'7 as 6, log-odds moved by {move:.2f}, the true change of the prior', 'use', moved(move), t, np.ones(len(t))),
    (f'8 as 6, the best threshold ({threshold:.2f})', 'use', moved(-log_odds(threshold)), t, np.ones(len(t))),
  ):
    *rates, auc = score(p, label, weight)
    effective = weight.sum() ** 2 / (weight**2).sum()
    rows.append([what, labels, *(f'{rate:.2f}' for rate in rates), f'{auc:.3f}', f'{effective:.0f}'])
  show('boosting', 'test labels', *SCORES, 'effective rows', rows=rows)


def files(data: Data, _seeds: int) -> None:
  x, z = data.x[distinct(data.x)], data.z[distinct(data.z)]
  both, file = np.concatenate([x, z]), np.repeat([0, 1], [len(x), len(z)])
  make, parts = lambda: boosting(rounds=80), folds(both, file, 3, group=identity(both))
  p, permuted = np.zeros(len(both)), {name: np.zeros(len(both)) for name in GROUPS}
  for learn, rest in parts:
    model = make().fit(both[learn], file[learn])
    p[rest] = predict(model, both[rest])
    for name, columns in GROUPS.items():
      mixed, order = both[rest], np.random.default_rng(0).permutation(len(rest))
      mixed[:, data.at(*columns)] = mixed[order][:, data.at(*columns)]
      permuted[name][rest] = predict(model, mixed)
  auc = lambda file, p: f'{roc_auc_score(file, p):.3f}'
  random = (np.random.RandomState(0).rand(len(x)) < 0.2).astype(int)
  of_random = held_out(make, x, random, folds(x, random, 3))
  rows = [
    ('the files', len(x), len(z), auc(file, p)),
    ('control: the training file, cut at random', *np.bincount(random), auc(random, of_random)),
  ]
  for value in (31, 62, 254):
    some = data.sttl(both) == value
    p = held_out(make, both[some], file[some], folds(both[some], file[some], 3, group=identity(both[some])))
    rows.append((f'the files, only sttl {value}', *np.bincount(file[some]), auc(file[some], p)))
  show('told apart (distinct rows)', 'training rows', 'test rows', 'AUC', rows=rows)
  alone = {name: held_out(make, both[:, data.at(*columns)], file, parts) for name, columns in GROUPS.items()}
  without = {name: held_out(make, both[:, data.but(*columns)], file, parts) for name, columns in GROUPS.items()}
  rows = [(name, *(auc(file, kind[name]) for kind in (alone, without, permuted))) for name in GROUPS]
  show('columns', 'AUC alone', 'AUC without them', 'AUC with them permuted', rows=rows)


def strata(data: Data, _seeds: int) -> None:
  x, y, z, t = data.x, data.y, data.z, data.t
  wrong = (predict(boosting().fit(x, y), z) >= 0.5) != t
  stratum, of_test = data.strata(x), data.strata(z)
  names = [s for s, n in collections.Counter(stratum).most_common() if n >= 0.01 * len(x)]
  places = [(name, stratum == name, of_test == name) for name in names]
  places.append(('all others', ~np.isin(stratum, names), ~np.isin(of_test, names)))
  places += [(f'all with sttl {v}', data.sttl(x) == v, data.sttl(z) == v) for v in (31, 62, 254)]
  rows = [
    (name, a.sum(), b.sum(), f'{100 * y[a].mean():.1f}', f'{100 * t[b].mean():.1f}', wrong[b].sum(),
     wrong[b & (t == 1)].sum())
    for name, a, b in places
  ]  # fmt: skip
  columns = ('training rows', 'test rows', 'attacks, training', 'attacks, test', 'errors on test', 'missed attacks')
  show('proto/service/state/sttl', *columns, rows=rows)
  rows = []
  for what, columns in (('every column', data.but()), ('every column but the counters', data.but(*COUNTERS))):
    counts = collections.defaultdict(lambda: [0, 0])  # normal and attack training rows with these values
    for row, c in zip(map(tuple, x[:, columns]), y, strict=True):
      counts[row][c] += 1
    test = np.array([counts.get(tuple(row), (0, 0)) for row in z[:, columns]])
    for c, kind in enumerate(('normal', 'attacks')):
      keep = (test[:, c] > 0) & (test[:, 1 - c] == 0)
      rows.append((what, kind, keep.sum(), f'{100 * t[keep].mean():.1f}'))
  show('equal to training rows in', 'which are all', 'test rows', 'attacks among them', rows=rows)
  own, others = distinct(x), distinct(z)
  encoded, rows = encode(data, x[own], z[others]), []
  numbers = [data.names[i] for i in data.but(*data.words)]
  for what, left_out in (('sequence numbers', SEQUENCE), ('sequence numbers and counters', (*SEQUENCE, *COUNTERS))):
    of_train, of_test = (np.delete(part, [numbers.index(name) for name in left_out], axis=1) for part in encoded)
    near = NearestNeighbors().fit(of_train)
    # Called without rows, kneighbors excludes each row itself.
    for file, label, places in (
      ('training', y[own], near.kneighbors(n_neighbors=1, return_distance=False)[:, 0]),
      ('test', t[others], near.kneighbors(of_test, 1, return_distance=False)[:, 0]),
    ):
      other = y[own][places] != label
      rates = (f'{100 * some.mean():.1f}' for some in (other, other[label == 0], other[label == 1]))
      rows.append((what, file, len(label), *rates))
  columns = ('rows of', 'distinct rows', 'nearest training row has the other label', 'of normal', 'of attacks')
  show('without', *columns, rows=rows)


def ceiling(data: Data, seeds: int) -> None:
  x, y, z, t = data.x, data.y, data.z, data.t
  both, label = np.concatenate([x, z]), np.concatenate([y, t])
  small = lambda seed: boosting(seed, rounds=80)
  shuffled = lambda rows, seed: np.random.RandomState(seed).permutation(rows)
  right = lambda p, label: 100 * float(((p >= 0.5) == label).mean())

  def in_test(count: int, group: np.ndarray | None = None):
    def run(seed: int) -> list[float]:
      parts = [(shuffled(learn, seed)[:count], rest) for learn, rest in folds(z, t, 5, seed, group)]
      return [right(held_out(lambda: small(seed), z, t, parts), t)]

    return run

  def split(make, rows: np.ndarray, label: np.ndarray, scored, count: int | None = None):
    def run(seed: int) -> list[float]:
      learn, rest = folds(rows, label, 5, seed)[0]
      learn = shuffled(learn, seed)[:count] if count else learn
      model = make(seed).fit(rows[learn], label[learn])
      return [right(predict(model, others), truth) for others, truth in scored(rest)]

    return run

  of_training = lambda rest: [(x[rest], y[rest]), (z, t)]
  of_both = lambda rest: [(both[r], label[r]) for r in (rest, rest[rest < len(x)], rest[rest >= len(x)])]
  quantiles = lambda: QuantileTransformer(n_quantiles=200)
  mlp = lambda seed: make_pipeline(quantiles(), MLPClassifier((64, 32), max_iter=15, random_state=seed))
  training = [('other training rows', ''), ('test rows', 'score')]
  mixture = [('the rest', 'use'), ('training rows of the rest', 'use'), ('test rows of the rest', 'use')]
  plans = [
    *((f'{n:,} test rows', [('other test rows', 'use')], in_test(n)) for n in (400, 800, 1600, 3200)),
    ('3,200 test rows, identical ones in one fold', [('other test rows', 'use')], in_test(3200, identity(z))),
    ('3,200 training rows', training, split(small, x, y, of_training, 3200)),
    ('4/5 of the training rows', training, split(boosting, x, y, of_training)),
    ('4/5 of the training rows, an MLP (64-32, 15 epochs)', training, split(mlp, x, y, of_training)),
    ('4/5 of both files mixed', mixture, split(boosting, both, label, of_both)),
  ]
  rows = []
  for learned, scored, run in plans:
    runs = zip(*(run(seed) for seed in range(seeds)), strict=True)
    rows += [(learned, *where, spread(values)) for where, values in zip(scored, runs, strict=True)]
  show('learned from', 'scored on', 'test labels', 'accuracy', rows=rows)


def em(p: np.ndarray, prior: float) -> tuple[np.ndarray, float]:
  """Saerens, Latinne and Decaestecker 2002: p adapted to the prior with which it is consistent, and that prior."""
  share = prior
  for _ in range(500):
    odds = p * share / prior
    new = odds / (odds + (1 - p) * (1 - share) / (1 - prior))
    if abs(new.mean() - share) < 1e-7:
      break
    share = new.mean()
  return new, share


def coral(x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Sun, Feng and Saenko 2016: both standardised, and x given the covariance of z."""
  x, z = ((rows - rows.mean(0)) / (rows.std(0) + 1e-6) for rows in (x, z))

  def power(rows: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(np.cov(rows.T) + np.eye(rows.shape[1]))
    return (vectors * values**exponent) @ vectors.T

  return x @ power(x, -0.5) @ power(z, 0.5), z


def self_training(make, x, y, z, p: np.ndarray, correct) -> np.ndarray:
  """Three rounds that add the most confident 30, 60, 90% of test rows of each predicted class to the training rows."""
  for share in (0.3, 0.6, 0.9):
    guess, kept = (p >= 0.5).astype(int), []
    for c in (0, 1):
      of_class = np.flatnonzero(guess == c)
      kept.append(of_class[np.argsort(-np.abs(p[of_class] - 0.5))[: int(share * len(of_class))]])
    kept = np.sort(np.concatenate(kept))
    p = correct(predict(make().fit(np.concatenate([x, z[kept]]), np.concatenate([y, guess[kept]])), z))
  return p


def predictions(data: Data, seed: int) -> tuple[dict[str, np.ndarray], float]:
  """Each method's probabilities of the test rows, and the share of attacks that EM estimates. Reads no test label."""
  x, y, z, result = data.x, data.y, data.z, {}
  new, make = distinct(x), lambda **settings: boosting(seed, max_features=0.8, **settings)
  result['A0 boosting'] = predict(make().fit(x, y), z)
  result['A1 distinct rows'] = predict(make().fit(x[new], y[new]), z)
  random, total = np.random.RandomState(seed), 0
  for k in range(15):
    half = random.permutation(x.shape[1])[: x.shape[1] // 2]
    total = total + predict(boosting(k, rounds=60, max_features=0.8).fit(x[:, half], y), z[:, half])
  result['A3 mean of 15, each with half of the columns'] = total / 15
  some = data.but(*COUNTERS, *SEQUENCE)
  result['A4 without counters and sequence numbers'] = predict(make().fit(x[:, some], y), z[:, some])
  linear, linear_test = encode(data, x, z)
  logistic = lambda: LogisticRegression(max_iter=300)
  result['A6 logistic regression, quantiles'] = predict(logistic().fit(linear, y), linear_test)
  result['A9 distinct rows, classes balanced'] = predict(make(class_weight='balanced').fit(x[new], y[new]), z)
  # EM needs calibrated probabilities: Platt scaling, fitted on held-out training rows.
  held = log_odds(held_out(make, x, y, folds(x, y, 3, seed, identity(x))))
  scaling = LogisticRegression(C=1e3).fit(held[:, None], y)
  calibrated = lambda p: predict(scaling, log_odds(p)[:, None])
  first = calibrated(result['A0 boosting'])
  result['B0 A0, then EM'], share = em(first, y.mean())
  ratio = density_ratio(x, z, seed)
  weights = np.minimum(ratio, np.quantile(ratio, 0.99))
  result['B2 weighted by adversarial ratio'] = predict(make().fit(x, y, sample_weight=weights / ratio.mean()), z)
  aligned, aligned_test = coral(linear, linear_test)
  result['B6 CORAL, then logistic regression'] = predict(logistic().fit(aligned, y), aligned_test)
  correct = lambda p: em(calibrated(p), y.mean())[0]
  result['B7 B0, then self-training'] = self_training(make, x, y, z, result['B0 A0, then EM'], correct)
  by_sttl = first.copy()
  for here, there in [(data.sttl(z) == v, data.sttl(x) == v) for v in (254, 62)]:  # nearly all other rows are normal
    by_sttl[here] = em(first[here], y[there].mean())[0]
  result['B9* A0, then EM in sttl 254 and in 62'] = by_sttl
  return result, share


def compare(runs: list[dict[str, np.ndarray]], t: np.ndarray) -> dict[str, list[str]]:
  """Each method's cells for the columns COMPARED, from its probabilities with each seed."""
  means, cells = {name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]}, {}
  base = (means['A0 boosting'] >= 0.5) == t
  for name, mean in means.items():
    accuracy, missed, false, auc = np.array([score(run[name], t) for run in runs]).T.tolist()
    hindsight = [best_threshold(run[name], t, np.quantile(run[name], np.linspace(0, 1, 200)))[0] for run in runs]
    gained, lost = (((mean >= 0.5) == t) & ~base).sum(), (((mean >= 0.5) != t) & base).sum()
    z = (gained - lost) / max(gained + lost, 1) ** 0.5  # McNemar's, on the mean probability over seeds
    fixed = [f'{statistics.fmean(missed):.1f}', f'{statistics.fmean(false):.1f}', f'{statistics.fmean(auc):.3f}']
    cells[name] = [spread(accuracy), *fixed, f'{gained}', f'{lost}', f'{z:.1f}', f'{max(hindsight):.2f}']
  return cells


def methods(data: Data, seeds: int) -> None:
  runs, shares = zip(*(predictions(data, seed) for seed in range(seeds)), strict=True)
  show('method', *COMPARED, rows=[(name, *cells) for name, cells in compare(runs, data.t).items()])
  print(
    '* Suggested by the table of `strata`, so by test labels. Accuracy is scored with test labels; hindsight uses them.'
  )
  shares = spread([100 * share for share in shares])
  print(
    f'Attacks: {100 * data.y.mean():.1f}% in training; in the test rows {100 * data.t.mean():.1f}%, by EM {shares}%.\n'
  )


def hindsight(data: Data, seeds: int) -> None:
  x, y, z, t = data.x, data.y, data.z, data.t
  harmful = ('ct_dst_src_ltm', 'sbytes', 'dmean')
  tried = {
    'A0 boosting': data.but(),
    'A10* sttl alone': data.at('sttl'),
    f'A11* without {", ".join(harmful)}': data.but(*harmful),
  }
  runs, within = [], {name: [] for name in tried}
  for seed in range(seeds):
    make, parts, run = lambda seed=seed: boosting(seed, max_features=0.8), folds(x, y, 5, seed), {}
    for name, some in tried.items():
      run[name] = predict(make().fit(x[:, some], y), z[:, some])
      within[name].append(score(held_out(make, x[:, some], y, parts), y)[0])
    runs.append(run)
  rows = [(name, spread(within[name]), *cells) for name, cells in compare(runs, t).items()]
  show('method', 'training rows, 5-fold', *COMPARED, rows=rows)
  print('* Columns chosen by test labels. All but the first column is scored with test labels; the last uses them.\n')


PARTS = {'gap': gap, 'files': files, 'strata': strata, 'ceiling': ceiling, 'methods': methods, 'hindsight': hindsight}


def main() -> None:
  options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  options.add_argument('--parts', default=','.join(PARTS))
  options.add_argument('--seeds', type=int, default=5)
  options.add_argument('--data_dir')
  known, rest = options.parse_known_args()
  parts = known.parts.split(',')
  if wrong := [part for part in parts if part not in PARTS]:
    options.error(f'no part {wrong[0]!r}; there are {", ".join(PARTS)}')
  warnings.filterwarnings('ignore', category=ConvergenceWarning)  # 15 epochs and 300 steps are intended
  data = read(configs.load(['--config=configs/unsw_nb15.py', *rest]), known.data_dir)
  for part in parts:
    print(f'## {part}\n', flush=True)
    began = time.monotonic()
    PARTS[part](data, known.seeds)
    print(f'{time.monotonic() - began:.0f} s\n', flush=True)


if __name__ == '__main__':
  main()
