"""Every config: complete, docstring and all, and buildable; a step and an evaluation of every kind of them."""

import ast
import json
import math
import re
import shutil

import jax
import numpy as np
import pytest

from mixer_jax import config as configs
from mixer_jax.data import loader
from mixer_jax.data.examples import Source
from mixer_jax.errors import MixerError
from mixer_jax.models.mixer import SIZES
from mixer_jax.optim.schedules import Length
from mixer_jax.training import experiment as experiments
from mixer_jax.training import hooks, settings
from mixer_jax.training import mesh as meshes
from mixer_jax.training.step import make_train_loop

# PATH stands for a folder of images, FILE for a table, WEIGHTS for a small Mixer's, see conftest.py.
CONFIGS = {
  'digits': [''],
  'mnist': ['', ':best'],
  'cifar10': ['', ':20'],
  'imagenet': ['', *(f':{size}' for size in SIZES if size != 'B/16')],
  'image_folder': [':PATH'],
  'csv': [':FILE'],
  'breast_cancer': ['', ':1', ':3', ':5'],
  'unsw_nb15': ['', ':1', ':2', ':3', ':4', ':5'],
  'digits_autoencoder': [''],
  'mnist_autoencoder': ['', ':mlp-234', ':cnn-1-k1', ':cnnf-234-k11', ':cnn2d-234-k3', ':cnn2df-234-k7'],
  'mnist_cnn_autoencoder': ['', ':k7'],
  'mnist_mixer_autoencoder': ['', ':small', ':long', ':adamw'],
  'sharp_minima': [
    '', ':digits-fisher_sam-half', ':rows-noise', ':mnist-asam-tune', ':mnist-dynamic_sam', ':cifar-gsam-tune',
    ':cifar-look_sam', ':cifar-sam',
  ],
  'finetune': [
    ':WEIGHTS,digits', ':WEIGHTS,PATH,adamw', ':WEIGHTS,mnist,probe', ':WEIGHTS,cifar10,scratch',
  ],
  'image_autoencoder': [
    ':PATH', ':PATH,p32-cnn-k3', ':PATH,w36-cnn2df-k7', ':PATH,deep-cnn2df-k7', ':PATH,script-scl3',
  ],
}  # fmt: skip
# One of each kind of model, task, data and optimizer takes a real step, most by night.
STEPPED = ('mnist:best', 'csv:FILE', 'finetune:WEIGHTS,mnist,probe')
BY_NIGHT = (
  'mnist_autoencoder:cnn2df-234-k7', 'image_autoencoder:PATH', 'sharp_minima:mnist-dynamic_sam', 'cifar10:20',
  'imagenet', 'unsw_nb15:2', 'mnist_mixer_autoencoder:long', 'mnist_cnn_autoencoder',
)  # fmt: skip
LINES = 32  # of get_config; most have fewer than 25
NAMES = [(file, argument) for file, arguments in CONFIGS.items() for argument in arguments]
of_names = lambda names: pytest.mark.parametrize('file, argument', names, ids=[f'{f}{a}' for f, a in names])
KINDS = ('train', 'val', 'test')


def test_no_config_is_left_out():
  assert set(configs.bundled()) == set(CONFIGS) - {'sharp_minima'}
  assert {f'{f}{a}' for f, a in NAMES} >= {*STEPPED, *BY_NIGHT}


def lines_of_code(text):
  body = ast.parse(text).body
  first = body[1].lineno if isinstance(body[0], ast.Expr) else 1
  return sum(bool(line.strip()) and not line.strip().startswith('#') for line in text.splitlines()[first - 1 :])


@pytest.mark.parametrize('file', configs.bundled())
def test_a_config_is_short_and_its_docstring_has_the_command(file):
  source = configs.bundled()[file].read_text()
  text = ast.get_docstring(ast.parse(source))
  command = text.partition('Command:')[2]
  assert 'python -m mixer_jax.train' in command
  assert re.search(rf'--config={file}[: ]', command) and '--workdir=' in command
  assert all(f'{part}:' in text for part in ('Source', 'Expected', 'Hardware'))
  get_config = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
  assert lines_of_code(ast.get_source_segment(source, get_config)) <= LINES


@of_names(NAMES)
def test_is_whole_json_and_builds(file, argument, load, rows):
  """Built as it stands: the shapes of model, optimizer and outputs."""
  config = load(file, argument)
  assert json.loads(json.dumps(config)) == config == settings.resolve(config)
  experiments.build(config, data_dir=rows)


LENGTH = Length(100, 10.0)


def narrowed(config):
  """The config with two narrow blocks and batches of two examples a device; what else it says stays."""
  config = json.loads(json.dumps(config))
  # Warm-ups begin with a learning rate of 0, which moves nothing.
  config['schedule'] |= {'warmup': '0'} if 'warmup' in config['schedule'] else {}
  narrow = {
    'blocks': 2, 'encoder_blocks': 1, 'decoder_blocks': 1, 'hidden': 8, 'token_mlp': 6, 'channel_mlp': 10,
    'bottleneck': 2, 'code': 3, 'head': [7],
  }  # fmt: skip
  config['model'] |= {name: value for name, value in narrow.items() if config['model'].get(name)}
  size = 2 * jax.device_count()
  return config | {'batch_size': size, 'eval_batch_size': size}


