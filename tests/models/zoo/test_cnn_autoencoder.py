"""Convolutional auto-encoders: every published count, the layers one by one, scripts that cannot be read."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixer_jax.errors import MixerError
from mixer_jax.models.zoo.cnn_autoencoder import (
  CnnAutoencoder,
  Conv,
  Down,
  ScriptedAutoencoder,
  ScriptedConv,
  read_script,
)

SCRIPT = 'ch=32|down4|ch/2|ch/2|ch/2|ch*1|ch*1|ch=1'


def cnn(**settings):
  return CnnAutoencoder(
    **({'image': (28, 28, 1), 'channels': (24, 32, 48), 'kernel': 5, 'code': 16} | settings), rngs=nnx.Rngs(0)
  )


def scripted(**settings):
  return ScriptedAutoencoder(**({'image': (96, 96, 3), 'script': SCRIPT, 'kernel': 3} | settings), rngs=nnx.Rngs(0))


def count(make):
  return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(nnx.eval_shape(make), nnx.Param)))


def images(*shape):
  return jnp.asarray(np.random.default_rng(0).uniform(size=shape), jnp.float32)


@pytest.mark.parametrize('kernel, parameters', [(3, 808_737), (5, 522_081), (7, 386_721), (9, 402_657)])
def test_published_counts(kernel, parameters):
  assert count(functools.partial(cnn, kernel=kernel)) == parameters


@pytest.mark.parametrize('script, parameters', [(SCRIPT, 3_248_612), (f'scl=3|{SCRIPT}', 15_446_750)])
def test_published_counts_of_scripts(script, parameters):
  assert count(functools.partial(scripted, script=script)) == parameters


def library(x, layer):
  pairs = [(n, n) for n in layer.padding]
  y = jax.lax.conv_general_dilated(x, layer.kernel[...], (1, 1), pairs, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  return y + layer.bias[...]


def test_the_layers_one_by_one():
  model = cnn(image=(9, 8, 2), channels=(3, 4), kernel=3, code=5)
  image = images(2, 9, 8, 2)
  x = image
  for layer in model.encoder:
    x = jnp.maximum(library(x, layer), 0)
  assert x.shape == (2, 5, 4, 4)
  code = model.to_code(x.reshape(2, -1))
  np.testing.assert_allclose(model.encode(image), code, rtol=1e-4, atol=1e-5)
  x = model.from_code(code).reshape(x.shape)
  x = library(
    jnp.maximum(library(x, model.decoder[0]), 0), model.decoder[1]
  )  # none before the first, none after the last
  np.testing.assert_allclose(model.decode(code), x, rtol=1e-4, atol=1e-5)
  assert model(image).shape == image.shape


def test_a_transposed_convolution_is_the_transpose_of_a_convolution():
  """<conv(x), y> = <x, back(y)> when back has the same kernel, turned round and with its channels swapped."""
  model = cnn(image=(7, 7, 2), channels=(3,), kernel=3, code=5)
  (there,), (back,) = model.encoder, model.decoder
  back.kernel[...] = there.kernel[...][::-1, ::-1].transpose(0, 1, 3, 2)
  x, y = images(1, 7, 7, 2), jnp.asarray(np.random.default_rng(1).normal(size=(1, 5, 5, 3)), jnp.float32)
  left = ((there(x) - there.bias[...]) * y).sum()
  assert left == pytest.approx(float((x * (back(y) - back.bias[...])).sum()), rel=1e-4)


def test_a_script_is_read():
  assert read_script('ch=8|down2|ch/4|scl=2|ch*1', (4, 6, 3)) == [Conv(3, 8, 0), Down(2), Conv(32, 8, 0), Conv(8, 8, 2)]


def test_the_scripts_layers_one_by_one():
  model = scripted(image=(4, 6, 1), script='ch=2|down2|scl=1|ch*1|ch=3')
  image = images(2, 4, 6, 1)
  relu6 = lambda x: jnp.clip(x, 0, 6)
  first, _, second, third = model.encoder
  x = relu6(library(image, first.conv))
  x = x.reshape(2, 2, 2, 3, 2, 2).transpose(0, 1, 3, 5, 2, 4).reshape(2, 2, 3, 8)  # channel, then row, then column
  x = x + relu6(library(x + relu6(library(x, second.skips[0])), second.conv))  # the residual is the layer's input
  x = x + relu6(library(x, third.skips[0]))
  code = library(x, third.conv)
  np.testing.assert_allclose(model.encode(image), code.reshape(2, -1), rtol=1e-4, atol=1e-5)
  assert model.code == code.size // 2 == 18
  third, second, _, first = model.decoder
  x = code + relu6(library(code, third.skips[0]))
  x = relu6(library(x, third.conv))
  x = x + relu6(library(x + relu6(library(x, second.skips[0])), second.conv))
  x = x.reshape(2, 2, 3, 2, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(2, 4, 6, 2)
  np.testing.assert_allclose(model.decode(code.reshape(2, -1)), library(x, first.conv), rtol=1e-4, atol=1e-5)


def test_the_activation_of_the_decoders_last_layer():
  """None on the pixels; where the script begins with a pixel-unshuffle, the last convolution has one."""
  for script, activated in (('ch=2|down2|ch=3', False), ('down2|ch=2|ch=3', True)):
    model = scripted(image=(4, 4, 1), script=script)
    last = [layer for layer in model.decoder if isinstance(layer, ScriptedConv)][-1]
    last.conv.kernel[...] = -jnp.abs(last.conv.kernel[...])
    assert (model.decode(images(2, model.code)) >= 0).all() == activated


def test_a_pixel_unshuffle_is_undone():
  """With nothing but moves of pixels in between, the image comes back."""
  model = scripted(image=(4, 4, 1), script='down2|ch*1', kernel=1)
  for layer in (model.encoder[1].conv, model.decoder[0].conv):
    layer.kernel[...], layer.bias[...] = 0 * layer.kernel[...], 0 * layer.bias[...]
  image = images(3, 4, 4, 1)  # then the residuals alone are left
  np.testing.assert_allclose(model(image), image, rtol=1e-6)


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'script': 'ch=32|dwon4|ch=1'}, "model.script: word 2, 'dwon4', cannot be read"),
    ({'script': ''}, "word 1, ''"),
    ({'script': 'ch=32||ch=1'}, "word 2, ''"),
    ({'script': 'ch=0'}, "word 1, 'ch=0'"),
    ({'script': 'ch=6|ch/4'}, "word 2, 'ch/4', does not divide the 6 channels"),
    ({'script': 'ch=6|down2'}, "word 2, 'down2', is the last; end with a convolution"),
    ({'script': 'scl=3'}, "word 1, 'scl=3', is the last"),
    ({'script': 'ch=8|ch=1|scl=3'}, "word 3, 'scl=3', is the last"),
    ({'script': 'down1|ch=1'}, "word 1, 'down1', does nothing"),
    ({'script': 'scl=0|ch=1'}, "word 1, 'scl=0', does nothing"),
    ({'script': 'scl=3|scl=2|ch=1'}, "word 1, 'scl=3', does nothing"),
    ({'script': 'scl=3|down2|scl=2|ch=1'}, "word 1, 'scl=3', does nothing"),
    ({'script': 'scl=3|ch=8|scl=3|ch=1'}, "word 3, 'scl=3', does nothing"),
    ({'script': 'down5|ch=1'}, "word 1, 'down5', does not divide the 96x96 pixels"),
    ({'script': 'down4|ch=8|down7|ch=1'}, "word 3, 'down7', does not divide the 24x24 pixels"),
    ({'kernel': 4}, 'model.kernel is 4, but must be odd'),
    ({'kernel': -1}, 'model.kernel is -1, but must be odd and at least 1'),
  ],
)
def test_scripts_that_are_refused(settings, message):
  with pytest.raises(MixerError, match=message):
    nnx.eval_shape(functools.partial(scripted, **settings))


def test_convolutions_that_leave_nothing():
  with pytest.raises(MixerError, match='3 convolutions of it leave -2x-2 of the image 28x28'):
    nnx.eval_shape(functools.partial(cnn, kernel=11))


@pytest.mark.parametrize('settings, said', [
  ({'code': 0}, 'model.code 0'), ({'kernel': 0}, 'model.kernel 0'), ({'channels': (24, 0, 48)}, r'\[24, 0, 48\]')
])  # fmt: skip
def test_sizes_below_one(settings, said):
  with pytest.raises(MixerError, match=f'{said}.*each must be at least 1'):
    nnx.eval_shape(functools.partial(cnn, **settings))
