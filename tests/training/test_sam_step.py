"""SAM inside the train step: what both gradients share, accumulation, devices, what is logged and refused.

This file is also the command that the process with four simulated devices runs, `python test_sam_step.py FILE`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import kill
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from mixer_jax import config as configs
from mixer_jax.errors import MixerError
from mixer_jax.optim import groups
from mixer_jax.optim.schedules import Length
from mixer_jax.training import experiment as experiments
from mixer_jax.training import mesh as meshes
from mixer_jax.training.step import is_finite

LENGTH = Length(100, 10.0)
RHO = 0.1
SAM = {'name': 'sam', 'rho': RHO, 'sync': True}


METHODS = {
  'sam': {}, 'asam': {'eta': 0.01}, 'gsam': {'rho_min': 0.02, 'alpha': 0.4},
  'fisher_sam': {'sparsity': 0.5, 'refresh': 5}, 'dynamic_sam': {'sparsity': 0.5, 'refresh': 5, 'drop': 0.5},
  'look_sam': {'every': 2, 'alpha': 0.7},
}  # fmt: skip
WRITTEN_OUT = ('asam', 'gsam', 'fisher_sam')  # sam has its own; look_sam begins as it, dynamic_sam at random


def method(name, **changes):
  return {'name': name, 'rho': RHO, 'sync': True, **METHODS[name], **changes}


def build(mesh='1x1', dropout=0.0, blocks=1, **changes):
  data, fsdp = map(int, mesh.split('x'))
  config = configs.load(['--config=configs/digits.py'])
  config['model'] |= {'hidden': 16, 'blocks': blocks, 'token_mlp': 8, 'channel_mlp': 32, 'dropout': dropout}
  config |= {
    'batch_size': 16, 'ema': 0.0, 'augment': {}, 'mesh': {'data': data, 'fsdp': fsdp}, 'sam': SAM,
    'schedule': {'name': 'constant', 'peak': 0.1, 'warmup': '0'},
    # Adam would turn the rounding of gradients that are zero into steps.
    'optimizer': {'name': 'sgd', 'momentum': 0.0, 'clip': 0.0},
  } | changes  # fmt: skip
  experiment = experiments.build(config)
  return experiment, experiment.optimizer(LENGTH)[0]


def batch(seed=0, size=16):
  random = np.random.default_rng(seed)
  image = random.integers(0, 256, (size, 8, 8, 1), np.uint8)
  return {'image': jnp.asarray(image), 'label': jnp.asarray(random.integers(0, 10, size), jnp.int32)}


def start(experiment, optimizer):
  """A state away from the first parameters, where the head is zero and so is the gradient of all before it."""
  state, random = experiment.init_state(optimizer), np.random.default_rng(3)
  noise = lambda p: (0.1 * random.normal(size=p.shape)).astype(np.float32)
  moved = jax.tree.map(lambda p: jax.device_put(np.asarray(p) + noise(p), p.sharding), state.params)
  return state._replace(params=moved)


def after(mesh='1x1', **changes):
  experiment, optimizer = build(mesh, **changes)
  before = start(experiment, optimizer)
  step = jax.jit(experiment.train_step(optimizer, LENGTH))
  data = jax.device_put(batch(), meshes.over_batch(experiment.mesh))
  return experiment, before, step(before, data), lambda: step.lower(before, data)


def written_out(gradient, params, data):
  """(loss, gradient) at the params, then at SAM's perturbation of them, with one dropout mask."""
  first, g = gradient(params, data)
  norm = np.sqrt(sum(np.square(x).sum() for x in jax.tree.leaves(jax.device_get(g))))
  perturbed = jax.tree.map(lambda p, x: np.asarray(p) + RHO * np.asarray(x) / norm, params, g)
  return (first, g), gradient(perturbed, data)


def gradient_of(experiment, dropout_key=None):
  """(params, data) -> (loss, gradient), compiled once for each number of examples."""

  def loss(params, data):
    rngs = None if dropout_key is None else nnx.Rngs(dropout=dropout_key)
    logits = nnx.merge(experiment.graphdef, params)(data['image'], rngs=rngs)
    return experiment.task.scores(logits, data, training=True)['loss'].mean()

  return jax.jit(jax.value_and_grad(loss))


