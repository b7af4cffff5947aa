"""The figure of a run: read back as pixels, and as what is drawn."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mixer_jax.analysis import curves


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
  curves.draw(lines, tmp_path / 'curves.png')
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
  curves.draw([{'step': 7, 'test/loss': 0.0, 'test/accuracy': 1.0}], tmp_path / 'curves.png')
  assert (tmp_path / 'curves.png').stat().st_size > 1000
  # Of zeros alone a logarithm has nothing to show.
  assert [axes.get_yscale() for axes in drawn[0].axes] == ['linear', 'linear']


def test_the_splits_can_be_told_apart_in_grey(tmp_path, drawn):
  curves.draw(make_lines(['train', 'val', 'test']), tmp_path / 'curves.png')
  looks = [(str(line.get_color()), line.get_linestyle()) for line in drawn[0].axes[0].lines]
  assert len(set(looks)) == 3
