"""The MNIST Mixer: count, PyTorch's numbers, each of its four departures from the paper and all of them together."""

import itertools
import re
import runpy
from pathlib import Path

import jax.numpy as jnp
import networks
import numpy as np
import pytest
from flax import nnx
from networks import flat, images, randomise, run

from mixer_jax import config as configs
from mixer_jax.errors import MixerError
from mixer_jax.models import upgrade
from mixer_jax.models.mixer import MlpMixer
from mixer_jax.models.mnist_mixer import MnistMixer
from mixer_jax.training import experiment

ROOT = Path(__file__).parents[2]
SMALL = {
  'image': (12, 8, 3), 'classes': 5,
  'patch': 4, 'hidden': 16, 'blocks': 2, 'token_mlp': 10, 'channel_mlp': 24,
}  # fmt: skip
PAPER = {'norm_over': 'channels', 'first': 'tokens', 'pool': 'mean', 'head': (), 'gelu': 'tanh', 'init': 'original'}


def make(**settings):
  return MnistMixer(**{**SMALL, **settings}, rngs=nnx.Rngs(0))


def shapes(**settings):
  return networks.shapes(lambda: make(**settings))


def start(**settings):
  return networks.start(lambda: make(**settings))


def test_parameters_of_the_config_and_of_the_defaults():
  config = runpy.run_path(str(ROOT / 'configs' / 'mnist.py'))['get_config']()
  assert experiment.build(configs.plain(config)).parameters == 1_379_578
  sizes = {'image': (28, 28, 1), 'classes': 10, 'patch': 7, 'hidden': 128, 'blocks': 3, 'token_mlp': 64}
  assert networks.count(lambda: MnistMixer(**sizes, channel_mlp=64, rngs=nnx.Rngs(0))) == 1_379_578


BLOCK = {
    'ln1': 'channel_norm', 'mlp1.fc1': 'channel_mixing/fc1', 'mlp1.fc2': 'channel_mixing/fc2',
    'ln2': 'token_norm', 'mlp2.fc1': 'token_mixing/fc1', 'mlp2.fc2': 'token_mixing/fc2',
}  # fmt: skip
OUTSIDE = {'patch_embedding': 'stem', 'clf.0': 'head_hidden/0', 'clf.2': 'head_hidden/1', 'clf.4': 'head'}


def ours(name, value):
  """A parameter of the torch model -> (name, value) here."""
  layer, kind = name.rsplit('.', 1)
  block = re.fullmatch(r'mixers\.(\d+)\.(.*)', layer)
  layer = f'blocks/{block[1]}/{BLOCK[block[2]]}' if block else OUTSIDE[layer]
  if kind == 'bias':
    return f'{layer}/bias', value
  if value.ndim == 4:  # [outputs, channels, height, width] of the patch
    return f'{layer}/kernel', value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])
  return (f'{layer}/kernel', value.T) if value.ndim == 2 else (f'{layer}/scale', value)


def test_logits_loss_and_every_gradient_are_those_of_torch():
  with np.load(ROOT / 'tests' / 'golden' / 'mnist.npz', allow_pickle=False) as file:
    golden = dict(file)
  settings = {'image': (12, 8, 1), 'hidden': 12, 'channel_mlp': 10, 'head': (14, 14)}
  networks.check_golden(lambda: make(**settings), golden, ours, 'exact')


def test_scanned_and_recomputed_blocks_give_the_same():
  make_it = lambda **settings: make(head=(14,), init='original', **settings)
  networks.check_forms(make_it, [{'scan': True, 'remat': True}], jnp.arange(8) % SMALL['classes'])


def test_with_the_papers_settings_it_is_the_papers_mixer():
  graphdef, params = start(**PAPER)
  other, others = networks.start(lambda: MlpMixer(**SMALL, rngs=nnx.Rngs(0)))
  assert flat(params).keys() == flat(others).keys()
  for name, value in flat(params).items():
    np.testing.assert_array_equal(value, flat(others)[name], err_msg=name)
  params, image = randomise(params), images()
  np.testing.assert_allclose(run(graphdef, params, image)[0], run(other, params, image)[0], atol=1e-6)


@pytest.mark.parametrize('choices', itertools.product(('channels', 'tokens'), ('tokens', 'channels')))
@pytest.mark.parametrize('pool, head, names', [('mean', (), 30), ('flatten', (7, 6), 32), ('mean', (7,), 32)])
def test_every_combination_makes_a_model(choices, pool, head, names):
  norm_over, first = choices
  graphdef, params = shapes(norm_over=norm_over, first=first, pool=pool, head=head)
  # A stem, two blocks of 12, pre_head_norm where there is a mean, the head.
  assert len(flat(params)) == names
  assert flat(params)['blocks/0/token_norm/scale'].shape == ((6,) if norm_over == 'tokens' else (16,))


