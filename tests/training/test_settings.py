"""The whole of a config: defaults, what the command line changes, every mistake, configs of runs from before."""

import json
import sys
from pathlib import Path

import pytest

from mixer_jax import config as configs
from mixer_jax.errors import MixerError
from mixer_jax.parts import Lacking, Missing, Text
from mixer_jax.training import settings

OLD = Path(__file__).parents[1] / 'configs' / 'old'
SMALL = {
  'total': '3 epochs', 'batch_size': 16, 'schedule': {'name': 'cosine', 'peak': 1e-3}, 'data': {'name': 'digits'},
  'model': {'name': 'mixer', 'patch': 2, 'hidden': 4, 'blocks': 1, 'token_mlp': 3, 'channel_mlp': 5},
}  # fmt: skip


def load(*flags, config='digits', notes=None):
  return settings.resolve(configs.load([f'--config={config}', *flags]), [] if notes is None else notes)


def refused(call, *words, kind=MixerError):
  with pytest.raises(kind) as info:
    call()
  message = str(info.value)
  assert '\n' not in message
  for word in words:
    assert word in message, message
  return info.value


# ---- defaults


def test_a_small_config_becomes_whole():
  whole = settings.resolve(SMALL)
  assert [*whole] == [*settings.Settings.__dataclass_fields__]
  assert whole | {
    'seed': 0, 'eval_batch_size': 16, 'accumulate': 1, 'ema': 0.0, 'augment': {}, 'augment_until': '100%', 'sam': {},
    'update_noise': {}, 'layers': {}, 'watch': {}, 'mesh': {'data': -1, 'fsdp': 1}, 'log_every': '1%',
    'eval_every': '10%', 'checkpoint_every': '10%',
  } == whole  # fmt: skip
  assert whole['task'] | {'name': 'classification', 'loss': 'softmax', 'label_smoothing': 0.0} == whole['task']
  assert whole['optimizer'] == {
    'name': 'adamw', 'b1': 0.9, 'b2': 0.999, 'eps': 1e-8, 'weight_decay': 0.05, 'clip': 0.0,
  }  # fmt: skip
  assert whole['schedule'] == SMALL['schedule'] | {'warmup': '0', 'floor': 0.0, 'ramp': 'linear'}
  assert whole['init_from'] == {
    'weights': '', 'checkpoint': 'last', 'head': 'keep', 'tokens': 'keep', 'stem': 'keep',
  }  # fmt: skip
  assert (
    whole['data'] | {'image': [8, 8, 1], 'classes': 10, 'train': 'train[:80%]', 'test': 'train[80%:]'}
    == (whole['data'])
  )
  assert whole['model']['gelu'] == 'tanh' and not whole['model']['scan']


@pytest.mark.parametrize('name', ['digits', 'imagenet:S/16', 'unsw_nb15', 'mnist:best', 'mnist_autoencoder:mlp-234'])
def test_a_whole_config_is_json_and_stays_as_it_is(name):
  whole = load(config=name)
  assert json.loads(json.dumps(whole)) == whole
  assert settings.resolve(whole) == whole
  assert settings.upgrade(whole) == whole
  assert settings.read(whole).batch_size == whole['batch_size']


def test_what_is_given_is_left_alone():
  config = configs.load(['--config=digits', '--config.sam.rho=0.1'])
  before = json.dumps(config)
  settings.resolve(config)
  assert json.dumps(config) == before and isinstance(config['sam']['rho'], Text)


# ---- the command line


