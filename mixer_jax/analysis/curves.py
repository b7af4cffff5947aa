"""Training curves: one run's metrics, its learning rate, its gradient watch, and several runs in one figure."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from mixer_jax.analysis.results import error, error_label

STYLES = {'train': ('0.55', '-'), 'val': ('#0072b2', '--'), 'test': ('black', '-')}
DASHES = ('--', ':', '-.', (0, (6, 1, 1, 1, 1, 1)), (0, (1, 4)), (0, (8, 4)))


def draw(lines: Sequence[dict[str, float]], path: Path, *, panels: Sequence[tuple[str, str, str]]) -> None:
  """Draws the lines of metrics.jsonl, one panel per metric; accuracies become errors. Readable in greyscale.

  Args:
    panels: (metric, axis label, `log` or `linear`) of each.
  """
  figure = Figure(figsize=(7, 2.8), layout='constrained')
  for axes, (metric, label, scale) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
    for split, (colour, dash) in STYLES.items():
      points = [(line['step'], line[f'{split}/{metric}']) for line in lines if f'{split}/{metric}' in line]
      if points:
        steps, values = zip(*points, strict=True)
        values = [100 * (1 - v) for v in values] if metric == 'accuracy' else values
        marker = '.' if len(steps) < 40 else None
        axes.plot(steps, values, dash, color=colour, label=split, marker=marker, markersize=4)
    axes.set(xlabel='step', ylabel=label)
    if scale == 'log' and any(value > 0 for line in axes.lines for value in line.get_ydata()):
      axes.set_yscale('log')
      for axis_format in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis_format(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.grid(alpha=0.3)
    if axes.lines:
      axes.legend(frameon=False)
  figure.savefig(path, dpi=150)


def draw_schedule(rates: Sequence[float], total: int, path: Path) -> None:
  """Draws the learning rate of a run of `total` steps; `rates` are evenly spaced from the first to the last step."""
  figure = Figure(figsize=(3.5, 2.4), layout='constrained')
  axes = figure.subplots()
  axes.plot(np.linspace(0, total - 1, len(rates)), rates, color='black')
  axes.set(xlabel='step', ylabel='learning rate', ylim=(0, None))
  axes.ticklabel_format(axis='y', scilimits=(-2, 3))
  axes.grid(alpha=0.3)
  figure.savefig(path, dpi=150)


def draw_watch(lines: Sequence[dict[str, float]], path: Path) -> None:
  """Draws the watch's numbers of metrics.jsonl: weight change, gradient norm and update norm of each layer group.

  Blocks are solid lines, dark (first) to light (last); other groups are black, dashed or dotted. A cross marks the
  start of an alarm. The axes are logarithmic, with room for zeros at the bottom.
  """
  numbers = {line['step']: of for line in lines if (of := _of_watch(line))}
  natural = lambda name: [(int(part), '') if part.isdecimal() else (-1, part) for part in name.split('.')]
  styles = _group_styles(sorted({group for of in numbers.values() for group, _ in of}, key=natural))
  figure = Figure(figsize=(11, 3.4), layout='constrained')
  panels = {
    'change': 'largest weight change per step',
    'grad_norm': 'gradient norm',
    'update_norm': 'update norm',
  }
  for axes, (what, label) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
    for group, style in styles.items():
      points = [(step, of[group, what]) for step, of in numbers.items() if (group, what) in of]
      if points:
        axes.plot(*zip(*points, strict=True), **style, label=group, marker='.' if len(points) < 40 else None)
      begun = [(step, of[group, what]) for step, of in numbers.items() if (group, 'alarm') in of]
      if begun:
        axes.plot(*zip(*begun, strict=True), 'x', color='black', markersize=9, clip_on=False, zorder=3, label='alarm')
    values = [value for line in axes.lines for value in line.get_ydata() if math.isfinite(value)]
    if values and min(values) > 0:
      axes.set_yscale('log')
    else:
      positive = [value for value in values if value > 0] or [1e-8]
      lowest, highest = (math.floor(math.log10(value)) for value in (min(positive), max(positive)))
      axes.set_yscale('symlog', linthresh=10.0**lowest, linscale=0.5)
      axes.set_ylim(-(10.0**lowest) / 3, 10.0 ** (highest + 1))
    axes.set(xlabel='step', ylabel=label)
    axes.grid(alpha=0.3)
  known = {line.get_label(): line for axes in figure.axes for line in axes.lines}
  shown = [name for name in _thinned(list(styles)) + ['alarm'] if name in known]
  if shown:
    figure.legend([known[name] for name in shown], shown, loc='outside right', frameon=False)
  figure.savefig(path, dpi=150)


def draw_runs(runs: Mapping[str, Sequence[Sequence[dict[str, float]]]], metric: str, path: Path) -> None:
  """Draws several runs in one figure: learning rate, training loss and a held-out metric.

  Args:
    runs: name -> the lines of metrics.jsonl of each seed; seeds share one line style.
    metric: SPLIT/NAME; accuracies are drawn as errors.
  """
  figure = Figure(figsize=(11, 3.4), layout='constrained')
  unit = ' (nats)' if metric.endswith('accuracy') else ''
  panels = {'train/learning_rate': 'rate', 'train/loss': f'train loss{unit}', metric: error_label(metric)}
  shades = colormaps['viridis'](np.linspace(0, 0.85, len(runs)))
  for axes, (what, label) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
    for (name, seeds), shade, dash in zip(runs.items(), shades, itertools.cycle(('-', *DASHES)), strict=False):
      for lines in seeds:
        points = [(line['step'], error(what, line[what])) for line in lines if what in line]
        if points:
          axes.plot(*zip(*points, strict=True), linestyle=dash, color=shade, linewidth=1.2, label=name)
    axes.set(xlabel='step', ylabel=label)
    if what == 'train/learning_rate' and axes.lines:
      axes.set_yscale('log')
    axes.grid(alpha=0.3)
  known = {line.get_label(): line for axes in figure.axes for line in axes.lines}
  if known:
    figure.legend(known.values(), known, loc='outside right', frameon=False)
  figure.savefig(path, dpi=150)


def _of_watch(line: dict[str, float]) -> dict[tuple[str, str], float]:
  return {tuple(name.split('/')[1:]): value for name, value in line.items() if name.startswith('watch/')}


def _is_block(group: str) -> bool:
  return 'blocks' in group.split('.')


def _group_styles(groups: Sequence[str]) -> dict[str, dict]:
  blocks = [group for group in groups if _is_block(group)]
  others = [group for group in groups if not _is_block(group)]
  shades = colormaps['viridis'](np.linspace(0, 0.85, len(blocks)))  # monotonic in greyscale too
  solid = {group: {'color': shade, 'linestyle': '-'} for group, shade in zip(blocks, shades, strict=True)}
  dashed = {
    group: {'color': 'black', 'linestyle': dash} for group, dash in zip(others, itertools.cycle(DASHES), strict=False)
  }
  return {group: (solid | dashed)[group] | {'linewidth': 1.2, 'markersize': 4} for group in groups}


def _thinned(groups: Sequence[str], most: int = 8) -> list[str]:
  """The groups to list in the legend: at most `most` blocks, evenly spaced over the depth."""
  blocks = [group for group in groups if _is_block(group)]
  kept = {blocks[i] for i in np.linspace(0, len(blocks) - 1, min(most, len(blocks))).round().astype(int)}
  return [group for group in groups if group in kept or not _is_block(group)]
