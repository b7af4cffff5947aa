"""Axes of figures: steps as whole numbers, logarithms with plain labels and a place for zeros, legends."""

import math
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import FixedLocator, Formatter, LogFormatterSciNotation, LogLocator, MaxNLocator, NullLocator


def of_steps(axes: Axes) -> None:
  """Labels the x axis as training steps: whole numbers, also in a run of three."""
  axes.set_xlabel('step')
  axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
  axes.xaxis.set_major_formatter('{x:,.0f}')


def logarithmic(axes: Axes, values: Iterable[float], which: str = 'y', formatter: Formatter | str = '') -> None:
  """Makes an axis logarithmic; zeros lie at the bottom, at a tick of their own.

  The axis stays linear if no value is positive, or if one is negative.

  Args:
    values: what is drawn along the axis.
    formatter: of the tick labels; '' for plain numbers or, far from 1, powers of ten.
  """
  finite = [value for value in values if math.isfinite(value)]
  positive = [value for value in finite if value > 0]
  if not positive or min(finite) < 0:
    return
  low, high = min(positive), max(positive)
  decades = math.log10(high / low)
  subs = (1,) if decades > (2.5 if which == 'y' else 1.2) else (1, 2, 5)  # labels beside each other need more room
  axis, set_scale = (axes.yaxis, axes.set_yscale) if which == 'y' else (axes.xaxis, axes.set_xscale)
  if min(finite) == 0:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    set_scale('symlog', linthresh=10.0**first, linscale=max(0.5, (last - first) / 8))
    (axes.set_ylim if which == 'y' else axes.set_xlim)(-(10.0**first) / 3, 1.5 * high)
    step = max(1, (last - first) // 5)
    ticks = (sub * 10.0**decade for decade in range(first, last + 1, step) for sub in subs)
    axis.set_major_locator(FixedLocator([0.0, *(tick for tick in ticks if tick <= 1.5 * high)]))
  else:
    set_scale('log')
    axis.set_major_locator(MaxNLocator(4) if decades < 0.7 else LogLocator(subs=subs))
  if not formatter:
    plain = low >= 1e-4 and high < 1e5
    formatter = '{x:g}' if plain else LogFormatterSciNotation(minor_thresholds=(math.inf, math.inf))
  axis.set_major_formatter(formatter)
  axis.set_minor_locator(NullLocator())


def add_legend(figure: Figure, loc: str, *, names: Sequence[str] | None = None, title: str = '') -> Legend | None:
  """One legend for all panels, outside of them, so that it hides no line.

  Args:
    names: which labels to list, in this order; None for all.
  """
  known = {line.get_label(): line for axes in figure.axes for line in axes.lines}
  names = [name for name in (known if names is None else names) if name in known]
  if not names:
    return None
  columns = len(names) if loc.endswith('center') else 1
  return figure.legend(
    [known[name] for name in names], names, loc=loc, ncols=columns, frameon=False, title=title or None,
    title_fontsize='small', alignment='left',
  )  # fmt: skip
