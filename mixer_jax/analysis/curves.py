"""The figure of a training run: loss and accuracy against steps."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

STYLES = {'train': ('0.55', '-'), 'val': ('#0072b2', '--'), 'test': ('black', '-')}


def draw(lines: Sequence[dict[str, float]], path: Path) -> None:
  """Draws the lines of metrics.jsonl into a PNG: loss left, error rate right; readable in grey."""
  figure = Figure(figsize=(7, 2.8), layout='constrained')
  FigureCanvasAgg(figure)
  panels = {'loss': 'loss (nats)', 'accuracy': 'error (%)'}
  for axes, (metric, label) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
    for split, (colour, dash) in STYLES.items():
      points = [(line['step'], line[f'{split}/{metric}']) for line in lines if f'{split}/{metric}' in line]
      if points:
        steps, values = zip(*points, strict=True)
        values = [100 * (1 - v) for v in values] if metric == 'accuracy' else values
        axes.plot(
          steps,
          values,
          dash,
          color=colour,
          label=split,
          marker='.' if len(steps) < 40 else None,
          markersize=4,
        )
    axes.set(xlabel='step', ylabel=label)
    if any(value > 0 for line in axes.lines for value in line.get_ydata()):
      axes.set_yscale('log')
      for axis_format in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis_format(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.grid(alpha=0.3)
    if axes.lines:
      axes.legend(frameon=False)
  figure.savefig(path, dpi=150)