def test_keys_that_the_file_does_not_have():
  whole = load(
    '--config.sam.rho=0.1', '--config.layers.decay=0.8', '--config.layers.freeze=stem', '--config.task.report=true',
    '--config.model.dropout=0.1', '--config.update_noise.eta=1e-6', '--config.watch.lines=3', '--config.mesh.fsdp=2',
    '--config.augment.cutmix.alpha=0.5', '--config.data.workers=2', '--config.total=5', '--config.init_from.weights=w',
  )  # fmt: skip
  assert whole['sam'] == {'name': 'sam', 'rho': 0.1, 'sync': True}
  assert whole['layers'] == {'decay': 0.8, 'freeze': ['stem']}
  assert whole['task']['report'] is True and whole['task']['label_smoothing'] == 0.1
  assert whole['model']['dropout'] == 0.1
  assert whole['update_noise'] == {'eta': 1e-6, 'gamma': 0.55}
  assert whole['watch']['lines'] == 3 and set(whole['watch']) == {'change', 'loss', 'lines'}
  assert whole['mesh'] == {'data': -1, 'fsdp': 2}
  assert whole['augment']['cutmix'] == {'alpha': 0.5, 'probability': 1.0} and 'affine' in whole['augment']
  assert (whole['data']['workers'], whole['total'], whole['init_from']['weights']) == (2, '5', 'w')


def test_sam_by_name_alone_or_as_a_literal():
  assert load('--config.sam.name=asam', '--config.sam.rho=1')['sam'] == {
    'name': 'asam', 'rho': 1.0, 'eta': 0.01, 'sync': True,
  }  # fmt: skip
  assert load("--config.sam={'name': 'sam', 'rho': 0.2}", '--config.sam.sync=false')['sam'] == {
    'name': 'sam', 'rho': 0.2, 'sync': False,
  }  # fmt: skip


def test_another_optimizer_has_no_leftovers(monkeypatch):
  notes = []
  whole = load('--config.optimizer.name=sgd', notes=notes)
  assert whole['optimizer'] == {'name': 'sgd', 'momentum': 0.9, 'clip': 1.0}
  assert notes == ["optimizer 'sgd' does not take weight_decay of the config file: left out"]
  warnings = []
  monkeypatch.setattr(settings.logger, 'warning', warnings.append)
  settings.resolve(configs.load(['--config=digits', '--config.optimizer.name=sgd']))
  assert warnings == notes
  refused(lambda: load('--config.optimizer.name=sgd', '--config.optimizer.b1=0.5'), 'optimizer.b1', 'momentum')
  assert load('--config.optimizer=sgd')['optimizer'] == {'name': 'sgd', 'momentum': 0.9, 'clip': 0.0}


def test_another_schedule_task_and_augmentation():
  notes = []
  whole = load('--config.schedule.name=constant', '--config.augment={}', notes=notes)
  assert whole['schedule'] == {'name': 'constant', 'peak': 2e-3, 'warmup': '5 epochs', 'ramp': 'linear'}
  assert notes == ["schedule 'constant' does not take floor of the config file: left out"]
  assert whole['augment'] == {}
  refused(lambda: load('--config.schedule.name=restarts'), 'schedule.period (str)', kind=Missing)


def test_another_model():
  notes = []
  whole = load('--config.model.name=mixer_autoencoder', *(
    f'--config.model.{key}=1' for key in ('encoder_blocks', 'decoder_blocks', 'bottleneck', 'code')
  ), '--config.task.name=reconstruction', notes=notes)  # fmt: skip
  assert whole['model']['hidden'] == 64 and whole['task']['name'] == 'reconstruction'
  assert sorted(notes) == [
    "model 'mixer_autoencoder' does not take blocks of the config file: left out",
    "task 'reconstruction' does not take label_smoothing of the config file: left out",
  ]


def test_another_data_set():
  notes = []
  whole = load('--config.data.name=mnist', notes=notes)
  assert (whole['data']['image'], whole['data']['train'], notes) == ([28, 28, 1], 'train', [])
  whole = load(
    '--config.data.name=digits', '--config.data.image=(8, 8, 1)', config='unsw_nb15', notes=notes,
  )  # fmt: skip
  assert notes == [] and whole['data']['train'] == 'train[:80%]'
  whole = load('--config.data.name=digits', config='breast_cancer', notes=notes)
  assert notes == ["data 'digits' does not take scaling of the config file: left out"]
  whole = load('--config.data.drop=a', '--config.data.drop=b', '--config.data.categorical=c', config='breast_cancer')
  assert (whole['data']['drop'], whole['data']['categorical']) == (['a', 'b'], ['c'])


