"""Auto-encoders of patches: every published count, the whole by hand, what is refused."""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
from flax import nnx
from networks import count

from mixer_jax.errors import MixerError
from mixer_jax.models.autoencoder import MixerAutoencoder, MixingAutoencoder

MNIST = {
  'image': (28, 28, 1),
  'patch': 7,
  'widths': (64, 64, 64, 16),
  'code': 16,
}
PHOTO = {
  'image': (96, 96, 3),
  'patch': 8,
  'widths': (64, 64, 64, 564),
  'code': 564,
  'mixing': 'cnnf',
  'after': (2, 3, 4),
}
KERNELS = (1, 3, 5, 7, 9, 11, 13)


def make(mixing='cnn', kernel=1, **settings):
  mixing = {'name': mixing} if mixing == 'mlp' else {'name': mixing, 'kernel': kernel}
  settings = {**MNIST, 'encoder_gelu': True, 'mixing': mixing, **settings}
  return MixingAutoencoder(**settings, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
  'mixing, after, parameters',
  [
    ('cnn', (), 33_617),
    ('cnn', (1,), 34_161), ('cnn', (2,), 34_161), ('cnn', (3,), 34_161), ('cnn', (4,), 34_161),
    ('cnn', (1, 2), 34_705), ('cnn', (1, 2, 3), 35_249), ('cnn', (1, 2, 3, 4), 35_793),
    ('mlp', (4,), 165_201), ('mlp', (1,), 2_132_817), ('mlp', (2,), 2_132_817), ('mlp', (3,), 2_132_817),
    ('mlp', (3, 4), 2_264_401), ('mlp', (1, 2), 4_232_017), ('mlp', (2, 3, 4), 4_363_601),
    ('mlp', (1, 2, 3), 6_331_217), ('mlp', (1, 2, 3, 4), 6_462_801),
  ],
)  # fmt: skip
def test_published_counts(mixing, after, parameters):
  assert count(functools.partial(make, mixing=mixing, after=after)) == parameters


@pytest.mark.parametrize(
  'mixing, counts',
  [
    ('cnn', (35_249, 38_321, 41_393, 44_465, 47_537, 50_609, 53_681)),
    ('cnnf', (52_433, 89_297, 126_161, 163_025, 199_889, 236_753, 273_617)),
    ('cnn2d', (35_249, 47_537, 72_113, 108_977, 158_129, 219_569, 293_297)),
    ('cnn2df', (52_433, 199_889, 494_801, 937_169, 1_526_993, 2_264_273, 3_149_009)),
  ],
)
def test_published_counts_by_kernel(mixing, counts):
  for kernel, parameters in zip(KERNELS, counts, strict=True):
    assert count(functools.partial(make, mixing=mixing, after=(2, 3, 4), kernel=kernel)) == parameters


@pytest.mark.parametrize(
  'settings, parameters',
  [
    ({'patch': 32, 'mixing': 'cnn', 'kernel': 3}, 6_218_692),
    ({'patch': 16, 'mixing': 'cnn', 'kernel': 3}, 23_135_920),
    ({'patch': 8, 'mixing': 'cnn', 'kernel': 3}, 92_181_832),
    ({'patch': 32, 'kernel': 3}, 8_177_804),
    ({'patch': 16, 'kernel': 3}, 25_095_032),
    ({'patch': 8, 'kernel': 3}, 94_140_944),
    ({'widths': (64, 64, 64, 32), 'kernel': 3}, 5_678_388),
    ({'widths': (64, 64, 64, 32), 'kernel': 13}, 7_106_868),
    ({'widths': (64, 64, 64, 36), 'mixing': 'cnn2df', 'kernel': 7}, 12_926_880),
    ({'widths': (144, 144, 144, 36), 'mixing': 'cnn2df', 'kernel': 7}, 16_292_160),
    ({'widths': (*(144,) * 9, 36), 'mixing': 'cnn2df', 'after': (2, 4, 6, 8), 'kernel': 7}, 22_512_888),
  ],
)
def test_published_counts_of_photographs(settings, parameters):
  assert count(functools.partial(make, **(PHOTO | settings))) == parameters


