"""Every config: complete, buildable, one step and one evaluation; every key is read and changes what it should."""

import ast
import csv
import functools
import inspect
import json
import math
import pkgutil
import re
import shutil
import textwrap
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image

import mixer_jax
from mixer_jax import config as configs
from mixer_jax.data import augment, batches, sources
from mixer_jax.errors import MixerError
from mixer_jax.models import MODELS
from mixer_jax.models import layers as model_layers
from mixer_jax.models import params as network
from mixer_jax.models.mixer import SIZES, MlpMixer
from mixer_jax.optim import groups
from mixer_jax.optim.optimizers import OPTIMIZERS
from mixer_jax.optim.sam import SAMS
from mixer_jax.optim.schedules import SCHEDULES, Length
from mixer_jax.training import experiment as experiments
from mixer_jax.training import loop, watch
from mixer_jax.training import mesh as meshes
from mixer_jax.training.step import make_train_loop
from mixer_jax.training.tasks import TASKS
from mixer_jax.weights import reading, writing

FOLDER = Path(mixer_jax.__file__).parents[1] / 'configs'
# PATH stands for a folder of images, FILE for a table, WEIGHTS for a small Mixer's, which the tests make.
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
NAMES = [(file, argument) for file, arguments in CONFIGS.items() for argument in arguments]
every_config = pytest.mark.parametrize('file, argument', NAMES, ids=[f'{f}{a}' for f, a in NAMES])
KINDS = ('train', 'val', 'test')
SECTIONS = ('model', 'task', 'data', 'augment', 'optimizer', 'schedule', 'mesh', 'watch')


@pytest.fixture(scope='session')
def images(tmp_path_factory):
  """A folder of images of three classes."""
  folder = tmp_path_factory.mktemp('images')
  random = np.random.default_rng(0)
  for name in ('cat', 'dog', 'owl'):
    (folder / 'train' / name).mkdir(parents=True)
    for i in range(2):
      Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / 'train' / name / f'{i}.png')
  return folder


@pytest.fixture(scope='session')
def rows(tmp_path_factory):
  """A data directory with rows of UNSW-NB15's shape: 39 columns of numbers, 3 of text."""
  folder = tmp_path_factory.mktemp('rows')
  (folder / 'unsw_nb15').mkdir()
  random = np.random.default_rng(0)
  text = {'proto': ['tcp', 'udp'], 'service': ['-', 'dns', 'http'], 'state': ['FIN', 'INT']}
  columns = {'id': range(40)} | {f'number{i}': random.normal(size=40) for i in range(39)}
  columns |= {name: random.choice(values, 40) for name, values in text.items()} | {'label': random.integers(0, 2, 40)}
  for split in ('training', 'testing1'):
    with (folder / 'unsw_nb15' / f'UNSWNB15_{split}_coursework.csv').open('w', newline='') as file:
      csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
  return str(folder)


@pytest.fixture(scope='session')
def weights(tmp_path_factory):
  """A model folder of a Mixer for images of 8x8."""
  model = {'name': 'mixer', 'patch': 2, 'hidden': 6, 'blocks': 2, 'token_mlp': 5, 'channel_mlp': 7, 'gelu': 'exact'}
  settings = {name: value for name, value in model.items() if name != 'name'}
  params = nnx.state(MlpMixer(image=(8, 8, 1), classes=3, **settings, rngs=nnx.Rngs(0)), nnx.Param)
  folder = tmp_path_factory.mktemp('weights') / 'model'
  writing.write(
    reading.Weights(
      arrays=network.arrays(params), model=model, data={'image': [8, 8, 1], 'classes': 3}, source='', kind='run'
    ),
    folder,
  )
  return folder


@pytest.fixture
def load(images, rows, weights):
  table = f'{rows}/unsw_nb15/UNSWNB15_training_coursework.csv'
  places = {'PATH': images, 'FILE': table, 'WEIGHTS': weights}
  fill = lambda argument: re.sub('PATH|FILE|WEIGHTS', lambda name: str(places[name[0]]), argument)
  return lambda file, argument='', *overrides: configs.load(
    [f'--config={FOLDER / file}.py{fill(argument)}', *overrides]
  )


def test_no_config_is_left_out():
  assert {path.stem for path in FOLDER.glob('*.py')} == set(CONFIGS)


@every_config
def test_loads_and_survives_json(file, argument, load):
  config = load(file, argument)
  assert json.loads(json.dumps(config)) == config


@pytest.mark.parametrize('file', CONFIGS)
def test_docstring_has_the_command(file):
  text = ast.get_docstring(ast.parse((FOLDER / f'{file}.py').read_text()))
  command = text.partition('Command:')[2]
  assert 'python -m mixer_jax.train' in command
  assert f'--config=configs/{file}.py' in command and '--workdir=' in command
  assert all(f'{part}:' in text for part in ('Source', 'Expected', 'Hardware'))


