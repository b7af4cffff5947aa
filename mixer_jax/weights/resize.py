"""A Mixer's weights for another grid of tokens, another patch, another number of channels."""

import einops
import jax
import numpy as np
import scipy.linalg

from mixer_jax.errors import MixerError

Grid = tuple[int, int]  # rows, columns
Arrays = dict[str, np.ndarray]


def _enlarge(old: Grid, new: Grid) -> np.ndarray:
  """The bilinear resizing of a grid as a matrix, [new places, old places], float64."""
  basis = np.eye(old[0] * old[1], dtype=np.float32).reshape(-1, *old)
  resized = jax.image.resize(basis, (len(basis), *new), 'bilinear')
  return np.asarray(resized, np.float64).reshape(len(basis), -1).T


def _as_before(matrix: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """w' with w'.T @ (matrix @ x) = weights.T @ x for every x, or the nearest by least squares."""
  return np.linalg.pinv(matrix).T @ weights


def stem(kernel: np.ndarray, old: tuple[int, int, int], new: tuple[int, int, int]) -> np.ndarray:
  """The stem's kernel for patches of another size or channel count.

  Sides by FlexiViT's pseudo-inverse (Beyer et al. 2023, arXiv 2212.08013): where no side gets smaller, a patch that is
  enlarged bilinearly gives the same token as before; else the nearest by least squares. Channels: to one, the sum, so
  that a grey image gives what it gave with its channel repeated; from one, equal parts, which keeps the same; to more,
  zeros for the new ones, which then start unseen.

  The kernel is [pixels of a patch, width]; `old` and `new` are (height, width, channels) of a patch.
  Refuses to reduce to more than one channel: the choice would be arbitrary.
  """
  pixels = kernel.astype(np.float64).reshape(*old, -1)
  if new[2] != old[2]:
    if new[2] == 1:
      pixels = pixels.sum(axis=2, keepdims=True)
    elif old[2] == 1:
      pixels = np.repeat(pixels, new[2], axis=2) / new[2]
    elif new[2] > old[2]:
      pixels = np.pad(pixels, ((0, 0), (0, 0), (0, new[2] - old[2]), (0, 0)))
    else:
      raise MixerError(
        f'the weights take {old[2]} channels, but the images here have {new[2]}; choose those channels in the weights'
        ' first, or take images with as many, with more, or with one'
      )
  if old[:2] != new[:2]:
    flat = einops.rearrange(pixels, 'p q c h -> (p q) (c h)')
    flat = _as_before(_enlarge(old[:2], new[:2]), flat)
    pixels = einops.rearrange(flat, '(p q) (c h) -> p q c h', p=new[0], c=new[2])
  return einops.rearrange(pixels, 'p q c h -> (p q c) h').astype(np.float32)


def interpolate_tokens(arrays: Arrays, old: Grid, new: Grid) -> Arrays:
  """Token mixing for another grid, by bilinear interpolation; the hidden width stays.

  The second layer's outputs are enlarged as the grid is; the first layer gives enlarged tokens the sums that they gave
  before (pseudo-inverse). So where no side gets smaller, each token-mixing MLP of enlarged tokens gives its former
  output, enlarged. A whole network does not: LayerNorm of a mean is not the mean of LayerNorms.
  """
  matrix = _enlarge(old, new)
  change = {
    'token_mixing.fc1.kernel': lambda w: _as_before(matrix, w),
    'token_mixing.fc2.kernel': lambda w: w @ matrix.T,
    'token_mixing.fc2.bias': lambda w: matrix @ w,
  }
  return {name: _changed(change, name, array) for name, array in arrays.items()}


def tile_tokens(arrays: Arrays, old: Grid, new: Grid) -> Arrays:
  """Token mixing for a grid of m times the rows and n times the columns: block-diagonal copies, m n times as wide.

  The paper's (arXiv 2105.01601, appendix C). The image is seen as m x n images of the old size, each of which has the
  tokens that it had before; so the logits, of a mean over the tokens and a linear head, are the mean of theirs.

  Refuses a grid that is no multiple of the old one.
  """
  if new[0] % old[0] or new[1] % old[1]:
    raise MixerError(
      f'the grid of tokens is {old[0]}x{old[1]} in the weights and {new[0]}x{new[1]} here, but copies take a multiple'
      " on both sides; set init_from.tokens='interpolate'"
    )
  m, n = new[0] // old[0], new[1] // old[1]
  tiles = m * n
  # From the tokens tile by tile to the tokens row by row.
  order = einops.rearrange(np.arange(new[0] * new[1]), '(m n h w) -> (m h n w)', m=m, n=n, h=old[0])
  to_hidden = lambda w: scipy.linalg.block_diag(*[w] * tiles)[order]
  change = {
    'token_mixing.fc1.kernel': to_hidden,
    'token_mixing.fc1.bias': lambda b: np.tile(b, tiles),
    'token_mixing.fc2.kernel': lambda w: to_hidden(w.T).T,
    'token_mixing.fc2.bias': lambda b: np.tile(b, tiles)[order],
  }
  return {name: _changed(change, name, array) for name, array in arrays.items()}


def _changed(change: dict, name: str, array: np.ndarray) -> np.ndarray:
  of_block = name.split('.', 2)[-1]
  if not name.startswith('blocks.') or of_block not in change:
    return array
  return np.asarray(change[of_block](array.astype(np.float64)), np.float32)
