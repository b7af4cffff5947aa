"""Summaries of many runs -> a table and a figure of means and deviations over seeds."""

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def rows(done: Sequence[tuple[Mapping[str, str], int, Mapping[str, Any]]]) -> list[dict[str, Any]]:
  """One row for each combination of values.

  Args:
    done: (values by key, seed, summary.json) of each finished run.

  Returns:
    rows with the values, `seeds`, `parameters`, `examples/s` (median) and, for each held-out metric METRIC, its mean
    over the seeds and `METRIC deviation`, the sample standard deviation (nan for one seed).
  """
  groups: dict[tuple, list] = {}
  for values, _, summary in done:
    groups.setdefault(tuple(values.items()), []).append(summary)
  result = []
  for values, group in groups.items():
    metrics = [name for name in group[0]['metrics'] if name.split('/')[0] in ('val', 'test')]
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


def markdown(table: Sequence[Mapping[str, Any]], metrics: Sequence[str], failed: Mapping[str, str]) -> str:
  """The table in Markdown: values, parameters, examples/s, mean ± deviation of `metrics`; failed runs below."""
  keys = [name for name in table[0] if name not in _NUMBERS and '/' not in name] if table else []
  lines = [f'| {" | ".join([*keys, "parameters", "seeds", "examples/s", *metrics])} |']
  lines.append('|' + '---|' * (len(keys) + 3 + len(metrics)))
  for row in table:
    cells = [str(row[key]) for key in keys]
    cells += [f'{row["parameters"]:,}', str(row['seeds']), f'{row["examples/s"]:,.0f}']
    lines.append(f'| {" | ".join([*cells, *(_shown(row, metric) for metric in metrics)])} |')
  for metric in metrics if len(table) > 1 else ():
    values = [row[metric] for row in table if metric in row]
    if len(values) > 1:
      of_all = {metric: statistics.fmean(values), f'{metric} deviation': statistics.stdev(values)}
      lines.append(f'\nOver the rows of the table, {metric}: {_shown(of_all, metric)}.')
  lines += [f'\n{name} failed: {reason}' for name, reason in failed.items()]
  return '\n'.join(lines) + '\n'


_NUMBERS = ('seeds', 'parameters', 'examples/s')


def _shown(row: Mapping[str, Any], metric: str) -> str:
  if metric not in row:
    return ''
  scale, digits = (100, 2) if metric.endswith('accuracy') else (1, 5)
  deviation = row[f'{metric} deviation']
  spread = '' if deviation != deviation else f' ± {scale * deviation:.{digits}f}'
  return f'{scale * row[metric]:.{digits}f}{spread}'


def draw(table: Sequence[Mapping[str, Any]], metric: str, path: Path) -> None:
  """Draws each row's error by name and against its parameters; error bars are one deviation over the seeds."""
  table = sorted((row for row in table if metric in row), key=lambda row: -error(metric, row[metric]))
  names = [', '.join(str(v) for k, v in row.items() if k not in _NUMBERS and '/' not in k) for row in table]
  errors = [error(metric, row[metric]) for row in table]
  scale = 100 if metric.endswith('accuracy') else 1
  whiskers = [scale * d if (d := row[f'{metric} deviation']) == d else 0.0 for row in table]
  figure = Figure(figsize=(7, max(2.8, 0.17 * len(table) + 1)), layout='constrained')
  by_name, by_size = figure.subplots(1, 2, width_ratios=(3, 2))
  by_name.errorbar(errors, range(len(table)), xerr=whiskers, fmt='o', color='black', ecolor='0.6', markersize=4)
  by_name.set_yticks(range(len(table)), names, fontsize=7)
  by_name.set(xlabel=error_label(metric), ylim=(-0.6, len(table) - 0.4))
  parameters = [row['parameters'] for row in table]
  by_size.errorbar(parameters, errors, yerr=whiskers, fmt='o', color='black', ecolor='0.6', markersize=4)
  by_size.set(xlabel='parameters', ylabel=error_label(metric))
  if len(set(parameters)) > 1:
    by_size.set_xscale('log')
  for axes in (by_name, by_size):
    axes.grid(alpha=0.3)
  figure.savefig(path, dpi=150)