@every_config
def test_builds_steps_and_evaluates(file, argument, load, rows):
  """One step and one evaluation on random examples.

  For time, the batches are of two examples a device, and the models have two narrow blocks; what else the config says
  stays: patches, augmentations, scan and remat, dtype, loss, optimizer.
  """
  config = load(file, argument)
  experiments.build(config, schema=experiments.learn_schema(config, rows))
  # Warm-ups begin with a learning rate of 0, which moves nothing.
  config['schedule'] |= {'warmup': '0'} if 'warmup' in config['schedule'] else {}
  narrow = {
    'blocks': 2, 'encoder_blocks': 1, 'decoder_blocks': 1, 'hidden': 8, 'token_mlp': 6, 'channel_mlp': 10,
    'bottleneck': 2, 'code': 3,
  }  # fmt: skip
  config['model'] |= {name: value for name, value in narrow.items() if name in config['model']}
  size = 2 * jax.device_count()
  config |= {'batch_size': size, 'eval_batch_size': size}
  before, state, metrics = step_and_evaluate(json.dumps(config), rows)
  sums = jax.device_get(state.sums)
  assert int(state.step) == 1 and sums['examples'] == size
  assert np.isfinite(sums['loss']) and np.isfinite(sums['grad_norm']) and sums['grad_norm'] > 0
  after = jax.tree.leaves(jax.device_get(state.params))
  assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
  assert all(np.isfinite(leaf).all() for leaf in after)
  assert (state.ema is not None) == (config['ema'] > 0)
  assert all(map(np.isfinite, metrics.values()))
  named = {'loss', 'accuracy'} | ({'top5'} if config['data']['classes'] > 5 else set())
  binary = {'precision', 'recall', 'specificity', 'f1', 'macro_f1', 'roc_auc', 'average_precision', 'calibration_error'}
  assert set(metrics) == {
    'classification': named, 'binary': named | binary, 'reconstruction': {'loss', 'mse', 'l1', 'psnr', 'ssim'},
  }[config['task']['name']]  # fmt: skip


@functools.cache  # Narrowed, S/16 and B/16 are the same, and so are S/32 and B/32.
def step_and_evaluate(config, rows):
  """The parameters before a step, the state after it, and the metrics of three examples for every two devices."""
  config = json.loads(config)
  experiment = experiments.build(config, schema=experiments.learn_schema(config, rows))
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
  source = sources.Source(tuple(map(str, range(experiment.data.classes))), arrays, read, size + size // 2)
  feeder = batches.Feeder(source, seed=0, batch_size=size, mesh=experiment.mesh, resident_mib=math.inf, workers=0)
  length = Length(100, 10.0)
  optimizer, _ = experiment.optimizer(length)
  state = experiment.init_state(optimizer)
  before = jax.tree.leaves(jax.device_get(state.params))
  shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
  sharding = meshes.over_batch(experiment.mesh)
  state = make_train_loop(experiment.train_step(optimizer, length), shardings, sharding)(state, feeder.train(0, 1), 1)
  evaluated, _ = loop.evaluate(experiment.eval_loop(), state.params, feeder, experiment.task.report)
  return before, state, evaluated


# ---- every key is read

SHORT = (
  '--config.model.blocks=1', '--config.model.hidden=8', '--config.batch_size=16', '--config.total=2 steps',
  '--config.schedule.warmup=0',
)  # fmt: skip
TINY = {
  'digits': (*SHORT, '--config.model.token_mlp=4', '--config.model.channel_mlp=6', '--config.augment={}'),
  'breast_cancer': SHORT,
}


def recorded(cls, seen):
  """The dataclass, noting which fields of it are looked at."""

  class Recorded(cls):
    def __getattribute__(self, name):
      seen.add(name)
      return super().__getattribute__(name)

  return Recorded


@pytest.mark.parametrize('file', ['digits', 'breast_cancer'])
def test_every_key_of_config_and_data_is_read(file, load, tmp_path, monkeypatch):
  config = load(file, '', *TINY[file])
  seen = {'config': set(), 'data': set()}
  settings = experiments.Settings
  data = experiments.kind_of(config['data']['name'])
  monkeypatch.setattr(experiments, 'Settings', recorded(settings, seen['config']))
  kept = recorded(data, seen['data'])
  monkeypatch.setattr(experiments, 'kind_of', lambda _: kept)
  monkeypatch.setattr(experiments, data.__name__, kept)
  assert loop.train_and_evaluate(config, tmp_path / 'run')
  assert set(settings.__dataclass_fields__) - seen['config'] == set()
  assert set(data.__dataclass_fields__) - seen['data'] == set()


def functions_of_sections():
  """The functions that settings go to, and all others in their files."""
  makers = [
    *TASKS.values(),
    *OPTIMIZERS.values(),
    *SCHEDULES.values(),
    *SAMS.values(),
    groups.scale,
    *augment.AUGMENTATIONS.values(),
  ]
  makers = [maker.func if isinstance(maker, functools.partial) else maker for maker in makers]
  models = map(pkgutil.resolve_name, MODELS.values())
  modules = {inspect.getmodule(maker) for maker in [*models, *makers]} | {model_layers, meshes, watch}
  trees = [(module.__name__, ast.parse(inspect.getsource(module))) for module in modules]
  functions = [(name, node) for name, tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
  # Every model takes `rngs`, whether it draws or not.
  functions = [(name, node) for name, node in functions if node.name != '__call__']
  found = {node.name for _, node in functions}
  assert {maker.__name__ for maker in makers} <= found and '__init__' in found
  return functions


def unread(function):
  arguments = function.args
  names = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)} - {'self'}
  read = {n.id for part in function.body for n in ast.walk(part) if isinstance(n, ast.Name)}
  return {name for name in names - read if not name.startswith('_')}


