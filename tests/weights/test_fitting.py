"""What a new run takes of weights: nothing is changed or left out that was not asked for by name."""

import functools
import json

import numpy as np
import pytest
from flax import nnx

from mixer_jax.errors import MixerError
from mixer_jax.models import params as network
from mixer_jax.models.mixer import MlpMixer
from mixer_jax.models.mnist_mixer import MnistMixer
from mixer_jax.weights import fitting, reading, resize

MODEL = {'name': 'mixer', 'patch': 2, 'hidden': 8, 'blocks': 2, 'token_mlp': 5, 'channel_mlp': 7, 'gelu': 'tanh'}
DATA = {'image': [6, 4, 1], 'classes': 3, 'mean': [0.5], 'std': [0.25]}
LABELS = ['a', 'b', 'c']


def build(model, data):
  return built(json.dumps(model), json.dumps({'image': data['image'], 'classes': data['classes']}))


@functools.cache
def built(model, data):
  model, data = json.loads(model), json.loads(data)
  settings = {k: tuple(v) if isinstance(v, list) else v for k, v in model.items() if k != 'name'}
  make_model = MnistMixer if model['name'] == 'mnist_mixer' else MlpMixer
  make = lambda: make_model(image=tuple(data['image']), classes=data['classes'], **settings, rngs=nnx.Rngs(0))
  return nnx.state(nnx.eval_shape(make), nnx.Param)


def weights(model=MODEL, data=DATA, **more):
  if 'arrays' not in more:
    random = np.random.default_rng(0)
    shapes = network.shapes(build(model, data))
    more['arrays'] = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
  given = {'model': model, 'data': data, 'labels': LABELS, 'source': 'w', 'kind': 'run'}
  return reading.Weights(**given | more)


def fit(given, model=MODEL, data=DATA, labels=LABELS, **changes):
  return fitting.fit(given, build(model, data), model, data, fitting.InitFrom(weights='w', **changes), labels)


def refused(*parts, given=None, **how):
  with pytest.raises(MixerError) as caught:
    fit(given or weights(), **how)
  for part in parts:
    assert part in str(caught.value), caught.value


def test_the_same_network_is_taken_as_it_is():
  given = weights()
  arrays, notes = fit(given, MODEL | {'dropout': 0.1, 'scan': False, 'init': 'torch', 'dtype': 'bfloat16'})
  assert arrays == given.arrays and notes == []


def test_a_new_head_is_asked_for_and_reported():
  given = weights()
  refused('for 3 classes, but the data have 5', "init_from.head='new'", data=DATA | {'classes': 5})
  arrays, notes = fit(given, data=DATA | {'classes': 5}, labels=list('vwxyz'), head='new')
  assert notes == ['head: reinitialised, 3 -> 5 classes']
  assert set(given.arrays) - set(arrays) == {'head.kernel', 'head.bias'}


def test_a_head_with_hidden_layers_goes_as_a_whole():
  old, new = (MODEL | {'name': 'mnist_mixer', 'head': widths} for widths in ([6], [4, 9]))
  refused('model.head is [6] in the weights, [4, 9] here', given=weights(old), model=new)
  arrays, notes = fit(weights(old), new, head='new')
  assert not any(name.startswith('head') for name in arrays) and notes == ['head: reinitialised, 3 -> 3 classes']


def test_weights_without_a_head():
  given = weights()
  headless = {name: array for name, array in given.arrays.items() if not name.startswith('head')}
  given = weights(arrays=headless)
  refused('has no head', given=given)
  assert fit(given, head='new')[1] == ['head: reinitialised, none -> 3 classes']


def test_a_head_of_other_classes_is_reported():
  assert fit(weights(), labels=['a', 'c', 'b'])[1] == ["warning: head: kept, but class 1 was 'b' and is 'c' here"]


@pytest.mark.parametrize('key, value', [
  ('gelu', 'exact'), ('hidden', 9), ('blocks', 3), ('token_mlp', 6), ('channel_mlp', 8),
])  # fmt: skip
def test_another_network_is_refused_by_name(key, value):
  refused(f'model.{key} is ', f'{value!r} here', model=MODEL | {key: value})


def test_every_difference_is_named():
  refused(
    'model.channel_mlp is 7 in the weights, 8 here', "model.gelu is 'tanh' in the weights, 'exact' here",
    model=MODEL | {'channel_mlp': 8, 'gelu': 'exact'},
  )  # fmt: skip


def test_another_grid_is_asked_for_and_reported():
  data = DATA | {'image': [12, 8, 1]}
  refused('3x2 in w, but 6x4 here', "'interpolate' or 'tile'", data=data)
  given = weights()
  arrays, notes = fit(given, data=data, tokens='interpolate')
  assert notes == ['token mixing: interpolate, grid 3x2 -> 6x4']
  expected = resize.interpolate_tokens(given.arrays, (3, 2), (6, 4))
  assert all(np.array_equal(arrays[name], expected[name]) for name in expected)
  refused('model.token_mlp is 5, but 4 copies', 'set model.token_mlp=20', data=data, tokens='tile')
  arrays, notes = fit(given, MODEL | {'token_mlp': 20}, data, tokens='tile')
  assert notes == ['token mixing: tile, grid 3x2 -> 6x4']
  assert arrays['blocks.1.token_mixing.fc1.kernel'].shape == (24, 20)
  refused('copies take a multiple', data=DATA | {'image': [8, 6, 1]}, model=MODEL, tokens='tile')


