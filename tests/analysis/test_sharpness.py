"""Sharpness against what is known exactly: quadratics, and the whole Hessian of a tiny Mixer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from matplotlib import figure
from PIL import Image

from mixer_jax import config as configs
from mixer_jax.analysis import sharpness
from mixer_jax.data.images import sets
from mixer_jax.errors import MixerError
from mixer_jax.inference import objective
from mixer_jax.training import experiment as experiments

SETTINGS = {
  'eigenvalues': 3, 'iterations': 12, 'probes': 4, 'rho': 0.1, 'm': 7, 'points': 5, 'span': 1.0, 'seed': 0,
  'note': lambda text: None,
}  # fmt: skip


# ---- a quadratic: the loss of an example is that of the distance to a point of its own


def tree(seed=0):
  random = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)
  return {'first': {'kernel': draw(3, 4), 'bias': draw(4)}, 'rest': [draw(2), {'kernel': draw(2, 2, 3)}]}


SIZE, EXAMPLES = 30, 23


def quadratic(seed=0, batch=5, padding=True):
  """(losses, batches, matrix, points): 23 examples in batches, the last padded with points far away."""
  random = np.random.default_rng(seed)
  matrix = random.normal(size=(SIZE, SIZE)).astype(np.float32)
  matrix = (matrix + matrix.T) / 2
  points = random.normal(size=(EXAMPLES, SIZE)).astype(np.float32)
  missing = -EXAMPLES % batch
  padded = np.concatenate([points, 1e3 * random.normal(size=(missing, SIZE)).astype(np.float32)])
  mask = (np.arange(len(padded)) < EXAMPLES).astype(np.float32)

  def losses(params, batch):
    distance = ravel_pytree(params)[0] - batch['point']
    return jnp.einsum('bi,ij,bj->b', distance, matrix, distance, precision='highest') / 2

  batches = {'point': jnp.asarray(padded.reshape(-1, batch, SIZE)), 'mask': jnp.asarray(mask.reshape(-1, batch))}
  return losses, batches, matrix.astype(np.float64), points.astype(np.float64)


def flat(params):
  return np.asarray(ravel_pytree(params)[0], np.float64)


@pytest.mark.parametrize('batch', [1, 5, 23, 40])
def test_loss_gradient_and_product_whatever_the_batches(batch):
  losses, batches, matrix, points = quadratic(batch=batch)
  distance = flat(tree()) - points
  vector = np.random.default_rng(1).normal(size=SIZE).astype(np.float32)
  wanted = np.einsum('bi,ij,bj->b', distance, matrix, distance).mean() / 2
  assert float(sharpness.mean_loss(losses, tree(), batches)) == pytest.approx(wanted, rel=1e-5)
  np.testing.assert_allclose(sharpness.gradient(losses, tree(), batches), matrix @ distance.mean(0), atol=1e-4)
  np.testing.assert_allclose(sharpness.hvp(losses, tree(), batches, vector), matrix @ vector, atol=2e-5)


def test_all_eigenvalues_of_a_quadratic():
  losses, batches, matrix, _ = quadratic()
  product = functools.partial(sharpness.hvp, losses, tree(), batches)
  found = sharpness.lanczos(product, SIZE, count=SIZE, iterations=SIZE + 9, seed=0)
  values, vectors = np.linalg.eigh(matrix)
  np.testing.assert_allclose(found.values, values[::-1], atol=1e-5)
  assert found.smallest == found.values[-1] and found.residuals.max() < 2e-5
  assert abs(found.vector @ vectors[:, -1]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize('iterations', [3, 8, 15, 24])
def test_an_eigenvalue_lies_within_each_residual(iterations):
  matrix = quadratic()[2]
  exact = np.linalg.eigvalsh(matrix)
  found = sharpness.lanczos(lambda v: matrix @ v, SIZE, count=3, iterations=iterations, seed=1)
  for value, residual in zip([*found.values, found.smallest], [*found.residuals, found.smallest_residual], strict=True):
    assert np.abs(exact - value).min() <= residual + 1e-5
  assert exact[0] - 1e-5 <= found.smallest <= found.values[-1] <= found.values[0] <= exact[-1] + 1e-5
  if iterations == 24:
    np.testing.assert_allclose(found.values, exact[::-1][:3], atol=1e-4)
    assert found.smallest == pytest.approx(exact[0], abs=1e-4)
  if iterations == 3:
    assert found.residuals.max() > 0.1  # not yet there, and says so


@pytest.mark.parametrize('eigenvalues', [[0] * 8, [2.5] * 8, [0, 0, 0, 0, 0, 0, 3, 7], [-1, -1, -1, -1, 4, 4, 4, 4]])
def test_few_different_eigenvalues(eigenvalues):
  basis = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
  matrix = basis * eigenvalues @ basis.T
  found = sharpness.lanczos(lambda v: matrix @ v, 8, count=2, iterations=8, seed=0)
  np.testing.assert_allclose(found.values, sorted(eigenvalues)[::-1][:2], atol=1e-5)
  assert found.smallest == pytest.approx(min(eigenvalues), abs=1e-5) and found.residuals.max() < 1e-5


def test_trace_and_its_standard_error():
  matrix = quadratic()[2]
  estimates = [sharpness.trace(lambda v: matrix @ v, SIZE, probes=200, seed=seed) for seed in range(40)]
  means, errors = np.array(estimates).T
  # Of random signs the variance is twice the sum of the squares off the diagonal.
  deviation = np.sqrt(2 * (np.square(matrix).sum() - np.square(np.diag(matrix)).sum()) / 200)
  assert errors.mean() == pytest.approx(deviation, rel=0.05)
  scaled = (means - np.trace(matrix)) / deviation
  assert abs(scaled.mean()) < 4 / np.sqrt(40) and scaled.std() == pytest.approx(1, abs=0.3)


def test_the_trace_of_a_diagonal_has_no_error():
  diagonal = np.random.default_rng(0).normal(size=50)
  mean, error = sharpness.trace(lambda v: diagonal * v, 50, probes=3, seed=0)
  assert mean == pytest.approx(diagonal.sum(), rel=1e-6) and error < 1e-12


@pytest.mark.parametrize('m', [1, 4, 7, 23])
@pytest.mark.parametrize('rho', [0.05, 2.0])
def test_m_sharpness_by_hand(rho, m):
  losses, batches, matrix, points = quadratic()
  rises = sharpness.m_sharpness(losses, tree(), batches, rho=rho, m=m)
  assert len(rises) == EXAMPLES // m
  for i, rise in enumerate(rises):
    gradient = matrix @ (flat(tree()) - points[i * m : (i + 1) * m].mean(0))
    length = np.linalg.norm(gradient)
    assert rise == pytest.approx(rho * length + rho**2 / 2 * gradient @ matrix @ gradient / length**2, abs=1e-3)


def test_m_sharpness_where_nothing_has_a_gradient():
  _, batches, _, _ = quadratic()
  flat_losses = lambda params, batch: batch['point'][:, 0] + 0 * params['first']['bias'].sum()
  np.testing.assert_array_equal(sharpness.m_sharpness(flat_losses, tree(), batches, rho=1.0, m=5), 0)


def test_lines_and_surface_by_hand():
  losses, batches, matrix, points = quadratic()
  params, first, second = tree(), tree(1), tree(2)
  loss = lambda w: np.mean([(w - p) @ matrix @ (w - p) / 2 for p in points])
  at = np.linspace(-0.5, 0.5, 3)
  of_line = sharpness.line(losses, params, first, at, batches)
  np.testing.assert_allclose(of_line, [loss(flat(params) + a * flat(first)) for a in at], rtol=1e-4)
  found = sharpness.surface(losses, params, first, second, at, batches)
  wanted = [[loss(flat(params) + a * flat(first) + b * flat(second)) for a in at] for b in at]
  np.testing.assert_allclose(found, wanted, rtol=1e-4)
  middles = found[1, 1], of_line[1], float(sharpness.mean_loss(losses, params, batches))
  assert middles == pytest.approx((loss(flat(params)),) * 3, rel=1e-5)


# ---- directions


def lengths(array, axes):
  return np.sqrt(np.square(np.asarray(array, np.float64)).sum(axes))


def test_every_filter_keeps_its_length():
  random = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(random.lognormal(size=shape) * random.choice([-1, 1], shape), jnp.float32)
  params = {
    'fc': {'kernel': draw(6, 4).at[:, 2].set(0), 'bias': draw(4)},
    'convolution': {'kernel': draw(3, 5, 2, 4), 'bias': draw(4)},
    'blocks': {'fc': {'kernel': draw(3, 6, 4), 'bias': draw(3, 4)}, 'norm': {'scale': draw(3, 6)}},
    'table': {'embedding': draw(7, 4)},
  }
  moved = sharpness.filter_normalised(params, 0)
  for name, axes in (('fc', 0), ('convolution', (0, 1, 2))):
    np.testing.assert_allclose(lengths(moved[name]['kernel'], axes), lengths(params[name]['kernel'], axes), rtol=1e-5)
    assert not moved[name]['bias'].any()
  stacked = moved['blocks']['fc']['kernel'], params['blocks']['fc']['kernel']
  np.testing.assert_allclose(*(lengths(kernel, 1) for kernel in stacked), rtol=1e-5)  # of each block its own
  assert not moved['blocks']['fc']['bias'].any() and not moved['blocks']['norm']['scale'].any()
  np.testing.assert_allclose(
    lengths(moved['table']['embedding'], 0), lengths(params['table']['embedding'], 0), rtol=1e-5
  )
  other = sharpness.filter_normalised(params, 1)
  again = sharpness.filter_normalised(params, 0)
  assert all(map(np.array_equal, jax.tree.leaves(moved), jax.tree.leaves(again)))
  assert abs(np.corrcoef(flat(moved), flat(other))[0, 1]) < 0.3


# ---- models


def build(config='digits', **changes):
  config = configs.load([f'--config=configs/{config}.py'])
  model = changes.pop('model', {})
  config['model'] = model if 'name' in model else config['model'] | model
  return experiments.build(config | {'augment': {}} | changes)


TINY = {'patch': 4, 'hidden': 4, 'blocks': 2, 'token_mlp': 3, 'channel_mlp': 3, 'dropout': 0.3}


def parameters(experiment, seed=0):
  """Away from the first ones, where the head is zero."""
  random = np.random.default_rng(seed)
  shapes = nnx.state(experiment.model, nnx.Param)
  return jax.tree.map(lambda s: jnp.asarray(0.5 * random.normal(size=s.shape), jnp.float32), shapes)


@pytest.fixture(scope='module')
def digits():
  return sets.load('digits', 'train', image=(8, 8, 1), classes=10)


@pytest.mark.parametrize('scan, blocks', [(False, 1), pytest.param(True, 2, marks=pytest.mark.nightly)])
def test_eigenvalues_and_trace_of_a_mixer_are_those_of_its_whole_hessian(scan, blocks, digits):
  experiment = build(model=TINY | {'scan': scan, 'blocks': blocks}, eval_batch_size=16)
  params = parameters(experiment)
  assert experiment.parameters < 300
  losses, batches = objective.make_losses(experiment), objective.stack_examples(experiment, digits, 37)
  assert batches['image'].shape == (3, 16, 8, 8, 1) and float(batches['mask'].sum()) == 37
  image, label = (np.asarray(batches[name]).reshape(48, *batches[name].shape[2:])[:37] for name in ('image', 'label'))
  assert len(np.unique(image, axis=0)) == 37 and len(np.unique(label)) > 5

  def loss(vector):
    model = nnx.merge(experiment.graphdef, ravel_pytree(params)[1](vector))
    logits = model((image / 255 - experiment.data.mean[0]) / experiment.data.std[0])
    target = optax.smooth_labels(jax.nn.one_hot(label, 10), experiment.settings.task['label_smoothing'])
    return optax.softmax_cross_entropy(logits, target).mean()

  vector = ravel_pytree(params)[0]
  hessian = np.asarray(jax.jit(jax.hessian(loss))(vector), np.float64)
  exact = np.linalg.eigvalsh((hessian + hessian.T) / 2)
  found = sharpness.analyse(losses, params, batches, **SETTINGS | {'eigenvalues': 5, 'iterations': 80, 'probes': 300})
  scale = exact[-1]
  np.testing.assert_allclose(found['eigenvalues'], exact[::-1][:5], atol=3e-5 * scale)
  assert found['smallest'] == pytest.approx(exact[0], abs=3e-5 * scale)
  assert max(*found['residuals'], found['smallest_residual']) < 1e-4 * scale
  beside = np.square(hessian).sum() - np.square(np.diag(hessian)).sum()
  assert found['trace_standard_error'] == pytest.approx(np.sqrt(2 * beside / 300), rel=0.3)
  assert abs(found['trace'] - np.trace(hessian)) < 4 * found['trace_standard_error']
  assert found['loss'] == pytest.approx(float(loss(vector)), rel=1e-5)
  gradient = np.asarray(jax.grad(loss)(vector))
  assert found['gradient_norm'] == pytest.approx(np.linalg.norm(gradient), rel=1e-4)
  middles = found['surface']['loss'][2][2], found['line']['random']['loss'][4], found['line']['sharpest']['loss'][4]
  assert middles == pytest.approx((found['loss'],) * 3, rel=1e-6)
  assert found['line']['sharpest']['curvature'] == pytest.approx(exact[-1], rel=1e-4)


AUTOENCODER = {'name': 'mixing_autoencoder', 'patch': 4, 'widths': (4,), 'code': 3, 'after': (1,)}
AUTOENCODER |= {'encoder_gelu': True, 'output_gelu': False}


night = functools.partial(pytest.param, marks=pytest.mark.nightly)


@pytest.mark.parametrize(
  'config, model',
  [
    ('digits', TINY | {'name': 'mnist_mixer', 'head': (), 'gelu': 'exact', 'remat': True, 'scan': True}),
    ('digits_autoencoder', AUTOENCODER | {'mixing': {'name': 'mlp'}}),
    night('digits_autoencoder', AUTOENCODER | {'mixing': {'name': 'cnn2df', 'kernel': 3}}),
    ('digits_autoencoder', {'name': 'cnn_autoencoder', 'channels': (2, 2), 'kernel': 3, 'code': 3}),
    night('digits_autoencoder', {'name': 'cnn_autoencoder', 'channels': (2,), 'kernel': 5, 'code': 3}),
  ],
)
def test_products_with_the_hessian_of_every_kind_of_layer(config, model, digits):
  experiment = build(config, model=model, eval_batch_size=16)
  params = parameters(experiment)
  losses, batches = objective.make_losses(experiment), objective.stack_examples(experiment, digits, 20)
  random = np.random.default_rng(0)
  first, second = (random.normal(size=experiment.parameters).astype(np.float32) for _ in range(2))
  product = lambda vector: np.asarray(sharpness.hvp(losses, params, batches, vector))
  assert first @ product(second) == pytest.approx(second @ product(first), rel=1e-3, abs=1e-3)
  other_way = jax.grad(lambda params: sharpness.gradient(losses, params, batches) @ first)(params)
  wanted = np.asarray(ravel_pytree(other_way)[0])
  assert np.linalg.norm(product(first) - wanted) < 1e-4 * np.linalg.norm(wanted)


# ---- the whole analysis


def analyse(params=None, batch=5, losses=None, **settings):
  own, batches, _, _ = quadratic(batch=batch)
  return sharpness.analyse(losses or own, tree() if params is None else params, batches, **SETTINGS | settings)


def test_everything_is_a_function_of_the_seed():
  first, again, other = analyse(), analyse(), analyse(seed=1)
  assert first == again
  assert first['trace'] != other['trace'] and first['surface'] != other['surface']
  assert first['m_sharpness'] == other['m_sharpness'] and first['loss'] == other['loss']
  assert (first['groups'], first['m'], first['examples'], first['parameters']) == (3, 7, EXAMPLES, SIZE)


def test_batches_change_nothing_but_rounding():
  first, other = analyse(), analyse(batch=23)
  for name in ('loss', 'gradient_norm', 'eigenvalues', 'smallest', 'trace', 'trace_standard_error', 'm_sharpness'):
    np.testing.assert_allclose(other[name], first[name], rtol=1e-4, err_msg=name)
  np.testing.assert_allclose(other['surface']['loss'], first['surface']['loss'], rtol=1e-3)


def test_the_sharpest_line_reaches_as_far_as_asked():
  found = analyse(reach=0.125)['line']
  assert found['sharpest']['at'] == pytest.approx(np.linspace(-0.125, 0.125, 9)) and found['random']['at'][-1] == 1


def test_few_examples_make_one_group():
  found = analyse(m=None)
  assert (found['m'], found['groups'], found['m_sharpness_standard_error']) == (EXAMPLES, 1, None)


@pytest.mark.parametrize(
  'settings, parts',
  [
    ({'rho': -0.1}, ['--rho is -0.1', 'above 0']),
    ({'rho': float('nan')}, ['--rho is nan', 'above 0']),
    ({'span': float('inf')}, ['--span is inf', 'finite']),
    ({'reach': 0.0}, ['--reach is 0.0', 'above 0']),
    ({'m': 0}, ['--m is 0', 'at least 1']),
    ({'m': 24}, ['--m is 24', '23 examples', '--examples']),
    ({'probes': 1}, ['--probes is 1', 'at least 2']),
    ({'eigenvalues': 0}, ['--eigenvalues is 0', 'at least 1']),
    ({'eigenvalues': 13}, ['--eigenvalues is 13', '--iterations is 12']),
    ({'eigenvalues': 31, 'iterations': 40}, ['--eigenvalues is 31', '30 parameters']),
    ({'iterations': 0}, ['--iterations is 0', 'at least 1']),
    ({'points': 4}, ['--points is 4', 'odd']),
    ({'points': 1}, ['--points is 1', 'at least 3']),
    ({'seed': -1}, ['--seed is -1', 'at least 0']),
  ],
)
def test_settings_that_cannot_be(settings, parts):
  with pytest.raises(MixerError) as error:
    analyse(**settings)
  assert all(part in str(error.value) for part in parts), error.value


def test_what_is_not_finite():
  broken = tree()
  broken['rest'][1]['kernel'] = broken['rest'][1]['kernel'].at[0, 1, 1].set(jnp.nan)
  with pytest.raises(MixerError, match=r'rest\.1\.kernel is not finite'):
    analyse(broken)
  with pytest.raises(MixerError, match='the loss of the 23 examples is inf'):
    analyse(batch=23, losses=lambda params, batch: jnp.full(23, jnp.inf) + params['rest'][0].sum())
  kink = lambda params, batch: jnp.full(5, jnp.sqrt(jnp.square(params['rest'][0] - params['rest'][0]).sum() ** 3))
  with pytest.raises(MixerError, match='second derivative|not finite'):
    analyse(losses=kink)


# ---- figures


def found_of(losses):
  """The numbers that a figure is drawn from, of a square of losses."""
  losses = np.asarray(losses, object)
  at = np.linspace(-1, 1, len(losses)).tolist()
  of_line = {'at': at, 'loss': losses[len(losses) // 2].tolist(), 'slope': 0.1, 'curvature': 2.0}
  line = {'random': of_line, 'sharpest': of_line}
  return {'loss': 1.0, 'eigenvalues': [2.0], 'line': line, 'surface': {'at': at, 'loss': losses.tolist()}}


BOWL = 1 + np.square(np.linspace(-1, 1, 5))[:, None] + np.square(np.linspace(-1, 1, 5))


@pytest.mark.parametrize(
  'losses',
  [
    BOWL,
    np.where(BOWL > 2.5, None, BOWL.astype(object)),
    np.ones((5, 5)),
    10 ** (3 * BOWL),
    BOWL - 3,
  ],
  ids=['bowl', 'not finite in the corners', 'flat', 'steep', 'negative'],
)
def test_figures_of_all_kinds_of_losses(losses, tmp_path):
  found = found_of(losses)
  for name, draw in (('lines', sharpness.draw_lines), ('surface', sharpness.draw_surface)):
    draw(found, tmp_path / f'{name}.png')
    with Image.open(tmp_path / f'{name}.png') as picture:
      grey = np.asarray(picture.convert('L'))
      assert picture.format == 'PNG' and round(picture.info['dpi'][0]) == 150 and grey.std() > 5


def test_the_parabola_is_smooth_where_points_are_few(tmp_path, monkeypatch):
  figures = []
  monkeypatch.setattr(figure.Figure, 'savefig', lambda self, *a, **k: figures.append(self))
  sharpness.draw_lines(found_of(BOWL), tmp_path / 'lines.png')
  at, values = figures[0].axes[0].lines[1].get_data()
  assert len(at) > 100 and np.allclose(values, 1 + 0.1 * at + at**2)


def test_the_surface_is_darker_where_the_loss_is_higher(tmp_path):
  first = np.linspace(-1, 1, 5)
  sharpness.draw_surface(found_of(np.tile(2 + first, (5, 1))), tmp_path / 'surface.png')  # rises along the first
  with Image.open(tmp_path / 'surface.png') as picture:
    grey = np.asarray(picture.convert('L')).astype(float)
  row = grey[grey.shape[0] // 3]
  left, right = (row[round(share * len(row))] for share in (0.22, 0.68))
  assert left > right + 50
