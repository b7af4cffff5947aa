"""What each change of a Mixer's weights keeps, exactly, of what the network gives."""

import einops
import jax
import numpy as np
import pytest
from flax import nnx

from mixer_jax.errors import MixerError
from mixer_jax.models import params as network
from mixer_jax.models.mixer import MlpMixer
from mixer_jax.weights import resize

SIZES = {'hidden': 6, 'blocks': 2, 'token_mlp': 5, 'channel_mlp': 7, 'classes': 4}
TOLERANCE = {'rtol': 2e-5, 'atol': 2e-5}


def mixer(image, patch, **sizes):
  """A Mixer with every parameter drawn at random, scales, biases and the head among them."""
  model = MlpMixer(image=image, patch=patch, **SIZES | sizes, rngs=nnx.Rngs(0))
  graphdef, params = nnx.split(model, nnx.Param)
  random = np.random.default_rng(1)
  drawn = {name: random.normal(size=shape, scale=0.4) for name, shape in network.shapes(params).items()}
  return graphdef, network.place(params, drawn)


def images(*shape):
  return np.random.default_rng(2).normal(size=shape).astype(np.float32)


def test_tiled_weights_see_the_images_of_a_mosaic_one_by_one():
  small = mixer((6, 4, 2), 2)
  image = images(3, 12, 12, 2)  # 2 x 3 images of the old size
  arrays = resize.tile_tokens(network.arrays(small[1]), (3, 2), (6, 6))
  large, params = mixer((12, 12, 2), 2, token_mlp=5 * 6)
  logits, named = nnx.merge(large, network.place(params, arrays))(image, intermediates=True)
  tiles = einops.rearrange(image, 'b (m h) (n w) c -> (b m n) h w c', m=2, n=3)
  of_tiles, of_tiles_named = nnx.merge(*small)(tiles, intermediates=True)
  np.testing.assert_allclose(logits, einops.reduce(of_tiles, '(b t) k -> b k', 'mean', t=6), **TOLERANCE)
  # Not only the mean: every token of the last block is that of its own tile.
  tokens = einops.rearrange(
    named['block_1'], 'b (m h n w) c -> (b m n) (h w) c', m=2, n=3, h=3, w=2
  )  # fmt: skip
  np.testing.assert_allclose(tokens, of_tiles_named['block_1'], **TOLERANCE)


def test_tiles_take_a_multiple():
  with pytest.raises(MixerError, match='3x2 in the weights and 6x5 here'):
    resize.tile_tokens({}, (3, 2), (6, 5))


@pytest.mark.parametrize('new', [(6, 4), (5, 3), (3, 7)])
def test_interpolated_token_mixing_gives_its_output_enlarged(new):
  graphdef, params = mixer((6, 4, 1), 2)
  before = network.arrays(params)
  after = resize.interpolate_tokens(before, (3, 2), new)
  x = images(3, 2, 11)  # rows, columns, whatever is beside them
  grow = lambda y, shape: np.asarray(jax.image.resize(y, (*shape, y.shape[-1]), 'bilinear')).reshape(-1, y.shape[-1])

  def token_mixing(arrays, x):
    part = lambda name: arrays[f'blocks.1.token_mixing.{name}'].astype(np.float64)
    hidden = np.tanh(part('fc1.kernel').T @ x + part('fc1.bias')[:, None])  # any function of the hidden layer will do
    return part('fc2.kernel').T @ hidden + part('fc2.bias')[:, None]

  expected = grow(token_mixing(before, x.reshape(6, -1)).reshape(3, 2, -1), new)
  np.testing.assert_allclose(token_mixing(after, grow(x, new)), expected, **TOLERANCE)
  untouched = [name for name in before if 'token_mixing' not in name]
  assert all(after[name] is before[name] for name in untouched)


def test_interpolating_to_the_same_grid_changes_nothing():
  before = network.arrays(mixer((6, 4, 1), 2)[1])
  for name, array in resize.interpolate_tokens(before, (3, 2), (3, 2)).items():
    np.testing.assert_allclose(array, before[name], rtol=1e-5, atol=1e-6)