# ---- the whole


def reference(model, image):
  """Every layer as the source prints it, in NumPy, on [batch, patches, numbers]."""
  from scipy import special

  def block(layer, x, gelu):
    # Mixing layers have the tokens first.
    turn = (lambda x: x) if isinstance(layer, nnx.Linear) else lambda x: x.transpose(1, 0, 2)
    y = turn(np.asarray(layer(jnp.asarray(turn(x)))))
    y = y * special.ndtr(y) if gelu else y
    return x + y if x.shape == y.shape else y

  p, q = model.patch
  rows, columns = model.grid
  cut = [image[:, i * p : (i + 1) * p, j * q : (j + 1) * q] for i in range(rows) for j in range(columns)]
  x = np.stack(cut, axis=1).reshape(len(image), rows * columns, -1)
  for layer in model.encoder:
    x = block(layer, x, isinstance(layer, nnx.Linear) or model.encoder_gelu)
  code = np.asarray(model.to_code(jnp.asarray(x.reshape(len(x), -1))))
  x = np.asarray(model.from_code(jnp.asarray(code))).reshape(len(x), rows * columns, -1)
  for i, layer in enumerate(model.decoder):
    x = block(layer, x, i < len(model.decoder) - 1 or model.output_gelu)
  out = np.zeros_like(image)
  for n in range(rows * columns):
    i, j = divmod(n, columns)
    out[:, i * p : (i + 1) * p, j * q : (j + 1) * q] = x[:, n].reshape(len(x), p, q, -1)
  return code, out