def test_every_parameter_of_a_section_is_used():
  functions = functions_of_sections()
  assert len(functions) > 40
  unused = {f'{module}.{function.name}': names for module, function in functions if (names := unread(function))}
  assert unused == {}


def test_an_unused_parameter_would_be_noticed():
  text = """
    def f(a, *, b, _c):
      return a
  """
  assert unread(ast.parse(textwrap.dedent(text)).body[0]) == {'b'}


@pytest.mark.parametrize('section', [None, *SECTIONS, 'init_from'])
def test_an_unknown_key_is_refused_by_name(section, load):
  config = load('digits')
  (config if section is None else config[section])['colour'] = 3
  with pytest.raises(MixerError, match='colour'):
    experiments.build(config)


@pytest.mark.parametrize('section', ['seed', 'total', *SECTIONS])
def test_a_missing_key_is_refused_by_name(section, load):
  config = load('digits')
  del config[section]
  with pytest.raises(MixerError, match=section):
    experiments.build(config)


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
  with pytest.raises(MixerError, match=rf'model \w+ gives .* task {name} takes .*set model.name or task.name'):
    experiments.build(config)


def test_image_folder_takes_the_splits_that_are_there(load, images, tmp_path):
  shutil.copytree(images, tmp_path / 'all')
  splits = lambda: [configs.load([f'--config={FOLDER}/image_folder.py:{tmp_path}/all'])['data'][k] for k in KINDS]
  assert splits() == ['train[:90%]', 'train[90%:]', '']
  shutil.copytree(images / 'train', tmp_path / 'all' / 'test')
  assert splits() == ['train', '', 'test']
  shutil.copytree(images / 'train', tmp_path / 'all' / 'val')
  assert splits() == ['train', 'val', 'test']
  shutil.rmtree(tmp_path / 'all' / 'test')
  assert splits() == ['train', 'val', '']


# ---- every key changes the result


@pytest.fixture(scope='session')
def digits():
  return functools.cache(lambda split: sources.load('digits', split, image=(8, 8, 1), classes=10))


def after_three_steps(config, digits):
  """All parameters, and their average."""
  experiment = experiments.build(config)
  source = digits(config['data']['train'])
  length = experiment.length(len(source))
  optimizer, _ = experiment.optimizer(length)
  state = experiment.init_state(optimizer)
  step = jax.jit(experiment.train_step(optimizer, length))
  for i in range(3):
    rows = batches.rows_of_step(config['seed'], i, config['batch_size'], len(source))
    state = step(state, {name: array[rows] for name, array in source.arrays.items()})
  return state.params, state.ema


def of_model(config, digits):
  """What every layer gives in training, at the first parameters."""
  experiment = experiments.build(config)
  image = digits('train').arrays['image'][:16] / np.float32(255)
  rngs = lambda: nnx.Rngs(dropout=jax.random.key(1))
  return jax.jit(lambda: experiment.init_model()(image, rngs=rngs(), intermediates=True))()


def of_task(config, _):
  """The loss of an example in training."""
  logits = jax.random.normal(jax.random.key(0), (16, 10))
  return experiments.build(config).task.scores(logits, {'label': np.arange(16) % 10}, training=True)['loss']


def of_pixels(config, digits):
  """What the model sees in training."""
  batch = {name: array[:16] for name, array in digits('train').arrays.items()}
  return jax.jit(experiments.build(config).prepare)(batch, jax.random.key(2))


def of_optimizer(config, digits):
  """A kernel after three steps down the same gradients."""
  experiment = experiments.build(config)
  optimizer, _ = experiment.optimizer(experiment.length(len(digits('train'))))
  draw = lambda i: nnx.State({'kernel': nnx.Param(jax.random.normal(jax.random.key(i), (4, 3)))})
  params = draw(9)
  state = optimizer.init(params)
  for i in range(3):
    updates, state = optimizer.update(draw(i), state, params)
    params = optax.apply_updates(params, updates)
  return params


