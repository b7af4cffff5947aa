"""Figures of an auto-encoder: what it makes of images, where their codes lie, what lies between and around codes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MARKERS = 'osD^v<>pX*'  # told apart in grey too


def draw_pairs(image: np.ndarray, output: np.ndarray, path: Path) -> None:
  """Draws images over what became of them over the differences; [examples, height, width, channels] in [0, 1].

  The difference is output - image: grey where there is none, white and black at +-1; averaged over the channels.
  """
  difference = 0.5 + (output - image).mean(axis=-1, keepdims=True) / 2
  _draw_grid({'image': image, 'output': output, 'difference': difference}, path)


def draw_rows(rows: np.ndarray, labels: Sequence[str], path: Path) -> None:
  """Draws [rows, columns, height, width, channels] as a grid of images, a label at each row."""
  _draw_grid(dict(zip(labels, rows, strict=True)), path)


def draw_codes(code: np.ndarray, label: np.ndarray, names: Sequence[str], path: Path) -> None:
  """Draws codes [examples, size] by their first two principal components, a colour and a marker for each class."""
  from sklearn.decomposition import PCA

  figure = Figure(figsize=(5.2, 4.2), layout='constrained')
  FigureCanvasAgg(figure)
  axes = figure.subplots()
  at, share = np.zeros((len(code), 2)), np.zeros(2)
  if np.ptp(code, axis=0).any():  # one code, or equal ones, have no components
    parts = min(2, *code.shape)
    pca = PCA(parts, random_state=0)
    at[:, :parts] = pca.fit_transform(code)
    share[:parts] = 100 * pca.explained_variance_ratio_
  shades = colormaps['viridis'](np.linspace(0, 1, len(names)))
  for k, (name, shade) in enumerate(zip(names, shades, strict=True)):
    marker = MARKERS[k % len(MARKERS)]
    axes.plot(*at[label == k].T, marker, color=shade, markersize=4, markeredgewidth=0, label=name, alpha=0.7)
  axes.set(xlabel=f'first component ({share[0]:.0f}% of the variance)', ylabel=f'second component ({share[1]:.0f}%)')
  if 1 < len(names) <= 20:
    figure.legend(loc='outside right', frameon=False, title='class', fontsize=8)
  figure.savefig(path, dpi=150)


def _draw_grid(rows: dict[str, np.ndarray], path: Path) -> None:
  images = list(rows.values())
  columns, (height, width) = max(map(len, images)), images[0].shape[1:3]
  side = 0.55
  figure = Figure(figsize=(0.9 + side * columns, side * len(rows) * height / width + 0.1), layout='constrained')
  FigureCanvasAgg(figure)
  grid = figure.subplots(len(rows), columns, squeeze=False)
  for (name, row), line in zip(rows.items(), grid, strict=True):
    line[0].set_ylabel(name, rotation=0, ha='right', va='center', fontsize=8)
    for i, axes in enumerate(line):
      axes.set(xticks=[], yticks=[])
      for spine in axes.spines.values():
        spine.set_visible(False)
      if i < len(row):
        picture = np.clip(row[i], 0, 1)
        three = picture.shape[-1] == 3
        axes.imshow(picture if three else picture.mean(axis=-1), cmap=None if three else 'gray', vmin=0, vmax=1)
  figure.savefig(path, dpi=150)
