"""Configs in: what is accepted, what the command line sets, and the one line for each mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

import mixer_jax
from mixer_jax import config as configs
from mixer_jax.errors import MixerError
from mixer_jax.parts import Text

FILE = """
from ml_collections import ConfigDict


def get_config(arg=None):
  if arg not in (None, 'wide'):
    raise ValueError(f"small.py takes no argument or 'wide', not {arg!r}")
  config = ConfigDict()
  config.seed = 0
  config.shape = (4, 2)
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


def load(small, *overrides, argument=''):
  return configs.load([f'--config={small}{argument}', *overrides])


def test_a_file_and_its_argument(small):
  assert load(small) == {'seed': 0, 'shape': [4, 2], 'model': {'name': 'mixer', 'hidden': 8}}
  assert load(small, argument=':wide')['model']['hidden'] == 64


def test_what_the_command_line_sets_is_text(small):
  config = load(small, '--config.model.hidden=16', '--config.loud=true', '--config.sam.rho=0.1')
  assert config == {
    'seed': 0, 'shape': [4, 2], 'model': {'name': 'mixer', 'hidden': '16'}, 'loud': 'true', 'sam': {'rho': '0.1'},
  }  # fmt: skip
  assert all(isinstance(v, Text) for v in (config['model']['hidden'], config['loud'], config['sam']['rho']))
  assert not isinstance(config['model']['name'], Text)


def test_values_may_be_arguments_of_their_own(small):
  config = configs.load(['--config', f'{small}:wide', '--config.seed', '3', '-config.mesh.data', '-1', '--config.loud'])
  assert (config['seed'], config['mesh'], config['loud']) == ('3', {'data': '-1'}, 'True')


def test_the_last_of_several_values_counts_and_the_others_are_kept(small):
  drop = load(small, '--config.data.drop=a', '--config.seed=1', '--config.data.drop=b')['data']['drop']
  assert drop == 'b' and drop.given == ('a', 'b')


def test_a_literal_replaces_a_section_before_single_keys_are_set(small):
  config = load(small, '--config.model.hidden=3', "--config.model={'name': 'tabular', 'sizes': (1, 2)}")
  assert config['model'] == {'name': 'tabular', 'sizes': [1, 2], 'hidden': '3'}
  assert load(small, '--config.model={}')['model'] == {}


def test_a_module_of_a_package_keeps_its_dots(small):
  config = load(small, *(f'--config.augment.{name}.below=0.5' for name in ('package.module:name', 'module:name')))
  assert config['augment'] == {'package.module:name': {'below': '0.5'}, 'module:name': {'below': '0.5'}}


def test_a_bare_name_is_a_section(small):
  config = load(small, '--config.sam=asam', '--config.model=tabular', '--config.model.blocks=2')
  assert config['sam'] == 'asam' and config['model'] == {'name': 'tabular', 'blocks': '2'}


def test_a_name_that_stays_is_not_of_the_command_line(small):
  assert not isinstance(load(small, '--config.model.name=mixer')['model']['name'], Text)
  assert isinstance(load(small, '--config.model.name=tabular')['model']['name'], Text)


@pytest.mark.parametrize(
  'override, parts',
  [
    ('--config.seed.more=3', ['--config.seed.more', 'seed is 0', 'no keys']),
    ('--config.model={1', ['--config.model={1', 'not a Python literal']),
    ('--config.model={1}', ['--config.model={1}', 'set', 'not a dict']),
    ('--config.model..hidden=1', ['--config.model..hidden']),
    ('--config.=1', ['--config.=1']),
    ('--confg.seed=3', ['confg']),
    ('--speed=3', ['speed']),
    ('seed=3', ['seed=3', '--config.key=value']),
  ],
)
def test_a_wrong_override(small, override, parts):
  refused(lambda: load(small, override), *parts)


def test_no_config():
  refused(lambda: configs.load([]), '--config=', 'digits', 'mnist')
  refused(lambda: configs.load(['--config']), '--config', 'digits')
  refused(lambda: configs.load(['--config=']), '--config', 'digits')


