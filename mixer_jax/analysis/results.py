"""Summaries of many runs -> a table and a figure of means and deviations over seeds."""

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from mixer_jax.analysis.axes import logarithmic


def rows(done: Sequence[tuple[Mapping[str, str], int, Mapping[str, Any]]]) -> list[dict[str, Any]]:
  """One row for each combination of values.

  Args:
    done: (values by key, seed, summary.json) of each finished run.

  Returns:
    rows with the values, `seeds`, `parameters`, `examples/s` (median) and, for each held-out metric METRIC (without
    any, for those of training), its mean over the seeds and `METRIC deviation`, the sample standard deviation (nan for
    one seed).
  """
  groups: dict[tuple, list] = {}
  for values, _, summary in done:
    groups.setdefault(tuple(values.items()), []).append(summary)
  result = []
  for values, group in groups.items():
    metrics = [name for name in group[0]['metrics'] if name.split('/')[0] in ('val', 'test')]
    metrics = metrics or [name for name in group[0]['metrics'] if name.startswith('train/')]
    row = dict(values) | {
      'seeds': len(group),
      'parameters': group[0]['parameters'],
      'examples/s': statistics.median(summary['examples_per_second'] for summary in group),
    }
    for name in metrics:
      scores = [summary['metrics'][name] for summary in group]
      row[name] = statistics.fmean(scores)
      row[f'{name} deviation'] = statistics.stdev(scores) if len(scores) > 1 else float('nan')
    result.append(row)
  return result


def error(metric: str, value: float) -> float:
  """Accuracies become errors in percent; other metrics stay unchanged."""
  return 100 * (1 - value) if metric.endswith('accuracy') else value


def error_label(metric: str) -> str:
  split, _, name = metric.partition('/')
  return f'{split} error (%)' if name == 'accuracy' else f'{split} {name}'


def write_csv(table: Sequence[Mapping[str, Any]], path: Path) -> None:
  """Writes all columns in full precision."""
  columns = list(dict.fromkeys(name for row in table for name in row))
  with path.open('w', encoding='utf-8', newline='') as file:
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    writer.writerows(table)


def markdown(
  table: Sequence[Mapping[str, Any]], metrics: Sequence[str], failed: Mapping[str, str], *, folds: bool = False
) -> str:
  """The table in Markdown: values, parameters, examples/s, mean ± deviation of `metrics`; failed runs below.

  Args:
    folds: the rows are folds of a cross-validation, so their mean and deviation are given, too.
  """
  keys = _keys(table[0]) if table else []
  lines = [f'| {" | ".join([*keys, "parameters", "seeds", "examples/s", *metrics])} |']
  lines.append('|' + '---|' * (len(keys) + 3 + len(metrics)))
  for row in table:
    cells = [str(row[key]) for key in keys]
    cells += [f'{row["parameters"]:,}', str(row['seeds']), f'{row["examples/s"]:,.0f}']
    lines.append(f'| {" | ".join([*cells, *(_shown(row, metric) for metric in metrics)])} |')
  for metric in metrics if folds and len(table) > 1 else ():
    values = [row[metric] for row in table]
    of_all = {metric: statistics.fmean(values), f'{metric} deviation': statistics.stdev(values)}
    lines.append(f'\nOver the {len(table)} folds, {metric}: {_shown(of_all, metric)}.')
  lines += [f'\n{name} failed: {reason}' for name, reason in failed.items()]
  return '\n'.join(lines) + '\n'


_NUMBERS = ('seeds', 'parameters', 'examples/s')


def _keys(row: Mapping[str, Any]) -> list[str]:
  """The keys whose values tell the rows apart."""
  return [name for name in row if name not in _NUMBERS and '/' not in name]


def names(table: Sequence[Mapping[str, Any]]) -> list[str]:
  """What each row is: 'blocks=2, patch=4'; keys by their last parts, unless two of them share it."""
  keys = _keys(table[0]) if table else []
  last = [key.split('.')[-1] for key in keys]
  short = {key: end if last.count(end) == 1 else key for key, end in zip(keys, last, strict=True)}
  return [', '.join(f'{short[key]}={row[key]}' for key in keys) or 'as it stands' for row in table]


def _shown(row: Mapping[str, Any], metric: str) -> str:
  if metric not in row:
    return ''
  scale, digits = (100, 2) if metric.endswith('accuracy') else (1, 5)
  deviation = row[f'{metric} deviation']
  spread = '' if deviation != deviation else f' ± {scale * deviation:.{digits}f}'
  return f'{scale * row[metric]:.{digits}f}{spread}'


def draw(table: Sequence[Mapping[str, Any]], metric: str, path: Path) -> None:
  """Draws each row's error by name and against its parameters; error bars are one deviation over the seeds."""
  table = sorted(table, key=lambda row: -error(metric, row[metric]))
  labels = names(table)
  errors = [error(metric, row[metric]) for row in table]
  scale = 100 if metric.endswith('accuracy') else 1
  whiskers = [scale * d if (d := row[f'{metric} deviation']) == d else 0.0 for row in table]
  counts = sorted({row['seeds'] for row in table})
  seeds = f'{counts[0]}' if len(counts) == 1 else f'{counts[0]} to {counts[-1]}'
  label = error_label(metric) + (f'\nmean ± standard deviation, {seeds} seeds' if counts[-1] > 1 else '')
  width = 5.5 + 0.055 * max(map(len, labels))
  figure = Figure(figsize=(width, max(2.8, 0.17 * len(table) + 1)), layout='constrained')
  by_name, by_size = figure.subplots(1, 2, width_ratios=(3, 2))
  style = {'fmt': 'o', 'color': 'black', 'ecolor': '0.6', 'markersize': 4}
  by_name.errorbar(errors, range(len(table)), xerr=whiskers, **style)
  by_name.set_yticks(range(len(table)), labels, fontsize=7)
  by_name.set(xlabel=label, ylim=(-0.6, len(table) - 0.4))
  parameters = [row['parameters'] for row in table]
  by_size.errorbar(parameters, errors, yerr=whiskers, **style)
  by_size.set(xlabel='parameters', ylabel=error_label(metric))
  if len(set(parameters)) > 1:
    logarithmic(by_size, parameters, 'x', EngFormatter(sep=''))
  else:
    by_size.set_xticks(parameters[:1], [f'{parameters[0]:,}'])
  for axes in (by_name, by_size):
    axes.grid(alpha=0.3)
  figure.savefig(path, dpi=150)
