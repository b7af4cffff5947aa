"""The figures of a run: read back as pixels, and as what is drawn."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mixer_jax.analysis import curves

PANELS = (('loss', 'loss (nats)', 'log'), ('accuracy', 'error (%)', 'log'))


def make_lines(splits, points=20):
  random = np.random.default_rng(0)
  lines = []
  for step in range(1, points + 1):
    for split in splits:
      lines.append({'step': step, f'{split}/loss': random.uniform(0.1, 2), f'{split}/accuracy': random.uniform()})
  return lines


@pytest.fixture
def drawn(monkeypatch):
  """The figures that were saved."""
  figures = []
  save = Figure.savefig
  monkeypatch.setattr(Figure, 'savefig', lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1])
  return figures


@pytest.mark.parametrize('splits', [['train', 'val', 'test'], ['train', 'test'], ['train'], []])
def test_png_of_the_splits_there_are(splits, tmp_path, drawn):
  lines = make_lines(splits)
  curves.draw(lines, tmp_path / 'curves.png', panels=PANELS)
  with Image.open(tmp_path / 'curves.png') as image:
    assert image.format == 'PNG' and min(image.size) > 300
    assert np.asarray(image.convert('L')).std() > 1
  loss, error = drawn[0].axes
  assert (loss.get_xlabel(), loss.get_ylabel(), error.get_ylabel()) == ('step', 'loss (nats)', 'error (%)')
  for axes in (loss, error):
    assert [line.get_label().split(' ')[0] for line in axes.lines] == splits
  names = [text.get_text() for legend in drawn[0].legends for text in legend.texts]
  # Training is a mean over many steps, beside evaluations of single ones.
  assert names == [{'train': 'train (mean of the steps between points)'}.get(split, split) for split in splits]
  for split, line in zip(splits, loss.lines, strict=True):
    np.testing.assert_array_equal(line.get_ydata(), [v[f'{split}/loss'] for v in lines if f'{split}/loss' in v])
  for split, line in zip(splits, error.lines, strict=True):
    wanted = [100 * (1 - v[f'{split}/accuracy']) for v in lines if f'{split}/accuracy' in v]
    np.testing.assert_allclose(line.get_ydata(), wanted, rtol=1e-12)


def test_a_perfect_score_and_one_point_are_drawn(tmp_path, drawn):
  curves.draw([{'step': 7, 'test/loss': 0.0, 'test/accuracy': 1.0}], tmp_path / 'curves.png', panels=PANELS)
  assert (tmp_path / 'curves.png').stat().st_size > 1000
  # Of zeros alone a logarithm has nothing to show.
  assert [axes.get_yscale() for axes in drawn[0].axes] == ['linear', 'linear']
  assert all(axes.lines[0].get_marker() == '.' for axes in drawn[0].axes)


def test_a_run_that_becomes_perfect_keeps_its_last_points(tmp_path, drawn):
  accuracies = [0.9, 0.99, 1.0, 1.0]
  lines = [{'step': step, 'test/loss': 0.1, 'test/accuracy': a} for step, a in enumerate(accuracies, start=1)]
  curves.draw(lines, tmp_path / 'curves.png', panels=PANELS)
  axes = drawn[0].axes[1]
  bottom, top = axes.get_ylim()
  assert list(axes.lines[0].get_ydata()) == pytest.approx([10, 1, 0, 0])
  assert bottom < 0 and top > 10 and 0 in axes.yaxis.get_majorticklocs()


def test_decibels_are_on_a_linear_axis(tmp_path, drawn):
  lines = [{'step': step, 'val/mse': 10.0 / step, 'val/psnr': step - 4.0} for step in range(1, 9)]
  panels = (('mse', 'mean squared error', 'log'), ('psnr', 'PSNR (dB)', 'linear'))
  curves.draw(lines, tmp_path / 'curves.png', panels=panels)
  assert [axes.get_yscale() for axes in drawn[0].axes] == ['log', 'linear']
  assert drawn[0].axes[1].get_ylim()[0] < -2.9


def test_the_splits_can_be_distinguished_in_grey(tmp_path, drawn):
  curves.draw(make_lines(['train', 'val', 'test']), tmp_path / 'curves.png', panels=PANELS)
  looks = [(str(line.get_color()), line.get_linestyle()) for line in drawn[0].axes[0].lines]
  assert len(set(looks)) == 3


# The watch


def make_watch(blocks=3, points=10, zero=()):
  """Numbers of the watch with a line of evaluation after each; `zero` names groups that do not change."""
  random = np.random.default_rng(0)
  lines = []
  for step in range(1, points + 1):
    line = {'step': 10 * step, 'train/loss': 1.0}
    for group in ['stem', *(f'blocks.{i}' for i in range(blocks)), 'norm', 'head']:
      number = lambda scale: scale * random.uniform(0.5, 2)
      line |= {f'watch/{group}/grad_norm': number(1), f'watch/{group}/update_norm': number(1e-2)}
      if group != 'norm':
        line[f'watch/{group}/change'] = 0.0 if group in zero else number(1e-3)
    lines += [line, {'step': 10 * step, 'test/loss': 0.5}]
  return lines


KINDS = ('change', 'grad_norm', 'update_norm')


def test_watch_draws_every_number(tmp_path, drawn):
  lines = make_watch()
  curves.draw_watch(lines, tmp_path / 'watch.png')
  with Image.open(tmp_path / 'watch.png') as image:
    assert image.format == 'PNG' and image.size[0] > 1000
    assert np.asarray(image.convert('L')).std() > 1
  groups = ['blocks.0', 'blocks.1', 'blocks.2', 'head', 'norm', 'stem']
  assert [text.get_text() for text in drawn[0].legends[0].texts] == groups
  for what, axes in zip(KINDS, drawn[0].axes, strict=True):
    assert axes.get_xlabel() == 'step' and axes.get_ylabel() and axes.get_yscale() == 'log'
    assert {line.get_label() for line in axes.lines} == set(groups) - ({'norm'} if what == 'change' else set())
    for line in axes.lines:
      values = [of[f'watch/{line.get_label()}/{what}'] for of in lines if 'train/loss' in of]
      np.testing.assert_array_equal(line.get_ydata(), values)
      np.testing.assert_array_equal(line.get_xdata(), range(10, 101, 10))
  assert len({axes.get_ylabel() for axes in drawn[0].axes}) == 3


def test_watch_marks_where_an_alarm_began(tmp_path, drawn):
  lines = make_watch(zero=('stem', 'blocks.1'))
  lines[6] |= {'watch/stem/alarm': 1, 'watch/blocks.1/alarm': 1}
  lines[12] |= {'watch/head/alarm': 1}
  curves.draw_watch(lines, tmp_path / 'watch.png')
  for what, axes in zip(KINDS, drawn[0].axes, strict=True):
    crosses = [line for line in axes.lines if line.get_label() == 'alarm']
    assert {cross.get_marker() for cross in crosses} == {'x'}
    points = sorted((x, y) for cross in crosses for x, y in zip(*cross.get_data(), strict=True))
    expected = [(40, 'stem'), (40, 'blocks.1'), (70, 'head')]
    assert points == sorted((step, lines[step // 5 - 2][f'watch/{group}/{what}']) for step, group in expected)
  assert 'alarm' in [text.get_text() for text in drawn[0].legends[0].texts]


def test_an_alarm_in_a_log_without_norms_is_marked_where_it_can_be(tmp_path, drawn):
  lines = make_watch()
  lines[6]['watch/stem/alarm'] = 1
  del lines[6]['watch/stem/grad_norm']
  curves.draw_watch(lines, tmp_path / 'watch.png')
  marked = [any(line.get_label() == 'alarm' for line in axes.lines) for axes in drawn[0].axes]
  assert marked == [True, False, True]


@pytest.mark.parametrize('zero', [('blocks.0',), ('stem', 'head', 'blocks.0', 'blocks.1')])
def test_watch_shows_what_is_zero(zero, tmp_path, drawn):
  curves.draw_watch(make_watch(zero=zero), tmp_path / 'watch.png')
  axes = drawn[0].axes[0]
  assert axes.get_yscale() == 'symlog'
  bottom, top = axes.get_ylim()
  for line in axes.lines:
    assert all(bottom < value < top for value in line.get_ydata())
  # Zero lies below all else, at a distance that is seen.
  height = lambda value: axes.transAxes.inverted().transform(axes.transData.transform((0, value)))[1]
  positive = [value for line in axes.lines for value in line.get_ydata() if value]
  assert 0 < height(0) < height(min(positive)) - 0.05


def test_watch_of_zeros_alone(tmp_path, drawn):
  curves.draw_watch(make_watch(zero=('stem', 'head', 'blocks.0', 'blocks.1', 'blocks.2')), tmp_path / 'watch.png')
  bottom, top = drawn[0].axes[0].get_ylim()
  assert bottom < 0 < top and {value for line in drawn[0].axes[0].lines for value in line.get_ydata()} == {0}


@pytest.mark.parametrize('blocks', [4, 24])
def test_watch_can_be_distinguished_in_grey(blocks, tmp_path, drawn):
  curves.draw_watch(make_watch(blocks), tmp_path / 'watch.png')
  lines = {line.get_label(): line for line in drawn[0].axes[1].lines}
  grey = [np.dot(lines[f'blocks.{i}'].get_color()[:3], [0.299, 0.587, 0.114]) for i in range(blocks)]
  assert (np.diff(grey) > 0).all() and grey[0] < 0.2 and 0.6 < grey[-1] < 0.8
  assert {lines[f'blocks.{i}'].get_linestyle() for i in range(blocks)} == {'-'}
  assert len({lines[name].get_linestyle() for name in ('stem', 'norm', 'head')} - {'-'}) == 3
  (legend,) = drawn[0].legends
  shown = [text.get_text() for text in legend.texts]
  assert len(shown) == min(blocks, 8) + 3 and {'blocks.0', f'blocks.{blocks - 1}'} <= set(shown)
  assert ('dark' in legend.get_title().get_text()) and ('8 of 24' in legend.get_title().get_text()) == (blocks == 24)


@pytest.mark.parametrize('lines', [[], [{'step': 3, 'test/loss': 1.0}], make_watch(points=1)[:1]])
def test_watch_of_little_or_nothing(lines, tmp_path):
  curves.draw_watch(lines, tmp_path / 'watch.png')
  assert (tmp_path / 'watch.png').stat().st_size > 1000


@pytest.mark.parametrize('value', [np.inf, np.nan])
def test_watch_outlives_what_is_no_number(value, tmp_path, drawn):
  lines = make_watch()
  lines[-2]['watch/stem/update_norm'] = value
  curves.draw_watch(lines, tmp_path / 'watch.png')
  stem = next(line for line in drawn[0].axes[2].lines if line.get_label() == 'stem')
  assert not np.isfinite(stem.get_ydata()[-1]) and np.isfinite(stem.get_ydata()[:-1]).all()


def test_several_runs_in_one_figure(tmp_path, drawn):
  seeds = [
    [{'step': 1, 'train/loss': 2.0, 'train/learning_rate': 0.1}, {'step': 1, 'val/accuracy': a}] for a in (0.9, 0.8)
  ]
  runs = {'a': seeds, 'b': [[{'step': 2, 'val/accuracy': 0.75}]]}
  curves.draw_runs(runs, 'val/accuracy', tmp_path / 'curves.png')
  rate, loss, error = drawn[0].axes
  labels = ['learning rate', 'train loss (nats),\nmean of the steps between points', 'val error (%)']
  assert [axes.get_ylabel() for axes in drawn[0].axes] == labels
  assert [len(axes.lines) for axes in (rate, loss, error)] == [1, 2, 3]
  assert [line.get_ydata()[0] for line in error.lines] == pytest.approx([10, 20, 25])
  (legend,) = drawn[0].legends
  assert [text.get_text() for text in legend.texts] == ['a', 'b'] and 'seed' in legend.get_title().get_text()
  looks = [(str(line.get_color()), line.get_linestyle()) for line in error.lines]
  assert looks[0] == looks[1] != looks[2]
  # Each has one evaluation: without a marker nothing would be seen.
  assert {line.get_marker() for axes in drawn[0].axes for line in axes.lines} == {'.'}
  curves.draw_runs({}, 'val/accuracy', tmp_path / 'empty.png')


def test_several_runs_show_their_schedules_and_not_what_was_logged(tmp_path, drawn):
  logged = [[{'step': step, 'train/loss': 1.0, 'train/learning_rate': 0.5} for step in (50, 100)]]
  steps = np.arange(100)
  rates = {'a': (steps, np.sin(steps) ** 2), 'b': (steps, 0.3 + 0.0 * steps)}
  curves.draw_runs({'a': logged, 'b': logged, 'old': logged}, 'train/loss', tmp_path / 'curves.png', rates)
  rate, loss = drawn[0].axes
  assert [line.get_label() for line in rate.lines] == ['a', 'b', 'old'] == [line.get_label() for line in loss.lines]
  for line, (name, (of, values)) in zip(rate.lines, rates.items(), strict=False):
    assert line.get_label() == name
    np.testing.assert_array_equal(line.get_data(), (of, values))
  assert list(rate.lines[2].get_xdata()) == [50, 100]
  assert rate.get_yscale() == 'linear' and rate.get_ylim()[0] == 0


def test_rates_that_are_far_apart_share_a_logarithm(tmp_path, drawn):
  logged, steps = [[{'step': 100, 'train/loss': 1.0}]], np.arange(100)
  fall = 0.5 + 0.5 * np.cos(np.pi * steps / 99)  # to 0, or as near as rounding goes
  curves.draw_runs(
    {'a': logged, 'b': logged}, 'train/loss', tmp_path / 'curves.png',
    {'a': (steps, 0.1 * fall), 'b': (steps, 1e-4 * fall)},
  )  # fmt: skip
  axes = drawn[0].axes[0]
  assert axes.get_yscale() == 'log' and axes.get_ylim()[0] >= 1e-7


@pytest.mark.parametrize('count', [1, 3, 50])
def test_the_schedule_of_a_run(count, tmp_path, drawn):
  steps, rates = np.linspace(0, 999, count), 0.3 * np.sin(np.linspace(0, 3, count))
  curves.draw_schedule(steps, rates, tmp_path / 'schedule.png')
  (axes,) = drawn[0].axes
  assert np.array_equal(axes.lines[0].get_data(), (steps, rates))
  assert (axes.get_xlabel(), axes.get_ylabel()) == ('step', 'learning rate')
  assert (axes.lines[0].get_marker() == '.') == (count == 1)
  with Image.open(tmp_path / 'schedule.png') as image:
    assert np.asarray(image.convert('L')).std() > 1