def first_step(name, gradient_at, params, shares):
  """(new params, [loss, sam_loss, sam_norm]) of a method's first step, all in NumPy but the gradients.

  Args:
    shares: the batch, or the parts of it that have a perturbation of their own.
  """
  w, tree = ravel_pytree(params)
  w = np.asarray(w, np.float64)
  of_kernel = jax.tree.map_with_path(lambda path, p: jnp.full(p.shape, groups.name(path)[-1] == 'kernel'), params)
  kernel = np.asarray(ravel_pytree(of_kernel)[0]).astype(bool)

  def gradient(x, share):
    loss, g = gradient_at(tree(jnp.asarray(x, jnp.float32)), share)
    return float(loss), np.asarray(ravel_pytree(g)[0], np.float64)

  firsts = [gradient(w, share) for share in shares]
  found = []
  for share, (loss, g) in zip(shares, firsts, strict=True):
    e = RHO * g / np.linalg.norm(g)
    if name == 'asam':
      size = np.where(kernel, np.abs(w) + 0.01, 1)
      e = RHO * size**2 * g / np.linalg.norm(size * g)
    if name == 'fisher_sam':
      e *= np.argsort(np.argsort(-np.square(np.mean([g for _, g in firsts], axis=0)))) < w.size - round(w.size / 2)
    there, second = gradient(w + e, share)
    if name == 'gsam':
      unit = second / np.linalg.norm(second)
      second = second - 0.4 * (g - g @ unit * unit)
    found.append((second, loss, there, np.linalg.norm(e)))
  second, *numbers = (np.mean(column, axis=0) for column in zip(*found, strict=True))
  return w - 0.1 * second, numbers


def keys_of(experiment, step=0):
  return jax.random.split(jax.random.fold_in(jax.random.key(experiment.settings.seed), step))


def assert_close(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **{'rtol': 1e-4, 'atol': 1e-6} | tolerance), a, b)


def test_both_gradients_have_the_same_augmentation_and_dropout():
  experiment, before, state, _ = after(dropout=0.3, augment={'affine': {'degrees': 20.0}})
  augment_key, dropout_key = keys_of(experiment)
  data = jax.jit(experiment.preprocess, static_argnums=2)(batch(), augment_key, True)
  (loss, g), (there, second) = written_out(gradient_of(experiment, dropout_key), before.params, data)
  assert_close(state.params, jax.tree.map(lambda p, x: p - 0.1 * x, before.params, second))
  sums = {name: float(value) for name, value in state.sums.items()}
  assert sums['loss'] / 16 == pytest.approx(float(loss), rel=1e-4)
  assert sums['grad_norm'] == pytest.approx(float(optax.tree.norm(g)), rel=1e-4)
  assert (sums['sam_norm'], sums['sam_taken']) == (pytest.approx(RHO, rel=1e-4), 1)
  assert sums['sam_loss'] == pytest.approx(float(there), rel=1e-4)
  assert sums['sam_loss'] > sums['loss'] / 16 + 1e-3


def test_accumulation_has_one_perturbation_of_the_whole_batch():
  """Without dropout, whose masks would be of the parts."""
  whole, cut = (after(accumulate=k)[2] for k in (1, 4))
  assert_close(cut.params, whole.params, rtol=1e-5)
  assert_close(cut.sums, whole.sums, rtol=1e-4)


def test_look_sam_is_logged_for_the_steps_that_took_it():
  experiment, optimizer = build(sam={'name': 'look_sam', 'rho': RHO, 'every': 3, 'alpha': 0.7})
  step = jax.jit(experiment.train_step(optimizer, LENGTH))
  state = start(experiment, optimizer)
  for seed in range(4):
    state = step(state, batch(seed))
  sums = {name: float(value) for name, value in state.sums.items()}
  assert (sums['sam_taken'], sums['steps']) == (2, 4)
  assert sums['sam_norm'] / sums['sam_taken'] == pytest.approx(RHO, rel=1e-4)


@pytest.mark.parametrize('sam', [{}, SAM])
def test_what_is_frozen_stays_and_is_not_perturbed(sam):
  freeze = ('stem', 'blocks.1.token_*')
  adamw = {'name': 'adamw', 'b1': 0.9, 'b2': 0.999, 'eps': 1e-8, 'weight_decay': 0.5, 'clip': 1.0}
  noise = {'eta': 1e-4, 'gamma': 0.55}
  changes = {'optimizer': adamw, 'update_noise': noise, 'layers': {'freeze': freeze}}
  experiment, before, state, _ = after(sam=sam, blocks=2, **changes)
  for (path, old), (_, new) in zip(*(nnx.to_flat_state(s.params) for s in (before, state)), strict=True):
    name = '.'.join(map(str, path))
    moved = not np.array_equal(old[...], new[...])
    assert moved != name.startswith(('stem', 'blocks.1.token')), name
  if sam:
    _, g = gradient_of(experiment, keys_of(experiment)[1])(before.params, experiment.preprocess(batch(), None, False))
    still = lambda path: '.'.join(map(str, path)).startswith(('stem', 'blocks.1.token'))
    free = [x[...] for path, x in nnx.to_flat_state(g) if not still(path)]
    norm = float(np.sqrt(sum(float(jnp.square(x).sum()) for x in free)))
    assert float(state.sums['grad_norm']) == pytest.approx(norm, rel=1e-4)