def test_a_turned_image_of_as_many_tokens_is_another_grid():
  refused('3x2 in w, but 2x3 here', data=DATA | {'image': [4, 6, 1]})
  # Without an image the file cannot know, and six tokens do not form a square.
  assert fit(weights(data={'classes': 3}, arrays=weights().arrays))[1] == []


def test_another_patch_or_channels_are_asked_for_and_reported():
  data, model = DATA | {'image': [12, 8, 3], 'mean': [0.5] * 3, 'std': [0.25] * 3}, MODEL | {'patch': 4}
  refused('2x2x1 (height, width, channels) in w, but 4x4x3 here', "init_from.stem='resize'", data=data, model=model)
  arrays, notes = fit(weights(), model, data, stem='resize')
  assert arrays['stem.kernel'].shape == (48, 8)
  assert notes[0] == 'stem: resized, patch 2x2x1 -> 4x4x3'


def test_other_means_are_reported():
  notes = fit(weights(), data=DATA | {'mean': [0.25]})[1]
  assert notes == ['data.mean: (0.5) in the weights, (0.25) here']


def test_missing_extra_and_misshapen_arrays_are_all_named():
  arrays = dict(weights().arrays)
  del arrays['stem.bias'], arrays['blocks.1.token_norm.scale']
  arrays['blocks.0.other'] = np.zeros(2, np.float32)
  arrays['pre_head_norm.bias'] = np.zeros(3, np.float32)
  refused(
    'missing: blocks.1.token_norm.scale, stem.bias', 'extra: blocks.0.other',
    'misshapen: pre_head_norm.bias (3,) for (8,)', given=weights(arrays=arrays),
  )  # fmt: skip


class Own(nnx.Module):
  """A model of someone's: its head is what is called `head`, or `head_...`."""

  def __init__(self, classes, *, rngs):
    self.body = nnx.Linear(4, 6, rngs=rngs)
    self.head_norm = nnx.LayerNorm(6, rngs=rngs)
    self.head = nnx.Linear(6, classes, rngs=rngs)
    self.header = nnx.Linear(2, 2, rngs=rngs)


OWN = {'name': 'mine:Own', 'width': 6}


def own(classes):
  return nnx.state(nnx.eval_shape(lambda: Own(classes, rngs=nnx.Rngs(0))), nnx.Param)


def fit_own(classes=3, labels=LABELS, model=OWN, **changes):
  arrays = {name: np.ones(shape, np.float32) for name, shape in network.shapes(own(3)).items()}
  given = weights(model=OWN, data={'classes': 3}, arrays=arrays)
  init_from = fitting.InitFrom(weights='w', **changes)
  return fitting.fit(given, own(classes), model, {'classes': classes}, init_from, labels)


def test_any_model_can_have_a_new_head():
  arrays, notes = fit_own(5, list('vwxyz'), head='new')
  assert notes == ['head: reinitialised, 3 -> 5 classes']
  assert sorted(arrays) == ['body.bias', 'body.kernel', 'header.bias', 'header.kernel']
  assert fit_own(head='new', model=OWN | {'head': [4]})[1] == ['head: reinitialised, 3 -> 3 classes']


def test_any_model_keeps_its_head():
  arrays, notes = fit_own()
  assert notes == [] and 'head.kernel' in arrays and 'head_norm.scale' in arrays
  assert fit_own(labels=['a', 'c', 'b'])[1] == ["warning: head: kept, but class 1 was 'b' and is 'c' here"]
  for message, how in (
    ("head of w is for 3 classes, but the data have 5; set init_from.head='new'", {'classes': 5}),
    ("init_from.tokens is 'tile', but a mine:Own keeps its own", {'tokens': 'tile'}),
    ("init_from.stem is 'resize', but a mine:Own keeps its own", {'stem': 'resize'}),
    ('model.width is 6 in the weights, 7 here', {'model': OWN | {'width': 7}}),
    ("w is a mine:Own, but model.name is 'mixer'", {'model': MODEL}),
  ):
    with pytest.raises(MixerError, match=message):
      fit_own(**how)


def test_a_model_without_a_head_has_none_to_replace():
  coder = {'name': 'mixer_autoencoder', 'code': 3}
  params = nnx.state(nnx.eval_shape(lambda: nnx.Linear(2, 3, rngs=nnx.Rngs(0))), nnx.Param)
  arrays = {'kernel': np.ones((2, 3), np.float32), 'bias': np.ones(3, np.float32)}
  given = weights(model=coder, arrays=arrays)
  assert fitting.fit(given, params, coder, DATA, fitting.InitFrom(weights='w'), ['other']) == (arrays, [])
  with pytest.raises(MixerError, match="head is 'new', but a mixer_autoencoder has no head"):
    fitting.fit(given, params, coder, DATA, fitting.InitFrom(weights='w', head='new'), LABELS)


def test_settings_that_mean_nothing_are_refused():
  with pytest.raises(MixerError, match=r"unknown init_from.tokens 'stretch'"):
    fitting.InitFrom(weights='w', tokens='stretch')
  with pytest.raises(MixerError, match="init_from.head is 'new', but init_from.weights is empty"):
    fitting.InitFrom(head='new')
