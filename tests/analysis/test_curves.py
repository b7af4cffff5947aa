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
    assert [line.get_label() for line in axes.lines] == splits
    assert [text.get_text() for text in axes.get_legend().texts] == splits if splits else axes.get_legend() is None
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


@pytest.mark.parametrize('zero', [('blocks.0',), ('stem', 'head', 'blocks.0', 'blocks.1', 'blocks.2')])
def test_watch_shows_what_is_zero(zero, tmp_path, drawn):
  curves.draw_watch(make_watch(zero=zero), tmp_path / 'watch.png')
  axes = drawn[0].axes[0]
  assert axes.get_yscale() == 'symlog'
  bottom, top = axes.get_ylim()
  for line in axes.lines:
    assert all(bottom < value < top for value in line.get_ydata())
  # Zero lies below all else, at a distance that is seen.
  height = lambda value: axes.transAxes.inverted().transform(axes.transData.transform((0, value)))[1]
  positive = [value for line in axes.lines for value in line.get_ydata() if value] or [1e-8]
  assert 0 < height(0) < height(min(positive)) - 0.05


@pytest.mark.parametrize('blocks', [4, 24])
def test_watch_can_be_distinguished_in_grey(blocks, tmp_path, drawn):
  curves.draw_watch(make_watch(blocks), tmp_path / 'watch.png')
  lines = {line.get_label(): line for line in drawn[0].axes[1].lines}
  grey = [np.dot(lines[f'blocks.{i}'].get_color()[:3], [0.299, 0.587, 0.114]) for i in range(blocks)]
  assert (np.diff(grey) > 0).all() and grey[0] < 0.2 and 0.6 < grey[-1] < 0.8
  assert {lines[f'blocks.{i}'].get_linestyle() for i in range(blocks)} == {'-'}
  assert len({lines[name].get_linestyle() for name in ('stem', 'norm', 'head')} - {'-'}) == 3
  shown = [text.get_text() for text in drawn[0].legends[0].texts]
  assert len(shown) == min(blocks, 8) + 3 and {'blocks.0', f'blocks.{blocks - 1}'} <= set(shown)


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
  assert [axes.get_ylabel() for axes in drawn[0].axes] == ['rate', 'train loss (nats)', 'val error (%)']
  assert [len(axes.lines) for axes in (rate, loss, error)] == [2, 2, 3]
  assert [line.get_ydata()[0] for line in error.lines] == pytest.approx([10, 20, 25])
  assert [text.get_text() for text in drawn[0].legends[0].texts] == ['a', 'b']
  looks = [(str(line.get_color()), line.get_linestyle()) for line in error.lines]
  assert looks[0] == looks[1] != looks[2]
  curves.draw_runs({}, 'val/accuracy', tmp_path / 'empty.png')


def test_the_schedule_of_a_run(tmp_path, drawn):
  rates = 0.3 * np.sin(np.linspace(0, 3, 50))
  curves.draw_schedule(rates, 1000, tmp_path / 'schedule.png')
  (axes,) = drawn[0].axes
  steps, values = axes.lines[0].get_data()
  assert (steps[0], steps[-1]) == (0, 999) and np.allclose(values, rates)
  assert (axes.get_xlabel(), axes.get_ylabel()) == ('step', 'learning rate')
  with Image.open(tmp_path / 'schedule.png') as image:
    assert np.asarray(image.convert('L')).std() > 1