@pytest.mark.parametrize('mixing, encoder_gelu, output_gelu', [
  ('cnn', False, True), ('cnn2df', False, False), ('mlp', False, True),
  pytest.param('cnnf', True, False, marks=pytest.mark.slow), pytest.param('cnn2d', True, True, marks=pytest.mark.slow),
])  # fmt: skip
def test_the_whole_layer_by_layer(mixing, encoder_gelu, output_gelu):
  """With as many numbers in a patch as the first layer is wide, so that the last one has a residual connection too."""
  make_model = functools.partial(
    make, image=(6, 9, 1) if mixing != 'cnn2df' else (6, 6, 1), patch=3, widths=(9, 9, 4), code=5, mixing=mixing,
    after=(1, 3), kernel=3, encoder_gelu=encoder_gelu, output_gelu=output_gelu,
  )  # fmt: skip
  model = networks.build(make_model)
  image = np.random.default_rng(0).uniform(size=(3, *model.image)).astype(np.float32)
  code, out = reference(model, image)
  np.testing.assert_allclose(model.encode(jnp.asarray(image)), code, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(model.decode(jnp.asarray(code)), out, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(model(jnp.asarray(image)), model.decode(model.encode(jnp.asarray(image))))


def of_torch(name, value):
  """Its names and axes -> ours."""
  *path, kind = name.split('.')
  places = {
    'head': ('to_code',),
    'tail': ('from_code',),
    'full': ('linear',),
    'first': ('layers', 0),
    'second': ('layers', 1),
  }
  path = [new for part in path for new in places.get(part, (int(part) if part.isdecimal() else part,))]
  if kind == 'bias':
    return (*path, 'bias'), value
  if value.ndim == 2:
    return (*path, 'kernel'), value.T
  value = value[:, :, None] if value.ndim == 3 else value
  return (*path, 'kernel'), value.transpose(2, 3, 1, 0)


@pytest.mark.parametrize('kind, encoder_gelu, output_gelu', [
  ('cnn', False, False), ('cnnf', True, False), ('cnn2d', True, True), ('cnn2df', True, False), ('mlp', False, True)
])  # fmt: skip
def test_codes_images_and_every_gradient_are_those_of_torch(kind, encoder_gelu, output_gelu):
  with np.load(Path(__file__).parents[1] / 'golden' / 'autoencoder.npz', allow_pickle=False) as file:
    golden = {name.removeprefix(f'{kind}/'): file[name] for name in file if name.split('/')[0] in (kind, 'image')}
  torch = lambda prefix: dict(of_torch(k.removeprefix(prefix), v) for k, v in golden.items() if k.startswith(prefix))
  weights, expected = torch('weight/'), torch('grad/')
  settings = {'image': (6, 6, 1), 'patch': 3, 'widths': (16, 16, 9), 'code': 5, 'after': (1, 3), 'kernel': 3}
  make_model = functools.partial(make, **settings, mixing=kind, encoder_gelu=encoder_gelu, output_gelu=output_gelu)
  graphdef, params = nnx.split(nnx.eval_shape(make_model), nnx.Param)
  assert {path: leaf.shape for path, leaf in nnx.to_flat_state(params)} == {k: v.shape for k, v in weights.items()}
  params = nnx.map_state(lambda path, _: jnp.asarray(weights[path]), params)
  image = golden['image']

  def loss(params):
    model = nnx.merge(graphdef, params)
    output = model(image)
    return ((output - image) ** 2).mean(), (model.encode(image), output)

  (value, (code, output)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  np.testing.assert_allclose(code, golden['code'], rtol=0, atol=1e-5 * np.abs(golden['code']).max())
  np.testing.assert_allclose(output, golden['logits'], rtol=0, atol=1e-5 * np.abs(golden['logits']).max())
  np.testing.assert_allclose(value, golden['loss'], rtol=1e-5)
  for path, grad in nnx.to_flat_state(grads):
    np.testing.assert_allclose(grad[...], expected[path], rtol=0, atol=1e-5 * np.abs(expected[path]).max())


def test_without_mixing_a_patch_alone_sets_its_part_of_the_code():
  model = networks.build(make)
  image = np.random.default_rng(0).uniform(size=(1, 28, 28, 1)).astype(np.float32)

  def features(image):
    x = jnp.asarray(image).reshape(4, 7, 4, 7).transpose(0, 2, 1, 3).reshape(16, 49)
    for layer in model.encoder:
      x = layer(x)
    return np.asarray(x)

  other = image.copy()
  other[0, 8, 8] += 1
  changed = (features(image) != features(other)).any(axis=1)
  assert changed.sum() == 1 and changed[5]


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'mixing': 'mpl'}, "unknown model.mixing.name 'mpl'; did you mean 'mlp'"),
    ({'after': (2,), 'kernel': 4}, 'model.mixing.kernel is 4, but must be odd'),
    ({'mixing': 'cnn2d', 'widths': (64, 60, 16), 'after': (2,)}, 'model.widths is 60; 49 and 64 are'),
    ({'image': (28, 14, 1), 'mixing': 'cnn2df', 'after': (2,)}, 'this is 4x2'),
    ({'after': (5,)}, r'model.after is \[5\], but must name some of the 4 layers'),
    ({'after': (2, 2)}, r'model.after is \[2, 2\]'),
    ({'widths': ()}, r'model.widths is \[\]'),
    ({'code': 0}, 'model.code 0'),
    ({'patch': 5}, 'the patch 5x5 does not divide the image 28x28'),
  ],
)
def test_what_is_refused(settings, message):
  with pytest.raises(MixerError, match=message):
    nnx.eval_shape(functools.partial(make, **settings))


def test_an_image_of_another_shape():
  with pytest.raises(MixerError, match=r'images of shape \(28, 28, 1\), but got \(28, 27, 1\)'):
    nnx.eval_shape(lambda: make().encode(jnp.zeros((2, 28, 27, 1))))


# ---- ours


def mixer(**settings):
  base = {
    'image': (8, 6, 2), 'patch': 2, 'hidden': 8, 'encoder_blocks': 1, 'decoder_blocks': 2, 'token_mlp': 5,
    'channel_mlp': 7, 'bottleneck': 3, 'code': 4, 'bounded': False,
  }  # fmt: skip
  return MixerAutoencoder(**(base | settings), rngs=nnx.Rngs(0))