def test_files_that_are_no_configs_are_not_offered(small, monkeypatch):
  (small.parent / 'setup.py').write_text('import x\n\nconfig = x.get_config()\n')
  (small.parent / 'short.py').write_text('get_config = lambda arg=None: {"seed": 1}\n')
  (small.parent / '.#small.py').symlink_to('nowhere')  # as an editor leaves them
  (small.parent / 'folder.py').mkdir()
  message = f"no config file '{small.parent}/smal.py'; the folder {small.parent} has short.py, small.py"
  with pytest.raises(MixerError) as refusal:
    configs.load([f'--config={small.parent}/smal.py'])
  assert str(refusal.value) == message
  # A path is a path, even where a bundled config has that name.
  monkeypatch.chdir(small.parent)
  for place in ('./digits', './digits.py', f'{small.parent}/digits', '../none/digits'):
    refused(lambda place=place: configs.load([f'--config={place}']), f'no config file {place!r}')
  refused(lambda: configs.load(['--config=./digits']), 'has short.py, small.py')


def test_no_such_file(small):
  refused(lambda: configs.load([f'--config={small.parent}/smal.py']), 'smal.py', 'small.py')
  refused(lambda: configs.load([f'--config={small.parent}/none/smal.py']), 'none/smal.py')
  refused(lambda: configs.load(['--config', str(small.parent / 'smal.py')]), 'smal.py')
  refused(lambda: configs.load(['--config=digit']), "'digit'", "did you mean 'digits'", 'breast_cancer')


@pytest.mark.parametrize(
  'text, parts',
  [
    ('seed = 0\n', ['odd.py', 'get_config']),
    ('def get_config(arg=None):\n  return 3\n', ['int', 'ConfigDict']),
    ('def get_config(arg=None):\n  return None\n', ['NoneType', 'ConfigDict']),
    (
      'def get_config(arg=None):\n  raise ValueError(f"odd.py takes 1 or 2, not {arg!r}")\n',
      ['odd.py takes 1 or 2, not None'],
    ),
    ('def get_config(arg=None):\n  return {}[0]\n', ['odd.py: KeyError: 0 (line 2)']),
    ('import nothing_of_that_name\n', ['odd.py: ModuleNotFoundError', 'nothing_of_that_name']),
    ('def get_config(:\n', ['odd.py: SyntaxError', 'line 1']),
    ('from mixer_jax.errors import MixerError\nraise MixerError("no such weights")\n', ['no such weights']),
  ],
  ids=['no get_config', 'a number', 'nothing', 'a wrong argument', 'a fault', 'an import', 'no Python', 'MixerError'],
)
def test_a_file_that_gives_no_config(tmp_path, text, parts):
  (tmp_path / 'odd.py').write_text(text)
  refused(lambda: configs.load([f'--config={tmp_path}/odd.py']), *parts)


def test_an_argument_that_the_file_refuses(small, tmp_path):
  with pytest.raises(MixerError) as refusal:
    load(small, argument=':narrow')
  assert str(refusal.value) == f"{small}: small.py takes no argument or 'wide', not 'narrow'"
  (tmp_path / 'none.py').write_text('def get_config():\n  return {"seed": 1}\n')
  assert configs.load([f'--config={tmp_path}/none.py']) == {'seed': 1}
  refused(lambda: configs.load([f'--config={tmp_path}/none.py:wide']), 'none.py takes no argument', "'wide'")


def test_plain_goes_all_the_way_down():
  value = ConfigDict({'a': {'b': (1, (2, 3))}, 'c': [ConfigDict({'d': ()})], 'e': placeholder(tuple)})
  assert configs.plain(value) == {'a': {'b': [1, [2, 3]]}, 'c': [{'d': []}], 'e': None}


def test_bundled_configs_go_by_name_from_any_folder_and_a_path_goes_first(tmp_path, monkeypatch, small):
  monkeypatch.chdir(tmp_path)
  assert {'digits', 'imagenet', 'csv'} <= set(configs.bundled())
  assert configs.load(['--config=digits']) == configs.load(['--config=digits.py'])
  assert configs.load(['--config=imagenet:S/16'])['model']['hidden'] == 512
  small.rename(tmp_path / 'digits.py')
  assert 'shape' in configs.load(['--config=digits.py'])
  assert 'shape' not in configs.load(['--config=digits'])
  refused(lambda: configs.load(['--config=configs/digits.py']), "no config file 'configs/digits.py'")


def test_reading_a_config_imports_no_jax():
  """So that a wrong --config is reported at once."""
  code = 'import sys; from mixer_jax import config; config.load(["--config=digits"]); print("jax" in sys.modules)'
  environment = os.environ | {'PYTHONPATH': str(Path(mixer_jax.__file__).parents[1])}
  assert (
    subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment).stdout == 'False\n'
  )