def test_what_is_frozen_has_every_bit_of_before_also_under_schedule_free():
  """Its own arithmetic would round: x and y of equal z are not equal to it."""
  free = {'name': 'schedule_free', 'b1': 0.9, 'b2': 0.99, 'eps': 1e-8, 'weight_decay': 0.1, 'clip': 1.0}
  experiment, optimizer = build(optimizer=free, sam=SAM, blocks=2, layers={'freeze': ('stem', 'blocks.0')})
  step = jax.jit(experiment.train_step(optimizer, LENGTH))
  before = state = start(experiment, optimizer)
  state = state._replace(opt_state=optimizer.init(state.params))
  for seed in range(3):
    state = step(state, batch(seed))
  for (path, old), (_, new) in zip(*(nnx.to_flat_state(s.params) for s in (before, state)), strict=True):
    still = path[0] == 'stem' or path[:2] == ('blocks', 0)
    assert np.array_equal(old[...], new[...]) == still, path


def test_one_block_of_a_stack_stays_and_the_others_have_rates_of_their_own():
  model = configs.load(['--config=configs/digits.py'])['model'] | {'scan': True, 'dropout': 0.0}
  model |= {'hidden': 8, 'blocks': 3, 'token_mlp': 4, 'channel_mlp': 8}
  experiment, before, state, _ = after(model=model, sam={}, layers={'freeze': ('blocks.1',), 'decay': 0.5})
  _, g = gradient_of(experiment)(before.params, experiment.preprocess(batch(), None, False))
  squares = 0.0
  flat = (nnx.to_flat_state(tree) for tree in (before.params, state.params, g))
  for (path, old), (_, new), (_, x) in zip(*flat, strict=True):
    old, new, x = np.array(old[...]), np.array(new[...]), np.array(x[...])
    rate = np.float32(0.5**4 if path[0] == 'stem' else 1)
    if path[0] == 'blocks':
      x[1] = 0
      rate = np.float32([0.5**3, 0, 0.5]).reshape(3, *[1] * (x.ndim - 1))
      np.testing.assert_array_equal(new[1], old[1])
    np.testing.assert_allclose(new - old, -0.1 * rate * x, rtol=1e-3, atol=1e-6, err_msg=str(path))
    squares += np.square(x).sum()
  assert float(state.sums['grad_norm']) == pytest.approx(np.sqrt(squares), rel=1e-4)


@pytest.mark.parametrize('name', METHODS)
def test_rho_0_is_no_sam_bit_for_bit(name, without_sam):
  """Without sync, too, where devices would else have shares and dropout masks of their own."""
  none = {'rho_min': 0.0} if name == 'gsam' else {}
  _, _, state, _ = after(dropout=0.3, sam=method(name, rho=0.0, sync=False, **none))
  jax.tree.map(np.testing.assert_array_equal, state.params, without_sam.params)
  for sum_name, value in without_sam.sums.items():
    np.testing.assert_array_equal(state.sums[sum_name], value, err_msg=sum_name)
  assert float(state.sums['sam_taken']) == 0


@pytest.fixture(scope='module')
def without_sam():
  return after(dropout=0.3, sam={})[2]


def test_a_loss_that_is_not_finite_at_the_perturbation_stops_the_run():
  _, _, state, _ = after(sam=SAM | {'rho': 1e30})
  assert np.isfinite(float(state.sums['loss'])) and not is_finite(state.sums)


def work(path):
  """What the process with four devices finds."""
  found = {}
  flat = lambda tree: np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(jax.device_get(tree))])
  for mesh in ('4x1', '1x4', '2x2'):
    _, _, state, together = after(mesh)
    found[f'sync {mesh}'] = flat(state.params).tolist()
    experiment, before, state, apart = after(mesh, sam=SAM | {'sync': False})
    found[f'own {mesh}'] = flat(state.params).tolist()
    found[f'loss {mesh}'] = [float(state.sums[name]) for name in ('loss', 'sam_loss', 'sam_norm')]
    if mesh == '4x1':
      cut = after(mesh, sam=SAM | {'sync': False}, accumulate=2)[2]
      found['own accumulated'] = flat(cut.params).tolist()
      for name in WRITTEN_OUT:
        for sync in (True, False):
          state = after(mesh, sam=method(name, sync=sync))[2]
          found[f'{name} {sync}'] = flat(state.params).tolist()
          found[f'{name} {sync} numbers'] = [float(state.sums[of]) for of in ('loss', 'sam_loss', 'sam_norm')]
      found['gathers'] = [lower().compile().as_text().count('all-gather(') for lower in (together, apart)]
  Path(path).write_text(json.dumps(found))