def test_a_nested_part(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'nested.py').write_text(
    'from typing import Annotated\nfrom flax import nnx\n'
    'def wide(*, kernel: int, grid): return kernel\n'
    'def deep(*, depth: int = 2): return depth\n'
    "TABLE = {'wide': wide, 'deep': deep}\n"
    'class Net(nnx.Module):\n'
    "  def __init__(self, *, mixing: Annotated[dict, TABLE] = {'name': 'deep'}, classes, rngs): pass\n"
  )
  flags = ['--config.model.name=nested:Net']
  whole = load(*flags)
  assert whole['model'] == {'name': 'nested:Net', 'mixing': {'name': 'deep', 'depth': 2}}
  assert load(*flags, '--config.model.mixing.depth=3')['model']['mixing'] == {'name': 'deep', 'depth': 3}
  refused(lambda: load(*flags, '--config.model.mixing.name=wide'), 'model.mixing.kernel (int)', kind=Missing)
  sys.modules.pop('nested')


# ---- mistakes


def test_all_missing_keys_are_reported_at_once():
  error = refused(lambda: settings.resolve({}), 'total', kind=Missing)
  names = [key.partition(' ')[0] for key in error.keys]
  assert sorted(names) == ['config.batch_size', 'config.total', 'data.name', 'model.name', 'schedule.name']
  sections = {'model': {'name': 'mixer'}, 'data': {'name': 'csv:x'}, 'schedule': {'name': 'cosine'}, 'sam': 'sam'}
  error = refused(lambda: settings.resolve(sections | {'augment': {'crop': {}}, 'update_noise': {'gamma': 1.0}}))
  assert {
    'config.total (str)',
    'model.patch (int | tuple[int, int])',
    'model.hidden (int)',
    'schedule.peak (float)',
  } <= ({*error.keys})
  assert {'sam.rho (float)', 'augment.crop.padding (int)', 'update_noise.eta (float)'} <= {*error.keys}


@pytest.mark.parametrize(
  'key, value, words',
  [
    ('modl', {}, ['config.modl', "did you mean 'model'", 'augment_until']),
    ('model.hiden', 3, ['model.hiden', "did you mean 'hidden'", 'token_mlp']),
    ('model.rngs', 3, ['model.rngs']),
    ('model.image', [8, 8, 1], ['model.image']),
    ('model.name', 'mixr', ['model.name', "did you mean 'mixer'", 'module:name']),
    ('model.name', 'os:system', ['os:system', 'subclass of flax.nnx.Module']),
    ('model', 3, ['config.model is 3', 'dict']),
    ('data.name', 3, ['data.name is 3']),
    ('data.clases', 3, ['data.clases', "did you mean 'classes'", 'resident_mib']),
    ('data.schema', {}, ['data.schema']),
    ('optimizer.schedule', 3, ['optimizer.schedule']),
    ('optimizer', {'name': 'sdg'}, ['optimizer.name', "did you mean 'sgd'", 'optax.NAME']),
    ('augment', {'flop': {}}, ["augment 'flop'", "did you mean 'flip'"]),
    ('augment', {'flip': 3}, ['augment.flip is 3', 'dict']),
    ('augment', {'flip': {'p': 3}}, ['augment.flip.p', 'probability']),
    ('augment', {'flip': {'probability': 'x'}}, ['augment.flip.probability', "'x'", 'float']),
    ('mesh', {'dta': 3}, ['mesh.dta', "did you mean 'data'"]),
    ('layers', {'params': 3}, ['layers.params', 'decay, freeze']),
    ('layers', {'order': 3}, ['layers.order', 'decay, freeze']),
    ('watch', {'line': 3}, ['watch.line', "did you mean 'lines'"]),
    ('init_from', {'weight': 3}, ['init_from.weight', "did you mean 'weights'"]),
    ('update_noise', {'eta': 1.0, 'seed': 3}, ['update_noise.seed']),
    ('ema', 'often', ["config.ema is 'often'", 'float']),
  ],
)
def test_mistakes_are_reported_by_name(key, value, words):
  config = json.loads(json.dumps(SMALL))
  section, _, last = key.partition('.')
  if last:
    config.setdefault(section, {})[last] = value
  else:
    config[section] = value
  refused(lambda: settings.resolve(config), *words)