@pytest.mark.parametrize('key, value', [('norm_over', 'tokens'), ('first', 'channels'), ('pool', 'flatten')])
def test_each_choice_changes_what_it_gives(key, value):
  image = images()
  logits = []
  for settings in (PAPER, PAPER | {key: value}):
    graphdef, params = shapes(**settings)
    logits.append(run(graphdef, randomise(params), image)[0])
  assert np.abs(logits[0] - logits[1]).max() > 0.01


def test_logits_start_as_the_bias_of_the_head():
  graphdef, params = start(head_bias=-6.9, head=(14,), init='original')
  np.testing.assert_array_equal(run(graphdef, params, images())[0], np.full((4, 5), -6.9, np.float32))


@pytest.mark.parametrize('head, width, scan', [((), 96, False), ((14, 13), 13, True)])
def test_intermediates_by_name(head, width, scan):
  graphdef, params = shapes(head=head, scan=scan)
  params = randomise(params)
  logits, named = run(graphdef, params, images())
  expected = {
    'stem': (4, 6, 16),
    'block_0': (4, 6, 16),
    'block_1': (4, 6, 16),
    'features': (4, 96),
    'pre_logits': (4, width),
    'logits': (4, 5),
  }
  assert {name: value.shape for name, value in named.items()} == expected
  np.testing.assert_array_equal(named['logits'], logits)
  values = flat(params)
  np.testing.assert_allclose(logits, named['pre_logits'] @ values['head/kernel'] + values['head/bias'], atol=1e-5)
  np.testing.assert_array_equal(named['features'], np.asarray(named['block_1']).transpose(0, 2, 1).reshape(4, -1))
  if not head:
    np.testing.assert_array_equal(named['pre_logits'], named['features'])


def test_bfloat16_keeps_a_float32_head():
  graphdef, params = shapes(dtype='bfloat16')
  params, image = randomise(params), images()
  logits, named = run(graphdef, params, image)
  assert logits.dtype == named['features'].dtype == jnp.float32 and named['block_1'].dtype == jnp.bfloat16
  exact = run(shapes()[0], params, image)[0]
  assert 1e-5 < np.abs(logits - exact).max() / np.abs(exact).max() < 0.05


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'pool': 'max'}, "unknown model.pool 'max'.* Known: flatten, mean"),
    ({'norm_over': 'token'}, "unknown model.norm_over 'token'; did you mean 'tokens'"),
    ({'first': 'channel'}, "unknown model.first 'channel'; did you mean 'channels'"),
    ({'dtype': 'float16'}, "unknown model.dtype 'float16'"),
    ({'dropout': 1.0}, r'model.dropout is 1.0, but a rate must be in \[0, 1\)'),
    ({'token_mlp': 0}, 'model.token_mlp is 0, but must be at least 1'),
    ({'head': (3, 0)}, 'model.head is 0, but must be at least 1'),
  ],
)
def test_refused_when_made(settings, message):
  with pytest.raises(MixerError, match=message):
    make(**settings)


# config.model of earlier runs


def test_a_former_mixer_with_other_settings_than_the_papers_is_this_one():
  former = {'name': 'mixer', 'hidden': 4, 'first': 'channels', 'norm_over': 'channels'}
  assert upgrade(former) == {**PAPER, 'head': [], 'name': 'mnist_mixer', 'hidden': 4, 'first': 'channels'}
  former |= {'pool': 'flatten', 'head': [512, 512], 'gelu': 'exact', 'init': 'torch'}
  assert upgrade(former) == {**former, 'name': 'mnist_mixer'}


def test_a_former_mixer_with_the_papers_settings_stays_one():
  former = {'name': 'mixer', 'hidden': 4, 'first': 'tokens', 'norm_over': 'channels', 'pool': 'mean', 'head': ()}
  assert upgrade(former) == {'name': 'mixer', 'hidden': 4}
  today = {'name': 'mixer', 'hidden': 4, 'mixing': {'name': 'cnn', 'kernel': 3}}
  assert upgrade(today) == today


@pytest.mark.parametrize('mixing, today', [
  ('mlp', {'name': 'mlp'}), ('cnn2df', {'name': 'cnn2df', 'kernel': 7})
])  # fmt: skip
def test_the_mixing_of_a_former_auto_encoder(mixing, today):
  former = {'name': 'mixing_autoencoder', 'mixing': mixing, 'kernel': 7, 'code': 3}
  upgraded = upgrade(former)
  assert upgraded == {'name': 'mixing_autoencoder', 'mixing': today, 'code': 3} == upgrade(upgraded)
