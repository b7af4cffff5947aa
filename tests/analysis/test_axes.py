"""Axes: whole steps, logarithms that show zeros and label their ticks alike, legends beside the panels."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from mixer_jax.analysis import axes as axis_tools


@pytest.fixture
def drawn():
  """values -> a panel with these values, its axis logarithmic, and the labels that are seen on it."""

  def drawn(values, which='y', **options):
    figure = Figure(figsize=(3.5, 3), layout='constrained')
    axes = figure.subplots()
    places = range(len(values))
    axes.plot(*((places, values) if which == 'y' else (values, places)), label='run')
    axis_tools.logarithmic(axes, values, which, **options)
    figure.draw_without_rendering()
    axis, limits = (axes.yaxis, axes.get_ylim()) if which == 'y' else (axes.xaxis, axes.get_xlim())
    places = [place for place in axis.get_majorticklocs() if limits[0] <= place <= limits[1]]
    labels = [
      text.get_text() for text in axis.get_ticklabels() if limits[0] <= text.get_position()[which == 'y'] <= limits[1]
    ]
    return axes, places, labels

  return drawn


@pytest.mark.parametrize('total', [1, 2, 3, 7, 10, 1000, 62500])
def test_steps_are_whole_numbers(total):
  figure = Figure(figsize=(3, 3), layout='constrained')
  axes = figure.subplots()
  axes.plot(range(1, total + 1), range(total), marker='.')
  axis_tools.of_steps(axes)
  figure.draw_without_rendering()
  labels = [text.get_text() for text in axes.xaxis.get_ticklabels()]
  assert labels and all(label.lstrip('−').replace(',', '').isdecimal() for label in labels)
  assert axes.get_xlabel() == 'step'


@pytest.mark.parametrize(
  'values', [[0.6, 1, 2, 2.4], [0.67, 0.89], [3e-3, 2.0], [39.3, 40.0], [0.5], [12.0, 90.0], [2e-4, 80.0]]
)
def test_labels_are_plain_numbers_of_at_least_two_ticks(values, drawn):
  axes, places, labels = drawn(values)
  assert axes.get_yscale() == 'log'
  assert [float(label) for label in labels] == pytest.approx(places) and len(set(labels)) == len(labels)
  assert len(labels) >= (2 if len(values) > 1 else 1) and not any('e' in label for label in labels)


@pytest.mark.parametrize('values', [[1e-9, 1e-3], [1e-6, 3e-6], [1e3, 1e7]])
def test_labels_far_from_one_are_all_powers(values, drawn):
  labels = drawn(values)[2]
  assert len(labels) >= 2 and all('10^' in label for label in labels)


@pytest.mark.parametrize('values', [[3.0, 0.5, 0.0], [0.0, 1e-9, 1e-3], [0.0, 4.0], [0.0, 50.0, 0.28]])
def test_zeros_lie_at_the_bottom_at_a_tick_of_their_own(values, drawn):
  axes, places, labels = drawn(values)
  assert axes.get_yscale() == 'symlog' and places[0] == 0 and labels[0] in ('0', r'$\mathdefault{0}$')
  bottom, top = axes.get_ylim()
  assert bottom < 0 and top > max(values)
  height = lambda value: axes.transAxes.inverted().transform(axes.transData.transform((0, value)))[1]
  assert 0.03 < height(0) < height(min(value for value in values if value)) - 0.03


@pytest.mark.parametrize('values', [[], [0.0, 0.0], [-1.0, 2.0], [np.nan]])
def test_what_no_logarithm_shows_stays_linear(values, drawn):
  assert drawn(values)[0].get_yscale() == 'linear'


def test_what_is_not_finite_does_not_count(drawn):
  assert drawn([1.0, np.inf, 3.0, np.nan])[0].get_yscale() == 'log'


@pytest.mark.parametrize('values', [[310, 640], [39_169, 52_897, 91_441], [33_617, 6_462_801]])
def test_numbers_of_parameters_do_not_lie_over_each_other(values, drawn):
  axes, _, labels = drawn(values, 'x', formatter=EngFormatter(sep=''))
  boxes = [text.get_window_extent() for text in axes.xaxis.get_ticklabels()]
  boxes = sorted((box.x0, box.x1) for box in boxes if axes.bbox.x0 <= (box.x0 + box.x1) / 2 <= axes.bbox.x1)
  assert len(labels) >= 2 and all(a[1] < b[0] for a, b in zip(boxes, boxes[1:], strict=False))


def test_a_legend_lists_each_name_once_beside_the_panels():
  figure = Figure(layout='constrained')
  left, right = figure.subplots(1, 2)
  for axes in (left, right):
    axes.plot([1, 2], [3, 4], label='a')
  right.plot([1, 2], [1, 2], label='b')
  legend = axis_tools.add_legend(figure, 'outside right', title='two runs')
  assert [text.get_text() for text in legend.texts] == ['a', 'b'] and legend.get_title().get_text() == 'two runs'
  figure.draw_without_rendering()
  assert legend.get_window_extent().x0 > right.bbox.x1
  assert axis_tools.add_legend(figure, 'outside right', names=['c']) is None
