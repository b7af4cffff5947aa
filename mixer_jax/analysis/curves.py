"""Training curves: one run's metrics, its learning rate, its gradient watch, and several runs in one figure."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from mixer_jax.analysis.axes import add_legend, logarithmic, of_steps
from mixer_jax.analysis.results import error, error_label

STYLES = {  # colour, dashes and name of each split
  'train': ('0.55', '-', 'train (mean of the steps between points)'),
  'val': ('#0072b2', '--', 'val'),
  'test': ('black', '-', 'test'),
}
FEW = 40  # fewer points than these get a marker each
DASHES = ('--', ':', '-.', (0, (6, 1, 1, 1, 1, 1)), (0, (1, 4)), (0, (8, 4)))


def draw(lines: Sequence[dict[str, float]], path: Path, *, panels: Sequence[tuple[str, str, str]]) -> None:
  """Draws the lines of metrics.jsonl, one panel per metric; accuracies become errors. Readable in greyscale.

  Args:
    panels: (metric, axis label, `log` or `linear`) of each.
  """
  figure = Figure(figsize=(7, 3.1), layout='constrained')
  for axes, (metric, label, scale) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
    for split, (colour, dash, name) in STYLES.items():
      points = _points(lines, f'{split}/{metric}')
      axes.plot(*points, dash, color=colour, label=name, marker=_marker(points), markersize=4) if points else None
    of_steps(axes)
    axes.set_ylabel(label)
    if scale == 'log':
      logarithmic(axes, [value for line in axes.lines for value in line.get_ydata()])
    axes.grid(alpha=0.3)
  add_legend(figure, 'outside upper center')
  figure.savefig(path, dpi=150)


def draw_schedule(steps: Sequence[int], rates: Sequence[float], path: Path) -> None:
  """Draws the learning rate at these steps of a run, as schedules.sampled gives them."""
  figure = Figure(figsize=(3.5, 2.4), layout='constrained')
  axes = figure.subplots()
  axes.plot(steps, rates, color='black', marker='.' if len(steps) < 3 else None)
  of_steps(axes)
  axes.set(ylabel='learning rate', ylim=(0, None))
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
        axes.plot(*zip(*points, strict=True), **style, label=group, marker='.' if len(points) < FEW else None)
      begun = [(step, of[group, what]) for step, of in numbers.items() if {(group, 'alarm'), (group, what)} <= {*of}]
      if begun:
        axes.plot(*zip(*begun, strict=True), 'x', color='black', markersize=9, clip_on=False, zorder=3, label='alarm')
    logarithmic(axes, [value for line in axes.lines for value in line.get_ydata()])
    of_steps(axes)
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
  blocks, shown = sum(map(_is_block, styles)), _thinned(list(styles))
  title = 'blocks: first dark, last light' if blocks > 1 else ''
  listed = sum(map(_is_block, shown))
  title += f'\n({listed} of {blocks} are listed)' if listed < blocks else ''
  add_legend(figure, 'outside right', names=[*shown, 'alarm'], title=title)
  figure.savefig(path, dpi=150)


def draw_runs(
  runs: Mapping[str, Sequence[Sequence[dict[str, float]]]], metric: str, path: Path,
  rates: Mapping[str, tuple[Sequence[int], Sequence[float]]] | None = None,
) -> None:  # fmt: skip
  """Draws several runs in one figure: learning rate, training loss and a held-out metric.

  The rate is logarithmic if the runs' highest rates differ by more than a factor of ten.

  Args:
    runs: name -> the lines of metrics.jsonl of each seed; seeds share one line style.
    metric: SPLIT/NAME; accuracies are drawn as errors.
    rates: name -> steps and learning rates, as schedules.sampled gives them; a run without is drawn as logged.
  """
  figure = Figure(figsize=(11, 3.4), layout='constrained')
  unit = ' (nats)' if metric.endswith('accuracy') else ''
  rate = 'train/learning_rate'
  labels = {rate: 'learning rate', 'train/loss': f'train loss{unit},\nmean of the steps between points'}
  labels |= {} if metric == 'train/loss' else {metric: error_label(metric)}
  panels = dict(zip(labels, figure.subplots(1, len(labels)), strict=True))
  shades = colormaps['viridis'](np.linspace(0, 0.85, len(runs)))
  for (name, seeds), shade, dash in zip(runs.items(), shades, itertools.cycle(('-', *DASHES)), strict=False):
    style = {'linestyle': dash, 'color': shade, 'linewidth': 1.2, 'markersize': 4, 'label': name}
    for what, axes in panels.items():
      for points in [(rates or {}).get(name)] * (what == rate) + [_points(lines, what) for lines in seeds]:
        if points:
          axes.plot(*points, **style, marker=_marker(points))
        if points and what == rate:
          break  # seeds share it
  for what, axes in panels.items():
    of_steps(axes)
    axes.set_ylabel(labels[what])
    axes.grid(alpha=0.3)
  peaks = [peak for line in panels[rate].lines if (peak := max(line.get_ydata())) > 0]
  if peaks and max(peaks) > 10 * min(peaks):
    panels[rate].set_yscale('log', nonpositive='mask')
    bottom = panels[rate].get_ylim()[0]
    panels[rate].set_ylim(bottom=max(bottom, min(peaks) / 1000))  # a cosine to 0 ends many decades below
  else:
    panels[rate].set_ylim(bottom=0)
    panels[rate].ticklabel_format(axis='y', scilimits=(-2, 3))
  add_legend(figure, 'outside right', title='a line for each seed' if any(len(s) > 1 for s in runs.values()) else '')
  figure.savefig(path, dpi=150)


def _points(lines: Sequence[dict[str, float]], what: str) -> tuple[list[int], list[float]] | None:
  """The steps and values of a metric; accuracies become errors. None if no line has it."""
  points = [(line['step'], error(what, line[what])) for line in lines if what in line]
  return tuple(map(list, zip(*points, strict=True))) if points else None


def _marker(points: tuple[Sequence[int], Sequence[float]]) -> str | None:
  """A dot where points are few: a line of a single one is not seen."""
  return '.' if len(points[0]) < FEW else None


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
