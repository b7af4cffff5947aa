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

from mixer_jax import config as configs
from mixer_jax.errors import MixerError
from mixer_jax.optim.schedules import Length
from mixer_jax.training import experiment as experiments
from mixer_jax.training import mesh as meshes
from mixer_jax.training.step import is_finite

LENGTH = Length(100, 10.0)
RHO = 0.1
SAM = {'name': 'sam', 'rho': RHO, 'sync': True}


def build(mesh='1x1', dropout=0.0, **changes):
  data, fsdp = map(int, mesh.split('x'))
  config = configs.load(['--config=configs/digits.py'])
  config['model'] |= {'hidden': 16, 'blocks': 2, 'token_mlp': 8, 'channel_mlp': 32, 'dropout': dropout}
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
  state = experiment.init_state(optimizer)
  keys = jax.random.split(jax.random.key(3), len(jax.tree.leaves(state.params)))
  leaves, tree = jax.tree.flatten(state.params)
  moved = [p + 0.1 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
  return state._replace(params=jax.tree.unflatten(tree, moved))


def after(mesh='1x1', **changes):
  experiment, optimizer = build(mesh, **changes)
  before = start(experiment, optimizer)
  step = jax.jit(experiment.train_step(optimizer, LENGTH))
  data = jax.device_put(batch(), meshes.over_batch(experiment.mesh))
  return experiment, before, step(before, data), step.lower(before, data)


def written_out(experiment, params, data, dropout_key):
  """(loss, gradient) at the params, then at SAM's perturbation of them, with one dropout mask."""

  def loss(params):
    logits = nnx.merge(experiment.graphdef, params)(data['image'], rngs=nnx.Rngs(dropout=dropout_key))
    return experiment.task.scores(logits, data, training=True)['loss'].mean()

  first, g = jax.value_and_grad(loss)(params)
  norm = optax.tree.norm(g)
  perturbed = jax.tree.map(lambda p, x: p + RHO * x / norm, params, g)
  return (first, g), jax.value_and_grad(loss)(perturbed)


def keys_of(experiment, step=0):
  return jax.random.split(jax.random.fold_in(jax.random.key(experiment.settings.seed), step))


def assert_close(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **{'rtol': 1e-4, 'atol': 1e-6} | tolerance), a, b)


def test_both_gradients_have_the_same_augmentation_and_dropout():
  experiment, before, state, _ = after(dropout=0.3, augment={'affine': {'degrees': 20.0}})
  augment_key, dropout_key = keys_of(experiment)
  data = experiment.prepare(batch(), augment_key, True)
  (loss, g), (there, second) = written_out(experiment, before.params, data, dropout_key)
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
  freeze = ('stem', r'blocks\.1\.token')
  adamw = {'name': 'adamw', 'b1': 0.9, 'b2': 0.999, 'eps': 1e-8, 'weight_decay': 0.5, 'clip': 1.0}
  noise = {'eta': 1e-4, 'gamma': 0.55}
  experiment, before, state, _ = after(sam=sam, optimizer=adamw, update_noise=noise, layers={'freeze': freeze})
  for (path, old), (_, new) in zip(*(nnx.to_flat_state(s.params) for s in (before, state)), strict=True):
    name = '.'.join(map(str, path))
    moved = not np.array_equal(old[...], new[...])
    assert moved != name.startswith(('stem', 'blocks.1.token')), name
  if sam:
    _, dropout_key = keys_of(experiment)
    data = experiment.prepare(batch(), None, False)

    def loss(params):
      logits = nnx.merge(experiment.graphdef, params)(data['image'], rngs=nnx.Rngs(dropout=dropout_key))
      return experiment.task.scores(logits, data, training=True)['loss'].mean()

    g = jax.grad(loss)(before.params)
    still = lambda path: '.'.join(map(str, path)).startswith(('stem', 'blocks.1.token'))
    free = [x[...] for path, x in nnx.to_flat_state(g) if not still(path)]
    norm = float(np.sqrt(sum(float(jnp.square(x).sum()) for x in free)))
    assert float(state.sums['grad_norm']) == pytest.approx(norm, rel=1e-4)


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
    experiment, before, state, lowered = after(mesh, sam=SAM | {'sync': False})
    found[f'own {mesh}'] = flat(state.params).tolist()
    found[f'loss {mesh}'] = [float(state.sums[name]) for name in ('loss', 'sam_loss', 'sam_norm')]
    if mesh == '4x1':
      found['gathers'] = [step.compile().as_text().count('all-gather(') for step in (together, lowered)]
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
def on_one_device():
  """The same written out: one perturbation of the whole batch, and four of its quarters."""
  experiment, optimizer = build()
  params, key = start(experiment, optimizer).params, keys_of(experiment)[1]
  data = experiment.prepare(batch(), None, False)
  quarters = [jax.tree.map(lambda x, i=i: x[4 * i : 4 * i + 4], data) for i in range(4)]
  whole = written_out(experiment, params, data, key)
  own = [written_out(experiment, params, quarter, key) for quarter in quarters]
  step = lambda second: jax.tree.map(lambda p, x: p - 0.1 * x, params, second)
  mean = jax.tree.map(lambda *x: sum(x) / 4, *[second for _, (_, second) in own])
  flat = lambda tree: np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(tree)])
  losses = [sum(float(first[0]) for first, _ in own) / 4 * 16, sum(float(there[0]) for _, there in own) / 4, RHO]
  return {'sync': flat(step(whole[1][1])), 'own': flat(step(mean)), 'loss': losses}


@pytest.mark.parametrize('mesh', ['4x1', '1x4', '2x2'])
@pytest.mark.parametrize('which', ['sync', 'own', 'loss'])
def test_one_perturbation_or_one_for_every_device(which, mesh, on_four_devices, on_one_device):
  np.testing.assert_allclose(on_four_devices[f'{which} {mesh}'], on_one_device[which], rtol=1e-4, atol=1e-5)
  assert np.abs(on_one_device['sync'] - on_one_device['own']).max() > 1e-3


def test_perturbations_of_devices_stay_where_they_are(on_four_devices):
  """What is gathered are the logits, for the metrics, as without a perturbation of each."""
  assert on_four_devices['gathers'].tolist() == [1, 1]


@pytest.mark.parametrize(
  'changes, parts',
  [
    ({'sam': {'name': 'sam', 'rho': -1.0}}, ['sam.rho is -1.0']),
    ({'sam': {'name': 'sharp', 'rho': 1.0}}, ['sam.name', 'sharp', 'look_sam']),
    ({'sam': SAM | {'sinc': True}}, ['sam.sinc', 'sync']),
    ({'sam': {'name': 'sam'}}, ['sam.rho is missing']),
    ({'update_noise': {'eta': -1.0, 'gamma': 0.5}}, ['update_noise.eta is -1.0']),
    ({'layers': {'freeze': ('steam',)}}, ["'steam'", 'fits no parameter', 'stem']),
    ({'layers': {'freeze': ('(',)}}, ["'('", 'no regular expression']),
    ({'layers': {'freeze': ('.',)}}, ['every parameter']),
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
