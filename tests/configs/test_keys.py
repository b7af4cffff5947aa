"""Every key of a config is read, and changes the result that it should change."""

import ast
import dataclasses
import functools
import inspect
import pkgutil
import textwrap

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from mixer_jax import config as configs
from mixer_jax.data import augment, loader
from mixer_jax.data.images import sets
from mixer_jax.errors import MixerError
from mixer_jax.models import MODELS
from mixer_jax.models import layers as model_layers
from mixer_jax.models.mixing import MIXINGS
from mixer_jax.optim import groups
from mixer_jax.optim.optimizers import OPTIMIZERS
from mixer_jax.optim.sam import SAMS
from mixer_jax.optim.schedules import SCHEDULES
from mixer_jax.tasks import TASKS
from mixer_jax.training import experiment as experiments
from mixer_jax.training import loop, settings, watch
from mixer_jax.training import mesh as meshes

SECTIONS = ('model', 'task', 'data', 'augment', 'optimizer', 'schedule', 'mesh', 'watch')
IMPLEMENTATIONS = ('__call__',)  # what every model takes, whether it uses it or not

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
  data = experiments.kind_of(config['data']['name'])
  kept = recorded(data, seen['data'])
  whole = recorded(settings.Settings, seen['config'])
  monkeypatch.setattr(experiments, 'read', lambda config: whole(**settings.resolve(config)))
  monkeypatch.setattr(experiments, 'kind_of', lambda _: kept)
  assert loop.train_and_evaluate(config, tmp_path / 'run')
  names = lambda cls: {field.name for field in dataclasses.fields(cls)}
  assert names(whole) - seen['config'] == set()
  assert names(data) - seen['data'] == set()


def functions_of_sections():
  """The functions that settings go to, and all others in their files."""
  tables = (OPTIMIZERS, SCHEDULES, SAMS, augment.AUGMENTATIONS, TASKS, MODELS, MIXINGS)
  makers = [
    pkgutil.resolve_name(part) if isinstance(part, str) else part for table in tables for part in table.values()
  ]
  modules = {inspect.getmodule(maker) for maker in [*makers, groups.scale]} | {model_layers, meshes, watch}
  trees = [(module.__name__, ast.parse(inspect.getsource(module))) for module in modules]
  functions = [(name, node) for name, tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
  # Every model takes `rngs`, whether it draws or not.
  functions = [(name, node) for name, node in functions if node.name not in IMPLEMENTATIONS and not is_abstract(node)]
  found = {node.name for _, node in functions}
  assert {maker.__name__ for maker in makers if inspect.isfunction(maker)} <= found and '__init__' in found
  return functions


def is_abstract(function):
  return isinstance(function.body[-1], ast.Raise) and 'NotImplementedError' in ast.dump(function.body[-1])


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


@pytest.mark.parametrize('section', ['total', 'batch_size', 'model', 'data', 'schedule'])
def test_a_missing_key_is_refused_by_name(section, load):
  config = load('digits')
  del config[section]
  with pytest.raises(MixerError, match=section):
    experiments.build(config)


# ---- every key changes the result


@pytest.fixture(scope='session')
def digits():
  return functools.cache(lambda split: sets.load('digits', split, image=(8, 8, 1), classes=10))


def after_three_steps(config, digits):
  """All parameters, and their average."""
  experiment = experiments.build(config)
  source = digits(config['data']['train'])
  length = experiment.length(len(source))
  optimizer, _ = experiment.optimizer(length)
  state = experiment.init_state(optimizer)
  step = jax.jit(experiment.train_step(optimizer, length))
  for i in range(3):
    rows = loader.rows_of_step(config['seed'], i, config['batch_size'], len(source))
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
  return jax.jit(experiments.build(config).preprocess)(batch, jax.random.key(2))


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
    'data.train': 'train[:50%]',
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
    'model.mixing': {'name': 'mlp'},
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
    config = settings.resolve(configs.load(['--config=digits', *BASE]))
    first = measure(config, digits)
    assert equal(first, measure(config, digits))
    return first

  return base


@pytest.mark.parametrize(
  'measure, key',
  [
    pytest.param(m, key, id=f'{m.__name__}-{key}', marks=pytest.mark.nightly if m is after_three_steps else ())
    for m, keys in CHANGES.items()
    for key in keys
  ],
)
def test_a_key_changes_the_result(measure, key, load, digits, base):
  config = load('digits', '', *BASE)
  *path, last = key.split('.')
  section = functools.reduce(dict.__getitem__, path, config)
  assert section.get(last) != CHANGES[measure][key]
  section[last] = CHANGES[measure][key]
  if key == 'model.mixing':  # which has no hidden layer
    section['token_mlp'] = 0
  assert not equal(measure(config, digits), base(measure))


def test_every_key_of_digits_is_among_the_changes(load):
  """But for the names of the only entry of a table, what the data fix, and what says when and how, not what.

  `rescale` has its test below, `scan` and `remat` theirs in tests/models/test_mixer.py, `init_from` those of
  tests/weights/test_fitting.py and tests/test_commands_convert.py;
  `report`, `crop_from`, `bits` and `ramp` those of tests/tasks, tests/data and tests/optim/test_schedules.py.
  """
  keys = {key for changes in CHANGES.values() for key in changes}
  left = {key for key in flat(load('digits')) if not any(key == known or key.startswith(f'{known}.') for known in keys)}
  assert left == {
    'accumulate', 'eval_batch_size', 'log_every', 'eval_every', 'checkpoint_every', 'mesh.data', 'mesh.fsdp',
    'model.name', 'task.name', 'optimizer.name', 'data.name', 'data.val', 'data.test', 'data.image', 'data.classes',
    'data.resident_mib', 'data.workers', 'model.rescale', 'model.scan', 'task.report',
    'data.crop_from', 'data.bits', 'schedule.ramp', 'model.remat', 'init_from.weights',
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
