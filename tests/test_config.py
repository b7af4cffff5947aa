"""Configs in: what is accepted, and the one line for each mistake."""

import dataclasses
import json
import sys
from typing import Any

import pytest
from ml_collections import ConfigDict

from mixer_jax import config as configs
from mixer_jax.errors import MixerError

FILE = """
from ml_collections import ConfigDict


def get_config(arg=None):
  if arg not in (None, 'wide'):
    raise ValueError(f"small.py takes no argument or 'wide', not {arg!r}")
  config = ConfigDict()
  config.seed = 0
  config.rate = 0.5
  config.label = 'a'
  config.shape = (4, 2)
  config.loud = False
  config.model = {'name': 'mixer', 'hidden': 64 if arg else 8}
  return config
"""


def refused(call, *parts):
  """Calls; the message of the MixerError is one line and holds all `parts`."""
  with pytest.raises(MixerError) as info:
    call()
  message = str(info.value)
  assert '\n' not in message
  for part in parts:
    assert part in message, message


@pytest.fixture
def small(tmp_path):
  path = tmp_path / 'small.py'
  path.write_text(FILE)
  return path


def test_a_file_its_argument_and_overrides(small):
  given = ['--config.model.hidden=16', '--config.shape=(8, 8)', '--config.label=b', '--config.loud=true']
  config = configs.load([f'--config={small}', *given])
  wanted = {'seed': 0, 'rate': 0.5, 'label': 'b', 'shape': [8, 8], 'loud': True}
  assert config == wanted | {'model': {'name': 'mixer', 'hidden': 16}}
  assert json.loads(json.dumps(config)) == config
  assert configs.load([f'--config={small}:wide'])['model']['hidden'] == 64


def test_values_may_be_arguments_of_their_own(small):
  config = configs.load(['--config', f'{small}:wide', '--config.seed', '3'])
  assert config['seed'] == 3 and config['model']['hidden'] == 64


def test_a_whole_number_where_a_fraction_is_wanted(small):
  config = configs.load([f'--config={small}', '--config.rate=1'])
  assert config['rate'] == 1


@pytest.mark.parametrize(
  'override, parts',
  [
    ('--config.model.hiden=3', ['small.py', "unknown key 'hiden'", 'Did you mean "hidden"']),
    ('--config.sed=3', ["unknown key 'sed'", 'Did you mean "seed"']),
    ('--config.model.mlp.width=3', ["unknown key 'mlp'"]),
    ('--config.model=3', ['model', '3']),
    ('--config.seed=three', ['seed', 'three']),
    ('--config.seed=0.5', ['seed', '0.5']),
    ('--config.rate=fast', ['rate', 'fast']),
    ('--config.loud=perhaps', ['loud', 'perhaps']),
    ('--confg.seed=3', ['confg']),
    ('--speed=3', ['speed']),
    ('seed=3', ['seed=3', '--config.key=value']),
  ],
)
def test_a_wrong_override(small, override, parts):
  refused(lambda: configs.load([f'--config={small}', override]), *parts)


def test_no_config():
  refused(lambda: configs.load([]), '--config=')


def test_no_such_file(small):
  refused(lambda: configs.load([f'--config={small.parent}/smal.py']), 'smal.py', 'small.py')
  refused(lambda: configs.load([f'--config={small.parent}/none/smal.py']), 'none/smal.py')
  refused(lambda: configs.load(['--config', str(small.parent / 'smal.py')]), 'smal.py')
  refused(lambda: configs.load(['--config']), 'config')


@pytest.mark.parametrize(
  'text, parts',
  [
    ('seed = 0\n', ['odd.py', 'get_config']),
    ('def get_config(arg=None):\n  return {"seed": 0}\n', ['dict', 'ConfigDict']),
    ('def get_config(arg=None):\n  return None\n', ['config']),
    (
      'def get_config(arg=None):\n  raise ValueError(f"odd.py takes 1 or 2, not {arg!r}")\n',
      ['odd.py takes 1 or 2, not None'],
    ),
  ],
  ids=['no get_config', 'a dict', 'nothing', 'a wrong argument'],
)
def test_a_file_that_gives_no_config(tmp_path, monkeypatch, text, parts):
  monkeypatch.delitem(sys.modules, 'config_config', raising=False)  # as in a new process, which has loaded no other
  (tmp_path / 'odd.py').write_text(text)
  refused(lambda: configs.load([f'--config={tmp_path}/odd.py']), *parts)


