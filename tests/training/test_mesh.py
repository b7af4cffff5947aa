"""Many devices: the same numbers as on one, whatever the mesh; checkpoints go from any layout to any other.

The devices are simulated, in processes of their own, since jax counts its devices once: this file is also the command
that runs in them, `python test_mesh.py FOLDER MESHES`, with meshes such as 4x1,2x2.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import kill
import numpy as np
import pytest

from mixer_jax.data import loader
from mixer_jax.errors import MixerError
from mixer_jax.optim.schedules import Length
from mixer_jax.training import checkpoints, experiment, hooks
from mixer_jax.training import mesh as meshes
from mixer_jax.training.step import make_train_loop

STEPS = 10
LAYOUTS = {1: '1x1', 4: '4x1,2x2'}
REOPENED = {1: '1x1', 4: '1x4,4x1'}
# Sums over a batch are taken in another order on other meshes; Adam turns the rounding of a gradient near zero into
# a step of up to the learning rate, hence SGD, in which rounding stays rounding.
SGD = {'name': 'sgd', 'momentum': 0.9, 'clip': 0.0}
LENGTH = Length(60, 22.5)
# What couples the examples of a batch stays: mixup.
SMALL = {'model': kill.tiny()['model'] | {'blocks': 1}, 'augment': {'mixup': {'alpha': 0.5}}}


def build(layout, **changes):
  data, fsdp = (int(n) for n in layout.split('x'))
  watch = {'change': 1e-8, 'loss': 1e-3, 'lines': 5}  # on, so that its numbers are compared as well
  mesh = {'data': data, 'fsdp': fsdp}
  config = kill.tiny(optimizer=SGD, mesh=mesh, eval_batch_size=64, watch=watch, **SMALL | changes)
  config['schedule'] = {'name': 'constant', 'peak': 0.1, 'warmup': '0'}
  built = experiment.build(config)
  return built, built.optimizer(LENGTH)[0]


def batches(built, split, size):
  source = built.data.source(split, None)
  settings = {'seed': 0, 'mesh': built.mesh, 'resident_mib': 100.0, 'workers': 0}
  return loader.Loader(source, batch_size=size, **settings)


def train(layout, steps=STEPS, **changes):
  """Losses of single steps and the last state."""
  built, optimizer = build(layout, **changes)
  shapes = built.init_state(optimizer, abstract=True)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
  train_loop = make_train_loop(built.train_step(optimizer, LENGTH), shardings, meshes.over_batch(built.mesh))
  feed, state, losses = batches(built, 'train[:80%]', 64), built.init_state(optimizer), []
  for step in range(steps):
    state = train_loop(state, feed.train(step, 1), 1)
    losses.append(float(state.sums['loss']))
  return built, state, np.diff([0.0, *losses]) / 64


def evaluate(built, params):
  return hooks.evaluate(built.eval_loop(), params, batches(built, 'train[80%:]', 64), None)[0]


def flat(tree):
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.flatten_with_path(tree)[0]}


def shard_shapes(state):
  """(shape, shape of every device's part) of each array."""
  parts = lambda leaf: sorted({tuple(shard.data.shape) for shard in leaf.addressable_shards})
  return {jax.tree_util.keystr(p): [list(x.shape), parts(x)] for p, x in jax.tree.flatten_with_path(state)[0]}


def work(folder, layouts):
  """What the process of so many devices does: trains on each mesh, writes states, losses and evaluations."""
  for layout in layouts.split(','):
    built, state, losses = train(layout)
    result = {'losses': losses.tolist(), 'shards': shard_shapes(state), 'test': evaluate(built, state.params)}
    manager = checkpoints.Checkpoints(folder / layout)
    manager.save(STEPS, state, {})
    manager.close()
    np.savez(folder / f'{layout}.npz', **flat(state))
    if layout in ('4x1', '1x1'):
      for parts in (1, 4) if layout == '1x1' else (4,):
        changes = {
          'accumulate': parts,
          'model': SMALL['model'] | {'dropout': 0.0, 'stochastic_depth': 0.0},
          'augment': {},
        }
        np.savez(folder / f'{layout}_in_{parts}.npz', **flat(train(layout, 3, **changes)[1].params))
    (folder / f'{layout}.json').write_text(json.dumps(result))
  # What was written on 2x2 is opened on other meshes, one device included.
  reopened = {}
  for layout in REOPENED[len(jax.devices())].split(','):
    built, optimizer = build(layout)
    reader = checkpoints.Checkpoints(folder / '2x2', read_only=True)
    state = reader.restore(built.init_state(optimizer, abstract=True), STEPS)
    reader.close()
    np.savez(folder / f'2x2_on_{layout}.npz', **flat(state))
    reopened[layout] = {'shards': shard_shapes(state), 'test': evaluate(built, state.params)}
  (folder / f'reopened_{len(jax.devices())}.json').write_text(json.dumps(reopened))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('meshes')
  for devices in (4, 1):  # 4 first: the process with one device opens what they wrote
    environment = {
      **os.environ, 'XLA_FLAGS': kill.devices(devices), 'JAX_PLATFORMS': 'cpu',
      'PYTHONPATH': str(kill.ROOT),
    }  # fmt: skip
    command = [sys.executable, __file__, str(folder), LAYOUTS[devices]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
  return folder


def read(folder, layout):
  return json.loads((folder / f'{layout}.json').read_text())


def assert_arrays(folder, a, b, **tolerance):
  with np.load(folder / f'{a}.npz') as x, np.load(folder / f'{b}.npz') as y:
    assert set(x.files) == set(y.files) and x.files
    for name in x.files:
      if tolerance:
        np.testing.assert_allclose(x[name], y[name], err_msg=name, **tolerance)
      else:
        assert x[name].tobytes() == y[name].tobytes(), name


@pytest.mark.slow
@pytest.mark.parametrize('layout', LAYOUTS[4].split(','))
def test_the_same_losses_as_on_one_device(layout, folder):
  one, many = read(folder, '1x1'), read(folder, layout)
  assert len(set(one['losses'])) == STEPS
  np.testing.assert_allclose(many['losses'], one['losses'], rtol=2e-6)
  assert_arrays(folder, '1x1', layout, rtol=2e-4, atol=2e-6)
  assert many['test'] == pytest.approx(one['test'], rel=1e-5)


@pytest.mark.slow
def test_parameters_are_cut_along_fsdp_and_only_there(folder):
  for layout in LAYOUTS[4].split(','):
    fsdp = int(layout.split('x')[1])
    for name, (shape, parts) in read(folder, layout)['shards'].items():
      assert len(parts) == 1, name
      wanted = np.prod(shape) / (fsdp if any(n % fsdp == 0 for n in shape) else 1)
      assert np.prod(parts[0]) == wanted, (layout, name, shape, parts)
  cut = [name for name, (shape, parts) in read(folder, '2x2')['shards'].items() if shape != list(parts[0])]
  for kind in ('params', 'opt_state', 'ema'):
    assert sum(kind in name for name in cut) > 5


@pytest.mark.slow
@pytest.mark.parametrize('layout', ['1x1', '1x4', '4x1'])
def test_a_checkpoint_opens_on_any_mesh_bit_for_bit(layout, folder):
  assert_arrays(folder, '2x2', f'2x2_on_{layout}')
  here = read(folder, 'reopened_1' if layout == '1x1' else 'reopened_4')[layout]
  assert here['test'] == pytest.approx(read(folder, '2x2')['test'], rel=1e-5)
  if layout != '1x4':
    assert here['shards'] == read(folder, layout)['shards']


@pytest.mark.slow
@pytest.mark.parametrize('layout', ['1x1', '4x1'])
def test_accumulation_is_the_same_update(layout, folder):
  assert_arrays(folder, '1x1_in_1', f'{layout}_in_4', rtol=1e-4, atol=1e-6)


# What is refused


@pytest.mark.parametrize('data, fsdp', [(0, 1), (3, 1), (-1, -1), (-2, 1), (1, 0), (-1, 5), (-1, 0)])
def test_a_mesh_that_does_not_fit_is_refused(data, fsdp, monkeypatch):
  monkeypatch.setattr(jax, 'devices', lambda: list(range(8)))
  with pytest.raises(MixerError, match=f'mesh.data={data} x mesh.fsdp={fsdp} does not fit 8 devices'):
    meshes.make_mesh(data=data, fsdp=fsdp)


def test_minus_one_is_all_that_are_left():
  count = len(jax.devices())
  assert dict(meshes.make_mesh(data=-1, fsdp=1).shape) == {'data': count, 'fsdp': 1}
  assert dict(meshes.make_mesh(data=1, fsdp=-1).shape) == {'data': 1, 'fsdp': count}


def test_a_batch_that_the_devices_do_not_divide_is_refused():
  class Eight:
    size = 8

  meshes.check_batch('batch_size', 64, Eight())
  meshes.check_batch('batch_size', 64, Eight(), 8)
  with pytest.raises(MixerError, match='batch_size is 60, which 8 devices do not divide; choose a multiple of 8'):
    meshes.check_batch('batch_size', 60, Eight())
  with pytest.raises(MixerError, match='8 devices x 3 parts to accumulate do not divide; choose a multiple of 24'):
    meshes.check_batch('batch_size', 64, Eight(), 3)
  with pytest.raises(MixerError, match='eval_batch_size is 0'):
    meshes.check_batch('eval_batch_size', 0, Eight())


if __name__ == '__main__':
  work(Path(sys.argv[1]), sys.argv[2])