@pytest.mark.parametrize('name', [*STEPPED, *(pytest.param(name, marks=pytest.mark.nightly) for name in BY_NIGHT)])
def test_steps_and_evaluates(name, load, rows):
  """One step and one evaluation on random examples, three for every two devices."""
  file, colon, argument = name.partition(':')
  experiment = experiments.build(narrowed(load(file, colon + argument)), data_dir=rows)
  size = experiment.settings.batch_size
  random = np.random.default_rng(0)
  draw = {
    'image': lambda shape: random.integers(0, 256, shape), 'features': lambda shape: random.normal(size=shape),
    'categories': lambda shape: random.integers(0, 2, shape),
    'label': lambda shape: (np.arange(*shape) + 1) % experiment.data.classes,
    'size': lambda shape: random.integers(96, 161, shape),
  }  # fmt: skip
  arrays = {k: draw[k](v.shape).astype(v.dtype) for k, v in experiment.data.batch(size + size // 2).items()}
  read = lambda i: {k: v[i] for k, v in arrays.items()}
  source = Source(tuple(map(str, range(experiment.data.classes))), arrays, read, size + size // 2)
  examples = loader.Loader(source, seed=0, batch_size=size, mesh=experiment.mesh, resident_mib=math.inf, workers=0)
  optimizer, _ = experiment.optimizer(LENGTH)
  state = experiment.init_state(optimizer)
  before = jax.tree.leaves(jax.device_get(state.params))
  shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
  train_loop = make_train_loop(experiment.train_step(optimizer, LENGTH), shardings, meshes.over_batch(experiment.mesh))
  state = train_loop(state, examples.train(0, 1), 1)
  metrics, _ = hooks.evaluate(experiment.eval_loop(), state.params, examples, experiment.task.report)

  sums = jax.device_get(state.sums)
  assert int(state.step) == 1 and sums['examples'] == size
  assert np.isfinite(sums['loss']) and np.isfinite(sums['grad_norm']) and sums['grad_norm'] > 0
  after = jax.tree.leaves(jax.device_get(state.params))
  assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
  assert all(np.isfinite(leaf).all() for leaf in after)
  assert (state.ema is not None) == (experiment.settings.ema > 0)
  assert all(map(np.isfinite, metrics.values()))
  named = {'loss', 'accuracy'} | ({'top5'} if experiment.data.classes > 5 else set())
  binary = {'precision', 'recall', 'specificity', 'f1', 'macro_f1', 'roc_auc', 'average_precision', 'calibration_error'}
  assert set(metrics) == {
    'classification': named, 'binary': named | binary, 'reconstruction': {'loss', 'mse', 'l1', 'psnr', 'ssim'},
  }[experiment.settings.task['name']]  # fmt: skip


@pytest.mark.parametrize(
  'argument, encoder, output',
  [
    ('none', False, False), ('mlp-234', False, False), ('mlp-12', False, True), ('cnn-2-k1', False, False),
    ('cnn-1234-k1', False, True), ('cnn-234-k1', True, False), ('cnn2df-234-k7', True, False),
  ],
)  # fmt: skip
def test_where_the_source_has_gelus(argument, encoder, output, load):
  model = load('mnist_autoencoder', f':{argument}')['model']
  assert (model['encoder_gelu'], model['output_gelu']) == (encoder, output)


@pytest.mark.parametrize('file, name', [('digits', 'reconstruction'), ('digits_autoencoder', 'classification')])
def test_a_model_and_a_task_that_do_not_fit_each_other(file, name, load):
  config, other = load(file), load({'digits': 'digits_autoencoder', 'digits_autoencoder': 'digits'}[file])
  config['task'] = other['task']
  config['data'] |= {'mean': [0.0], 'std': [1.0]}
  with pytest.raises(MixerError, match=rf'(?i)model \w+ gives .* task {name} takes .*set model.name or task.name'):
    experiments.build(config)


@pytest.mark.parametrize('name, argument', [('image_folder', ':PLACE'), ('finetune', ':WEIGHTS,PLACE')])
def test_images_of_ones_own(name, argument, load, images, tmp_path):
  shutil.copytree(images / 'train', tmp_path / 'train')
  shutil.copytree(images / 'train', tmp_path / 'test')
  config = load(name, argument.replace('PLACE', str(tmp_path)))
  assert [config['data'][kind] for kind in KINDS] == ['train[:90%]', 'train[90%:]', 'test']
  assert config['batch_size'] == 8 and int(config['total'].split()[0]) * 5 // 8 >= 300  # of 6 images 5
  shutil.copytree(images / 'train', tmp_path / 'validation')
  config = load(name, argument.replace('PLACE', str(tmp_path)))
  assert [config['data'][kind] for kind in KINDS] == ['train', 'validation', 'test']