def test_an_argument_that_the_file_refuses(small):
  with pytest.raises(MixerError) as refusal:
    configs.load([f'--config={small}:narrow'])
  assert str(refusal.value) == f"{small}: small.py takes no argument or 'wide', not 'narrow'"


def test_plain_goes_all_the_way_down():
  value = ConfigDict({'a': {'b': (1, (2, 3))}, 'c': [ConfigDict({'d': ()})]})
  assert configs.plain(value) == {'a': {'b': [1, [2, 3]]}, 'c': [{'d': []}]}


def shape(*, width: int, depth: int | tuple[int, int], rate: float = 0.0, sizes: tuple[float, ...] = (), rngs: Any):
  return width, depth, rate, sizes, rngs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
  width: int
  name: str = 'a'


def test_call_gives_lists_as_tuples_and_the_context():
  given = {'width': 3, 'depth': [1, 2], 'rate': 1, 'sizes': [1, 2.5]}
  assert configs.call(shape, given, 'model', rngs=7, unasked=1) == (3, (1, 2), 1, (1, 2.5), 7)
  assert configs.call(Section, {'width': 3}, 'section') == Section(width=3)


@pytest.mark.parametrize(
  'settings, parts',
  [
    ({'width': 3, 'dept': 1}, ['model.dept', 'did you mean', 'depth']),
    ({'width': 3, 'depth': 1, 'rngs': 0}, ['model.rngs']),
    ({'width': 3}, ['model.depth', 'missing', 'int | tuple[int, int]']),
    ({'depth': 1}, ['model.width', 'missing', 'int']),
    ({'width': '3', 'depth': 1}, ['model.width', "'3'", 'str', 'int']),
    ({'width': 3.0, 'depth': 1}, ['model.width', '3.0', 'float', 'int']),
    ({'width': True, 'depth': 1}, ['model.width', 'True', 'bool', 'int']),
    ({'width': 3, 'depth': 1, 'rate': True}, ['model.rate', 'True', 'bool', 'float']),
    ({'width': 3, 'depth': 1, 'rate': None}, ['model.rate', 'None', 'float']),
    ({'width': 3, 'depth': [1, 2, 3]}, ['model.depth', '[1, 2, 3]', 'tuple[int, int]']),
    ({'width': 3, 'depth': 1, 'sizes': [1.0, 'b']}, ['model.sizes', "'b'", 'tuple[float, ...]']),
    ({'width': 3, 'depth': 1, 'sizes': 1.0}, ['model.sizes', '1.0', 'tuple[float, ...]']),
  ],
)
def test_call_refuses(settings, parts):
  refused(lambda: configs.call(shape, settings, 'model', rngs=7), *parts)


def test_call_refuses_for_a_class():
  refused(lambda: configs.call(Section, {'widht': 3}, 'section'), 'section.widht', "'width'")
  refused(lambda: configs.call(Section, {'width': 'b'}, 'section'), 'section.width', "'b'")


def test_named():
  table = {'shape': shape, 'section': Section}
  assert configs.named(table, {'name': 'section', 'width': 3}, 'model').width == 3
  assert configs.named({'text': 'string:Template'}, {'name': 'text', 'template': 'a $b'}, 'model').template == 'a $b'
  refused(lambda: configs.named(table, {'width': 3}, 'model'), 'model.name', 'missing', 'section, shape')
  refused(lambda: configs.named(table, {'name': 'shap'}, 'model'), 'model.name', "'shap'", "did you mean 'shape'")
  refused(lambda: configs.named(table, {'name': 3}, 'model'), 'model.name', '3', 'section, shape')
  refused(lambda: configs.named(table, {'name': ['shape']}, 'model'), 'model.name', 'shape')