def test_a_whole_network_keeps_its_logits_for_constant_tokens():
  """Enlarged tokens that are all equal stay equal, so that LayerNorm commutes with the enlarging."""
  graphdef, params = mixer((6, 4, 1), 2)
  image = np.tile(images(2, 2, 2, 1), (1, 3, 2, 1))
  arrays = network.arrays(params)
  # A network that treats all tokens alike: then tokens that begin equal end equal.
  for name in arrays:
    if name.endswith(('token_mixing.fc1.kernel', 'token_mixing.fc2.kernel')):
      axis = 0 if 'fc1' in name else 1
      arrays[name] = np.broadcast_to(arrays[name].mean(axis, keepdims=True), arrays[name].shape)
    if name.endswith('token_mixing.fc2.bias'):
      arrays[name] = np.full_like(arrays[name], arrays[name].mean())
  logits = nnx.merge(graphdef, network.place(params, arrays))(image)
  large, of_large = mixer((12, 10, 1), 2)
  changed = resize.interpolate_tokens(arrays, (3, 2), (6, 5))
  np.testing.assert_allclose(
    nnx.merge(large, network.place(of_large, changed))(np.tile(image[:, :2, :2], (1, 6, 5, 1))), logits, **TOLERANCE
  )


@pytest.mark.parametrize('new', [(4, 4), (3, 5), (2, 6)])
def test_a_larger_stem_gives_enlarged_patches_their_tokens(new):
  kernel, patch = images(2 * 2 * 3, 5), images(7, 2, 2, 3)
  grown = np.asarray(jax.image.resize(patch, (7, *new, 3), 'bilinear')).reshape(7, -1)
  changed = resize.stem(kernel, (2, 2, 3), (*new, 3))
  np.testing.assert_allclose(grown @ changed, patch.reshape(7, -1) @ kernel, **TOLERANCE)


def test_a_smaller_stem_is_the_nearest_in_the_least_squares():
  """Against numpy's own solver: over all patches, the kernel whose tokens are nearest to those before."""
  kernel = images(5 * 4, 3)
  basis = np.eye(20, dtype=np.float32).reshape(20, 5, 4)
  shrunk = np.asarray(jax.image.resize(basis, (20, 2, 3), 'bilinear')).reshape(20, 6)
  expected = np.linalg.lstsq(shrunk.astype(np.float64), kernel.astype(np.float64), rcond=None)[0]
  np.testing.assert_allclose(resize.stem(kernel, (5, 4, 1), (2, 3, 1)), expected, **TOLERANCE)


def test_channels():
  kernel, grey = images(2 * 2 * 3, 5), images(7, 2, 2, 1)
  of_grey = np.repeat(grey, 3, axis=3).reshape(7, -1) @ kernel
  to_one = resize.stem(kernel, (2, 2, 3), (2, 2, 1))
  np.testing.assert_allclose(grey.reshape(7, -1) @ to_one, of_grey, **TOLERANCE)
  to_four = resize.stem(to_one, (2, 2, 1), (2, 2, 4))
  np.testing.assert_allclose(np.repeat(grey, 4, axis=3).reshape(7, -1) @ to_four, of_grey, **TOLERANCE)
  more, image = resize.stem(kernel, (2, 2, 3), (2, 2, 5)), images(7, 2, 2, 5)
  np.testing.assert_allclose(image.reshape(7, -1) @ more, image[..., :3].reshape(7, -1) @ kernel, **TOLERANCE)
  with pytest.raises(MixerError, match='3 channels, but the images here have 2'):
    resize.stem(kernel, (2, 2, 3), (2, 2, 2))


def test_stem_and_tiles_together_keep_the_logits_of_an_enlarged_image():
  """Patch by patch enlarged, the image has the tokens that it had."""
  graphdef, params = mixer((6, 4, 1), 2)
  image = images(3, 6, 4, 1)
  patches = einops.rearrange(image, 'b (h p) (w q) c -> b h w p q c', p=2, q=2)
  grown = jax.image.resize(patches, (3, 3, 2, 4, 4, 1), 'bilinear')
  grown = einops.rearrange(np.asarray(grown), 'b h w p q c -> b (h p) (w q) c')
  arrays = network.arrays(params)
  arrays['stem.kernel'] = resize.stem(arrays['stem.kernel'], (2, 2, 1), (4, 4, 1))
  large, of_large = mixer((12, 8, 1), 4)
  logits = nnx.merge(graphdef, params)(image)
  np.testing.assert_allclose(nnx.merge(large, network.place(of_large, arrays))(grown), logits, **TOLERANCE)
