"""Drawing for auto-encoders: reconstructions, codes, and decoded rows of codes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

MARKERS = 'osD^v<>pXP'  # distinguishable in greyscale
SIDE, GAP = 84, 4  # pixels: the longer side that small images are enlarged to, and the gap between images


def draw_pairs(image: np.ndarray, output: np.ndarray, path: Path) -> None:
  """Draws images, reconstructions and differences in three rows; [examples, height, width, channels] in [0, 1].

  The difference is output - image per channel, doubled: grey is 0, the scale ends at +-0.25.
  """
  difference = 0.5 + 2 * (output - image)
  _draw_grid({'image': image, 'output': output, 'difference x2': difference}, path)


def draw_rows(rows: np.ndarray, labels: Sequence[str], titles: Sequence[str], path: Path, *, corner: str = '') -> None:
  """Draws [rows, columns, height, width, channels] as a grid of images with row labels and column titles.

  Args:
    corner: the text above the row labels: what the titles are.
  """
  _draw_grid(dict(zip(labels, rows, strict=True)), path, titles=titles, corner=corner)


def draw_codes(code: np.ndarray, label: np.ndarray, names: Sequence[str], path: Path) -> None:
  """Draws the first two principal components of codes [examples, size], with a colour and marker per class."""
  from sklearn.decomposition import PCA

  figure = Figure(figsize=(5.2, 4.2), layout='constrained')
  axes = figure.subplots()
  at, share = np.zeros((len(code), 2)), np.zeros(2)
  if np.ptp(code, axis=0).any():  # identical codes have no principal components
    parts = min(2, *code.shape)
    pca = PCA(parts, random_state=0)
    at[:, :parts] = pca.fit_transform(code)
    share[:parts] = 100 * pca.explained_variance_ratio_
  few = len(names) <= 10
  shades = colormaps['tab10'].colors[: len(names)] if few else colormaps['viridis'](np.linspace(0, 1, len(names)))
  for k, (name, shade) in enumerate(zip(names, shades, strict=True)):
    marker = MARKERS[k % len(MARKERS)]
    axes.plot(*at[label == k].T, marker, color=shade, markersize=4, markeredgewidth=0, label=name, alpha=0.7)
  axes.set(xlabel=f'first component ({share[0]:.0f}% of the variance)', ylabel=f'second component ({share[1]:.0f}%)')
  if 1 < len(names) <= 20:
    figure.legend(loc='outside right', frameon=False, title='class', fontsize=8)
  elif len(names) > 20:
    figure.colorbar(ScalarMappable(Normalize(0, len(names) - 1), 'viridis'), ax=axes, label='class (number)')
  figure.savefig(path, dpi=150)


def _draw_grid(rows: dict[str, np.ndarray], path: Path, *, titles: Sequence[str] = (), corner: str = '') -> None:
  """Draws at an integer zoom, so every pixel becomes an exact square."""
  height, width = next(iter(rows.values())).shape[1:3]
  zoom = max(1, SIDE // max(height, width))
  left, top, gap = 80, 18 if titles else GAP, GAP
  across, down = zoom * width + gap, zoom * height + gap
  size = left + across * max(map(len, rows.values())), top + down * len(rows)
  sheet = Image.new('RGB', size, 'white')
  text = ImageDraw.Draw(sheet)
  text.text((left - 8, top - 4), corner, fill='black', anchor='rs')
  for column, title in enumerate(titles):
    text.text((left + column * across + zoom * width // 2, top - 4), title, fill='black', anchor='ms')
  for row, (label, images) in enumerate(rows.items()):
    text.text((left - 8, top + row * down + zoom * height // 2), label, fill='black', anchor='rm')
    for column, image in enumerate(images):
      pixels = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
      pixels = pixels if pixels.shape[-1] == 3 else np.repeat(pixels.mean(axis=-1, keepdims=True), 3, axis=-1)
      pixels = pixels.astype(np.uint8).repeat(zoom, axis=0).repeat(zoom, axis=1)
      sheet.paste(Image.fromarray(pixels), (left + column * across, top + row * down))
  sheet.save(path)