BASE = (
  '--config.model.blocks=2', '--config.model.hidden=8', '--config.model.token_mlp=4', '--config.model.channel_mlp=6',
  '--config.batch_size=16', '--config.total=8 steps', '--config.schedule.warmup=0',
)  # fmt: skip
# Whole steps take seconds to compile, so only what the step itself must see to goes all the way.
CHANGES = {
  after_three_steps: {
    'seed': 1,
    'batch_size': 24,
    'ema': 0.05,
    'model.dropout': 0.5,
    'task.label_smoothing': 0.3,
    'data.train': 'train[:50%]',
    'augment.affine.degrees': 30.0,
    'augment_until': '1 steps',
    'sam': {'name': 'sam', 'rho': 0.1},
    'update_noise': {'eta': 1e-6, 'gamma': 0.5},
    'layers': {'freeze': ['head']},
  },
  of_model: {
    'seed': 1,
    'model.patch': 4,
    'model.hidden': 10,
    'model.blocks': 3,
    'model.token_mlp': 5,
    'model.channel_mlp': 7,
    'model.dropout': 0.5,
    'model.stochastic_depth': 0.9,
    'model.dtype': 'bfloat16',
    'model.gelu': 'exact',
    'model.head_bias': -1.0,
    'model.init': 'torch',
  },
  of_task: {'task.loss': 'sigmoid', 'task.label_smoothing': 0.3},
  of_pixels: {
    'data.mean': [0.5],
    'data.std': [0.5],
    'augment.affine.degrees': 30.0,
    'augment.affine.translate': 0.3,
    'augment.affine.scale': 0.3,
    'augment.affine.shear': 30.0,
    'augment.flip': {},
  },
  of_optimizer: {
    'total': '6 steps',
    'optimizer.b1': 0.5,
    'optimizer.b2': 0.5,
    'optimizer.eps': 0.01,
    'optimizer.weight_decay': 0.5,
    'optimizer.clip': 0.1,
    'schedule.name': 'linear',
    'schedule.peak': 0.01,
    'schedule.floor': 1e-3,
    'schedule.warmup': '2 steps',
  },
}


def equal(a, b):
  a, b = jax.tree.leaves(a), jax.tree.leaves(b)
  return len(a) == len(b) and all(map(np.array_equal, a, b))


@pytest.fixture(scope='module')
def base(digits):
  """What the config as it stands gives; twice the same, else that a change makes a difference would say nothing."""

  @functools.cache
  def base(measure):
    config = configs.load([f'--config={FOLDER}/digits.py', *BASE])
    first = measure(config, digits)
    assert equal(first, measure(config, digits))
    return first

  return base


@pytest.mark.parametrize(
  'measure, key', [pytest.param(m, key, id=f'{m.__name__}-{key}') for m, keys in CHANGES.items() for key in keys]
)
def test_a_key_changes_the_result(measure, key, load, digits, base):
  config = load('digits', '', *BASE)
  *path, last = key.split('.')
  section = functools.reduce(dict.__getitem__, path, config)
  assert section.get(last) != CHANGES[measure][key]
  section[last] = CHANGES[measure][key]
  assert not equal(measure(config, digits), base(measure))


def test_every_key_of_digits_is_among_the_changes(load):
  """But for the names of the only entry of a table, what the data fix, and what says when and how, not what.

  `rescale` has its test below, `scan` and `remat` theirs in tests/models/test_mixer.py, `init_from` those of
  tests/weights/test_fitting.py and tests/test_doors_convert.py.
  """
  keys = {key for changes in CHANGES.values() for key in changes}
  left = {key for key in flat(load('digits')) if key not in keys}
  assert left == {
    'accumulate', 'eval_batch_size', 'log_every', 'eval_every', 'checkpoint_every', 'mesh.data', 'mesh.fsdp',
    'model.name', 'task.name', 'optimizer.name', 'data.name', 'data.val', 'data.test', 'data.image', 'data.classes',
    'data.resident_mib', 'data.workers', 'model.rescale', 'model.scan', 'model.remat', 'init_from.weights',
    'init_from.checkpoint', 'init_from.head', 'init_from.tokens', 'init_from.stem',
  }  # fmt: skip


def flat(tree, prefix=''):
  for name, value in tree.items():
    yield from flat(value, f'{prefix}{name}.') if isinstance(value, dict) else [f'{prefix}{name}']


def test_rescale_changes_the_result_of_stochastic_depth(load, digits):
  config = load('digits', '', *BASE)
  config['model'] |= {'stochastic_depth': 0.5}
  dropped = of_model(config, digits)
  config['model'] |= {'rescale': True}
  assert not equal(of_model(config, digits), dropped)