def test_the_mixers_count_by_hand():
  tokens, hidden, token_mlp, channel_mlp, bottleneck, code, pixels = 12, 8, 5, 7, 3, 4, 8
  linear = lambda i, o: i * o + o
  block = 4 * hidden + linear(tokens, token_mlp) + linear(token_mlp, tokens)
  block += linear(hidden, channel_mlp) + linear(channel_mlp, hidden)
  around = linear(pixels, hidden) + linear(hidden, bottleneck) + linear(tokens * bottleneck, code)
  around += linear(code, tokens * bottleneck) + linear(bottleneck, hidden) + linear(hidden, pixels) + 4 * hidden
  assert count(mixer) == 3 * block + around


def test_the_mixers_shapes_and_gradients():
  model = networks.build(mixer)
  image = jnp.asarray(np.random.default_rng(0).uniform(size=(5, 8, 6, 2)), jnp.float32)
  codes, images = jax.eval_shape(lambda image: (model.encode(image), model(image)), image)
  assert codes.shape == (5, 4) and images.shape == image.shape
  graphdef, params = nnx.split(model, nnx.Param)
  grads = jax.jit(jax.grad(lambda p: ((nnx.merge(graphdef, p)(image) - image) ** 2).mean()))(params)
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))
  size = math.prod(model.image)
  jacobian = jax.jit(jax.jacobian(lambda x: model(x)))(image[:1])
  assert np.linalg.matrix_rank(np.asarray(jacobian).reshape(size, size), tol=1e-4) <= 4


@pytest.mark.slow
def test_black_images_have_gradients_like_others():
  make_model = functools.partial(mixer, encoder_blocks=4, decoder_blocks=6)
  graphdef, params = networks.start(make_model)
  loss = lambda p, image: ((nnx.merge(graphdef, p)(image) - image - 1) ** 2).mean()
  norm = jax.jit(lambda image: optax.tree.norm(jax.grad(loss)(params, image)))
  other = norm(jnp.asarray(np.random.default_rng(0).uniform(size=(5, 8, 6, 2)), jnp.float32))
  assert norm(jnp.zeros((5, 8, 6, 2))) < 10 * other


def test_bounded_is_a_sigmoid_of_the_same_network():
  image = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 8, 6, 2)), jnp.float32)
  run = lambda **settings: jax.jit(lambda: mixer(**settings)(image))()
  free, bounded = run(), run(bounded=True)
  np.testing.assert_allclose(bounded, 1 / (1 + np.exp(-free)), rtol=1e-5)
  assert np.asarray(free).min() < 0


@pytest.mark.parametrize('what', ['hidden', 'token_mlp', 'channel_mlp', 'bottleneck', 'code'])
def test_a_size_of_nothing(what):
  with pytest.raises(MixerError, match=f'model.{what} is 0'):
    nnx.eval_shape(functools.partial(mixer, **{what: 0}))


@pytest.mark.parametrize('what', ['encoder_blocks', 'decoder_blocks'])
def test_blocks_may_be_none_but_not_fewer(what):
  nnx.eval_shape(functools.partial(mixer, **{what: 0}))
  with pytest.raises(MixerError, match=f'model.{what} is -1, but must be at least 0'):
    nnx.eval_shape(functools.partial(mixer, **{what: -1}))


def test_defaults():
  image = {'image': (8, 8, 1), 'patch': 2, 'code': 4}
  plain = nnx.eval_shape(lambda: MixingAutoencoder(**image, widths=(9, 4), rngs=nnx.Rngs(0)))
  assert len(plain.encoder) == 2 and not plain.encoder_gelu and not plain.output_gelu
  mixed = nnx.eval_shape(lambda: MixingAutoencoder(**image, widths=(9, 4), after=(2,), rngs=nnx.Rngs(0)))
  assert mixed.encoder[2].layers[0].kernel.shape == (1, 3, 16, 16)
  sizes = {'hidden': 8, 'encoder_blocks': 1, 'decoder_blocks': 1, 'token_mlp': 3, 'channel_mlp': 4, 'bottleneck': 2}
  assert nnx.eval_shape(lambda: MixerAutoencoder(**image, **sizes, rngs=nnx.Rngs(0))).bounded
