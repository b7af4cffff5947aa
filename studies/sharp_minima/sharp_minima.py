"""Where flat minima help: a table and a figure of finished runs of studies/sharp_minima/config.py.

  python studies/sharp_minima/sharp_minima.py runs/sharp --figure=sharp_minima.png --log=sharp_minima.jsonl
  python studies/sharp_minima/sharp_minima.py sharp_minima.jsonl

Reads every run below the folders; files are logs with one line per run, as --log writes them. A run's sharpness comes
from its sharpness.json, if `python -m mixer_jax.analyze sharpness` has written one. Rows are methods, with means and
deviations over the seeds, for all epochs and for half of them, where two gradients per step cost as much as AdamW.
"""

import argparse
import collections
import json
import statistics
import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from mixer_jax.training.summary import finished

NAMES = {'digits': 'digits', 'unsw_nb15': 'UNSW-NB15', 'mnist': 'MNIST', 'cifar10': '10,000 of CIFAR-10'}
METHODS = ('adamw', 'noise', 'sam', 'asam', 'gsam', 'fisher_sam', 'dynamic_sam', 'look_sam')


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('runs', nargs='+', type=Path, help='folders of runs, or logs')
  parser.add_argument('--figure', type=Path, help='output PNG')
  parser.add_argument('--log', type=Path, help='output JSON lines, one per run')
  args = parser.parse_args()
  runs = [run for place in args.runs for run in read(place)]
  if not runs:
    sys.exit(f'error: no finished run in {" ".join(map(str, args.runs))}')
  table = rows(runs)
  print('| data | method | epochs | seeds | error (%) | train loss | largest eigenvalue | m-sharpness | s per run |')
  print('|---|---|---|---|---|---|---|---|---|')
  for row in table:
    shown = [mean_and_deviation(row[key]) for key in ('error', 'train_loss', 'eigenvalue', 'm_sharpness')]
    seconds = statistics.median(row['seconds'])
    print(
      f'| {NAMES[row["data"]]} | {row["method"]} | {row["epochs"]:g} | {len(row["error"])} | {" | ".join(shown)}'
      f' | {seconds:.0f} |'
    )
  if args.figure:
    draw(table, args.figure)
  if args.log:
    args.log.write_text(''.join(json.dumps(run) + '\n' for run in runs), encoding='utf-8')


def read(place: Path) -> list[dict]:
  """The runs below a folder, or of a log, as dicts of what the table needs."""
  if place.is_file():
    return [json.loads(line) for line in place.read_text(encoding='utf-8').splitlines()]
  return [of_run(path.parent) for path in finished(place)]


def of_run(workdir: Path) -> dict:
  summary = json.loads((workdir / 'summary.json').read_text(encoding='utf-8'))
  config, metrics = summary['config'], summary['metrics']
  method = config['sam'].get('name') or ('noise' if config['update_noise'] else 'adamw')
  split = 'test' if config['data']['test'] else 'val'
  run = {
    'data': config['data']['name'], 'method': method, 'settings': config['sam'] or config['update_noise'],
    'optimizer': config['optimizer'], 'schedule': config['schedule'], 'epochs': float(config['total'].split()[0]),
    'seed': config['seed'], 'split': split, 'error': 100 * (1 - metrics[f'{split}/accuracy']),
    'loss': metrics[f'{split}/loss'], 'train_loss': metrics['train/loss'],
    'seconds': summary['seconds'], 'device': summary['device'],
  }  # fmt: skip
  found = workdir / 'sharpness.json'
  if found.exists():
    sharpness = json.loads(found.read_text(encoding='utf-8'))
    run |= {'eigenvalue': sharpness['eigenvalues'][0], 'm_sharpness': sharpness['m_sharpness']}
    run |= {'sharpness': {key: sharpness[key] for key in ('examples', 'iterations', 'rho', 'm', 'residuals')}}
  return run


def rows(runs: list[dict]) -> list[dict]:
  """One row per data set, method and number of epochs, with lists over the seeds."""
  groups = collections.defaultdict(list)
  for run in runs:
    groups[run['data'], run['method'], run['epochs']].append(run)
  keys = ('error', 'train_loss', 'eigenvalue', 'm_sharpness', 'seconds')
  found = [
    {'data': data, 'method': method, 'epochs': epochs} | {k: [run[k] for run in group if k in run] for k in keys}
    for (data, method, epochs), group in groups.items()
  ]
  place = lambda row: (list(NAMES).index(row['data']), -row['epochs'], METHODS.index(row['method']))
  return sorted(found, key=place)


def mean_and_deviation(values: list[float]) -> str:
  if not values:
    return ''
  deviation = f' ± {statistics.stdev(values):.2g}' if len(values) > 1 else ''
  return f'{statistics.fmean(values):.4g}{deviation}'


def draw(table: list[dict], path: Path) -> None:
  """Draws each method's error and largest eigenvalue: filled for all epochs, open for half of them."""
  data = [name for name in NAMES if any(row['data'] == name for row in table)]
  methods = [method for method in METHODS if any(row['method'] == method for row in table)]
  figure = Figure(figsize=(2.6 * len(data) + 0.8, 5.1), layout='constrained')
  panels = figure.subplots(2, len(data), squeeze=False, sharey=True)
  marks = {}
  for column, name in enumerate(data):
    of_data = [row for row in table if row['data'] == name]
    most = max(row['epochs'] for row in of_data)
    for axes, key, label in zip(
      panels[:, column], ('error', 'eigenvalue'), ('error (%)', 'largest eigenvalue'), strict=True
    ):
      for row in of_data:
        if row[key]:
          spread = statistics.stdev(row[key]) if len(row[key]) > 1 else 0
          whole = row['epochs'] == most
          marks[f'{"all" if whole else "half of the"} epochs'] = axes.errorbar(
            statistics.fmean(row[key]), methods.index(row['method']) + (0 if whole else 0.25), xerr=spread, fmt='o',
            color='black', ecolor='0.6', markersize=4, markerfacecolor='black' if whole else 'white',
          )  # fmt: skip
      axes.set(xlabel=label, xscale='log' if key == 'eigenvalue' else 'linear')
      if key == 'eigenvalue':
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter('{x:g}')
        axes.xaxis.set_minor_formatter(NullFormatter())
      axes.set_yticks(range(len(methods)), methods)
      axes.grid(alpha=0.3)
    panels[0, column].set_title(NAMES[name], fontsize=10)
  panels[0, 0].invert_yaxis()  # shared by all panels
  figure.legend(
    [marks[name] for name in sorted(marks)], sorted(marks), loc='outside lower center', ncols=2, frameon=False,
    title='means over the seeds; bars: ± standard deviation', title_fontsize='medium',
  )  # fmt: skip
  figure.savefig(path, dpi=150)


if __name__ == '__main__':
  main()