@pytest.fixture(scope='module')
def on_four_devices(tmp_path_factory):
  path = tmp_path_factory.mktemp('devices') / 'found.json'
  environment = {
    **os.environ, 'XLA_FLAGS': kill.devices(4), 'JAX_PLATFORMS': 'cpu',
  }  # fmt: skip
  subprocess.run([sys.executable, __file__, str(path)], check=True, env=environment)
  return {name: np.asarray(value) for name, value in json.loads(path.read_text()).items()}


@pytest.fixture(scope='module')
def on_paper():
  """(gradient, params, the batch, its quarters) on one device."""
  experiment, optimizer = build()
  data = jax.device_get(experiment.preprocess(batch(), None, False))
  quarters = [jax.tree.map(lambda x, i=i: x[4 * i : 4 * i + 4], data) for i in range(4)]
  return gradient_of(experiment, keys_of(experiment)[1]), start(experiment, optimizer).params, data, quarters


@pytest.fixture(scope='module')
def on_one_device(on_paper):
  """The same written out: one perturbation of the whole batch, and four of its quarters."""
  gradient, params, data, quarters = on_paper
  whole = written_out(gradient, params, data)
  own = [written_out(gradient, params, quarter) for quarter in quarters]
  step = lambda second: jax.tree.map(lambda p, x: np.asarray(p) - 0.1 * np.asarray(x), params, second)
  mean = jax.tree.map(lambda *x: sum(x) / 4, *[second for _, (_, second) in own])
  flat = lambda tree: np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(tree)])
  losses = [sum(float(first[0]) for first, _ in own) / 4 * 16, sum(float(there[0]) for _, there in own) / 4, RHO]
  return {'sync': flat(step(whole[1][1])), 'own': flat(step(mean)), 'loss': losses}


@pytest.mark.slow
@pytest.mark.parametrize('mesh', ['4x1', '1x4', '2x2'])
@pytest.mark.parametrize('which', ['sync', 'own', 'loss'])
def test_one_perturbation_or_one_for_every_device(which, mesh, on_four_devices, on_one_device):
  np.testing.assert_allclose(on_four_devices[f'{which} {mesh}'], on_one_device[which], rtol=1e-4, atol=1e-5)
  assert np.abs(on_one_device['sync'] - on_one_device['own']).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize('sync', [True, False])
@pytest.mark.parametrize('name', WRITTEN_OUT)
def test_every_method_on_devices_is_what_it_is_on_paper(name, sync, on_four_devices, on_paper):
  gradient, params, data, quarters = on_paper
  wanted, (loss, sam_loss, norm) = first_step(name, gradient, params, [data] if sync else quarters)
  np.testing.assert_allclose(on_four_devices[f'{name} {sync}'], wanted, rtol=1e-3, atol=2e-5)
  np.testing.assert_allclose(on_four_devices[f'{name} {sync} numbers'], (16 * loss, sam_loss, norm), rtol=1e-4)
  other = on_four_devices[f'{name} {not sync}']
  assert np.abs(other - wanted).max() > 1e-3


@pytest.mark.slow
def test_parts_of_a_devices_share_have_its_perturbation(on_four_devices):
  np.testing.assert_allclose(on_four_devices['own accumulated'], on_four_devices['own 4x1'], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_perturbations_of_devices_stay_where_they_are(on_four_devices):
  """What is gathered are the logits, for the metrics, as without a perturbation of each."""
  assert on_four_devices['gathers'].tolist() == [1, 1]


@pytest.mark.parametrize(
  'changes, parts',
  [
    ({'sam': {'name': 'sam', 'rho': -1.0}}, ['sam.rho is -1.0']),
    ({'sam': {'name': 'sharp', 'rho': 1.0}}, ['sam.name', 'sharp', 'look_sam']),
    ({'sam': SAM | {'sinc': True}}, ['sam.sinc', 'sync']),
    ({'sam': {'name': 'sam'}}, ['lacks sam.rho']),
    ({'update_noise': {'eta': -1.0, 'gamma': 0.5}}, ['update_noise.eta is -1.0']),
    ({'layers': {'freeze': ('steam',)}}, ["'steam'", 'fits no parameter', 'stem']),
    ({'layers': {'freeze': ('blocks.2',)}}, ["'blocks.2'", 'fits no parameter']),
    ({'layers': {'freeze': ('*',)}}, ['every parameter']),
    ({'layers': {'decay': 0.0}}, ['layers.decay is 0.0']),
    ({'ema': 0.9, 'optimizer': {'name': 'schedule_free'}}, ['ema is 0.9', 'schedule_free']),
  ],
)
def test_bad_settings_are_refused_by_name(changes, parts):
  with pytest.raises(MixerError) as error:
    build(**changes)
  assert all(part in str(error.value) for part in parts), error.value


if __name__ == '__main__':
  work(sys.argv[1])