@pytest.mark.parametrize(
  'flag, words',
  [
    ('--config.model.hidden=wide', ['model.hidden', "'wide' (str)", 'int']),
    ('--config.seed=0.5', ['config.seed is 0.5 (float)', 'int']),
    ('--config.seed=three', ["config.seed is 'three' (str)", 'int']),
    ('--config.model.scan=perhaps', ["model.scan is 'perhaps'", 'bool']),
    ('--config.schedule.peak=fast', ["schedule.peak is 'fast'", 'float']),
    ('--config.mesh=3', ['config.mesh', 'dict']),
    ('--config.speed=3', ['config.speed']),
  ],
)
def test_mistakes_on_the_command_line(flag, words):
  refused(lambda: load(flag), *words)


def test_a_model_of_other_data():
  make = lambda kind, name, given, **rest: settings.make(kind, {'name': name, **rest}, **given)
  images = {'image': (8, 8, 1), 'classes': 10, 'outputs': 10, 'rngs': None}
  rows = {'columns': 4, 'vocabularies': (), 'classes': 2, 'outputs': 1, 'rngs': None}
  tabular = {'hidden': 4, 'blocks': 1}
  mixer = {'patch': 2, 'hidden': 4, 'blocks': 1, 'token_mlp': 3, 'channel_mlp': 5}
  refused(lambda: make('model', 'tabular', images, **tabular), "'tabular' needs a table (columns", 'gives images')
  refused(lambda: make('model', 'mixer', rows, **mixer), "'mixer' needs images (image)", 'data gives a table')
  refused(lambda: make('task', 'reconstruction', {'classes': 2}), "'reconstruction' needs images", 'a table')
  refused(lambda: make('sam', 'gsam', {'base': None}, rho=0.1), 'sam needs schedule, peak', kind=Lacking)


# ---- runs from before


@pytest.mark.parametrize(
  'file, name',
  [
    ('digits', 'digits'), ('mnist', 'mnist'), ('mnist_best', 'mnist:best'), ('breast_cancer', 'breast_cancer'),
    ('mnist_autoencoder_mlp-234', 'mnist_autoencoder:mlp-234'),
    ('mnist_autoencoder_cnn2df-234-k7', 'mnist_autoencoder:cnn2df-234-k7'),
    ('mnist_mixer_autoencoder_long', 'mnist_mixer_autoencoder:long'),
    ('sharp_minima_digits-gsam', f'{Path(__file__).parents[2]}/studies/sharp_minima/config.py:digits-gsam'),
  ],
)  # fmt: skip
def test_a_config_json_from_before_is_the_config_of_today(file, name):
  old = json.loads((OLD / f'{file}.json').read_text())
  before = json.dumps(old)
  assert settings.resolve(settings.upgrade(old)) == load(config=name)
  assert json.dumps(old) == before
  assert settings.upgrade(settings.upgrade(old)) == settings.upgrade(old)


def test_what_an_upgrade_changes():
  mixer = {'name': 'mixer', 'hidden': 4}
  up = lambda model: settings.upgrade({'model': model})['model']
  assert up(mixer | {'norm_over': 'channels', 'first': 'tokens', 'pool': 'mean', 'head': []}) == mixer
  assert up(mixer | {'head': [9]}) == mixer | {
    'name': 'mnist_mixer', 'norm_over': 'channels', 'first': 'tokens', 'pool': 'mean', 'head': [9], 'gelu': 'tanh',
    'init': 'original',
  }  # fmt: skip
  assert up(mixer | {'pool': 'flatten', 'gelu': 'exact', 'init': 'torch'})['init'] == 'torch'
  assert up({'name': 'mixing_autoencoder', 'mixing': 'mlp', 'kernel': 1})['mixing'] == {'name': 'mlp'}
  old = {'model': {}, 'task': {'name': 'reconstruction'}, 'augment': {'noise': {'deviation': 0.2}, 'flip': {}}}
  new = settings.upgrade(old | {'augment_until': '90%'})
  assert new['task'] == {'name': 'reconstruction', 'noise': 0.2}
  assert (new['augment'], new['augment_until']) == ({'flip': {}}, '90%')
