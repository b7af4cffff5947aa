"""The tabular Mixer: published counts, tokens by hand, what is refused."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from flax import nnx

from mixer_jax.errors import MixerError
from mixer_jax.models.tabular import ColumnTokens, TabularMixer
from mixer_jax.tasks.binary import Binary

SMALL = {'outputs': 1, 'hidden': 8, 'blocks': 2}
VOCABULARIES = ((1, 3), (4, 2))


def make(columns=6, vocabularies=VOCABULARIES, tokens='columns', **settings):
  settings = {'columns': columns, 'vocabularies': vocabularies, 'tokens': tokens, **SMALL, **settings}
  return TabularMixer(**settings, rngs=nnx.Rngs(0))


def column_tokens(columns, vocabularies, hidden, bins):
  return networks.build(lambda: ColumnTokens(columns, vocabularies, hidden, bins=bins, rngs=nnx.Rngs(0)))


def rows(batch=5, columns=6, seed=0):
  rng = np.random.default_rng(seed)
  codes = np.stack([rng.integers(0, size + 1, batch) for _, size in VOCABULARIES], axis=1)
  return rng.normal(size=(batch, columns)).astype(np.float32), codes.astype(np.int32)


@pytest.mark.parametrize('hidden, patch, parameters', [(48, 1, 169_141), (198, 14, 407_365), (198, 3, 420_697)])
def test_parameters_of_the_published_settings(hidden, patch, parameters):
  settings = {'columns': 42, 'vocabularies': (), 'tokens': 'patches', 'patch': patch, 'hidden': hidden}
  assert networks.count(lambda: make(**settings, blocks=10)) == parameters


def embeddings(tokens, vocabularies):
  """The rows of every column's values, the unknown one first."""
  ends = np.cumsum([size + 1 for _, size in vocabularies])
  table = np.asarray(tokens.table.embedding[...])
  assert len(table) == ends[-1]
  return np.split(table, ends[:-1])


def test_column_tokens_by_hand():
  tokens = column_tokens(6, VOCABULARIES, 8, 0)
  features, categories = rows()
  out = np.asarray(tokens(features, categories))
  assert out.shape == (6, 5, 8)
  for i, column in enumerate((0, 2, 3, 5)):
    by_hand = features[:, column, None] * tokens.kernel[...][i, 0] + tokens.bias[...][i]
    np.testing.assert_allclose(out[column], by_hand, rtol=1e-5, atol=1e-6)
  for i, column in enumerate((1, 4)):
    np.testing.assert_array_equal(out[column], embeddings(tokens, VOCABULARIES)[i][categories[:, i]])


def test_a_table_of_categories_alone():
  tokens = column_tokens(2, ((0, 3), (1, 2)), 8, 4)
  _, categories = rows()
  out = np.asarray(tokens(np.zeros((5, 2), np.float32), categories))
  for i in range(2):
    np.testing.assert_array_equal(out[i], embeddings(tokens, VOCABULARIES)[i][categories[:, i]])
  assert all(leaf.size for leaf in jax.tree.leaves(nnx.state(tokens, nnx.Param)))  # a checkpoint takes no others


def test_pieces_by_hand():
  # Four pieces of [-1, 1]: 0.25 fills two, half of the third and nothing of the last; the outer two go on for ever.
  tokens = column_tokens(1, (), 3, 4)
  kernel, bias = np.asarray(tokens.kernel[...])[0], np.asarray(tokens.bias[...])[0]
  x = jnp.array([[0.25], [-1.0], [1.0], [7.0], [-2.0]])
  spread = np.array([[1, 1, 0.5, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 13], [-2, 0, 0, 0]])
  out = tokens(x, jnp.zeros((5, 0), jnp.int32))
  np.testing.assert_allclose(out[0], spread @ kernel + bias, rtol=1e-5, atol=1e-6)


def test_one_piece_is_a_straight_line():
  tokens = column_tokens(1, (), 3, 1)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(9, 1)) * 3, jnp.float32)
  wanted = (x + 1) / 2 * tokens.kernel[...][0, 0] + tokens.bias[...][0]
  np.testing.assert_allclose(tokens(x, jnp.zeros((9, 0), jnp.int32))[0], wanted, rtol=1e-5, atol=1e-5)


def test_an_unknown_category_starts_from_nothing():
  tokens = column_tokens(6, VOCABULARIES, 8, 0)
  for rows_ in embeddings(tokens, VOCABULARIES):
    assert not rows_[0].any() and (rows_[1:] != 0).any(axis=1).all()


def test_patches_are_neighbours():
  """Changing one column changes one token, that of its patch."""
  model = networks.build(lambda: make(tokens='patches', patch=2))
  stem = lambda features: np.asarray(model.stem(features.reshape(5, 3, 2).transpose(1, 0, 2)))
  features, _ = rows()
  other = features.copy()
  other[:, 3] += 1
  changed = (stem(features) != stem(other)).any(axis=(1, 2))
  assert changed.tolist() == [False, True, False]


@pytest.mark.parametrize('settings', [{}, {'bins': 5}, {'tokens': 'patches', 'patch': 3}, {'pool': 'flatten'}])
def test_every_parameter_has_a_gradient(settings):
  graphdef, params = networks.start(lambda: make(**settings, init='torch'))
  features, categories = rows(64)
  # The head starts at random here, or nothing below it would have a gradient.
  loss = lambda params: (nnx.merge(graphdef, params)(features, categories) ** 2).sum()
  grads = jax.jit(jax.grad(loss))(params)
  missing = [path for path, leaf in nnx.to_flat_state(grads) if not np.abs(jax.tree.leaves(leaf)[0]).max() > 0]
  # The mean over the tokens takes away what the bias before it adds to all.
  assert all('token_mixing' in path for path in missing) and len(missing) < 3


NAMES = {
  'embed': 'stem', 'ln_last': 'norm', 'classifier': 'head', 'layers': 'blocks',
  'ln_tokens': 'token_norm', 'ln_channels': 'channel_norm',
  'tokens_in': 'token_mixing/fc1', 'tokens_out': 'token_mixing/fc2',
  'channels_in': 'channel_mixing/fc1', 'channels_out': 'channel_mixing/fc2',
}  # fmt: skip


def of_torch(name, value):
  *path, kind = name.split('.')
  last = {'bias': 'bias', 'weight': 'kernel' if value.ndim == 2 else 'scale'}[kind]
  return '/'.join([*(NAMES.get(part, part) for part in path), last]), value.T if value.ndim == 2 else value


@pytest.mark.parametrize('activation', ['gelu', 'tanh'])
def test_logits_loss_and_every_gradient_are_those_of_torch(activation):
  with np.load(Path(__file__).parents[1] / 'golden' / 'rows.npz', allow_pickle=False) as file:
    golden = dict(file)
  torch = lambda prefix: dict(
    of_torch(key.removeprefix(prefix), value) for key, value in golden.items() if key.startswith(prefix)
  )
  weights, expected = torch('weight/'), torch(f'{activation}/grad/')
  settings = {'columns': 12, 'vocabularies': (), 'tokens': 'patches', 'patch': 3, 'hidden': 10}
  graphdef, params = networks.shapes(lambda: make(**settings, activation=activation))
  name = lambda path: '/'.join(map(str, path))
  assert {name(path): leaf.shape for path, leaf in nnx.to_flat_state(params)} == {
    k: v.shape for k, v in weights.items()
  }
  params = nnx.map_state(lambda path, _: jnp.asarray(weights[name(path)]), params)
  task = Binary(classes=2)

  def loss(params):
    logits = nnx.merge(graphdef, params)(golden['features'], jnp.zeros((4, 0), jnp.int32))
    return task.scores(logits, {'label': golden['label']}, training=True)['loss'].mean(), logits

  (value, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  np.testing.assert_allclose(logits, golden[f'{activation}/logits'], rtol=0, atol=1e-5)
  np.testing.assert_allclose(value, golden[f'{activation}/loss'], rtol=0, atol=1e-5)
  for path, grad in nnx.to_flat_state(grads):
    wanted = expected[name(path)]
    # The last token-mixing bias moves all channels of a token alike, which the LayerNorms after it take out.
    largest = 1.0 if name(path).endswith('token_mixing/fc2/bias') else np.abs(wanted).max()
    np.testing.assert_allclose(grad[...], wanted, rtol=0, atol=1e-5 * largest, err_msg=name(path))
  other = golden[f'{"tanh" if activation == "gelu" else "gelu"}/logits']
  assert np.abs(logits - other).max() > 1e-3


def test_dropout_only_in_training():
  model = networks.build(lambda: make(dropout=0.5, stochastic_depth=0.5))
  out = jax.jit(lambda key: model(*rows(), rngs=None if key is None else nnx.Rngs(dropout=key)))
  evaluated = out(None)
  np.testing.assert_allclose(evaluated, jax.jit(lambda: make()(*rows()))(), rtol=1e-5, atol=1e-6)
  assert not np.array_equal(out(jax.random.key(0)), out(jax.random.key(1)))
  assert not np.array_equal(out(jax.random.key(0)), evaluated)


@pytest.mark.parametrize('pool, width', [('mean', 8), ('flatten', 48)])
def test_features_are_what_the_head_sees(pool, width):
  model = networks.build(lambda: make(pool=pool))
  features, logits = jax.jit(lambda *inputs: (model.features(*inputs), model(*inputs)))(*rows())
  assert features.shape == (5, width)
  np.testing.assert_allclose(features @ model.head.kernel[...] + model.head.bias[...], logits, rtol=1e-5, atol=1e-6)


def test_activation():
  outputs = [jax.jit(lambda name=name: make(activation=name)(*rows()))() for name in ('gelu', 'tanh')]
  assert not np.allclose(*outputs)


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'tokens': 'patches', 'patch': 4}, 'model.patch is 4, which does not divide the 6 columns'),
    ({'tokens': 'words'}, "unknown model.tokens 'words'"),
    ({'activation': 'relu'}, "unknown model.activation 'relu'"),
    ({'pool': 'max'}, "unknown model.pool 'max'"),
    ({'dropout': 1.0}, 'model.dropout is 1.0'),
    ({'hidden': 0}, 'model.hidden is 0, but must be at least 1'),
    ({'blocks': -1}, 'model.blocks is -1, but must be at least 1'),
    ({'token_expansion': -1.0}, 'model.token_expansion is -1.0, but must be above 0'),
    ({'channel_expansion': 0.0}, 'model.channel_expansion is 0.0, but must be above 0'),
    ({'bins': -2}, 'model.bins is -2'),
    ({'bins': 8, 'tokens': 'patches'}, "model.bins is 8 with model.tokens 'patches', but must be 0"),
    ({'patch': 3}, "model.patch is 3, but must be 1 for model.tokens 'columns'"),
  ],
)
def test_what_is_refused(settings, message):
  with pytest.raises(MixerError, match=message):
    nnx.eval_shape(functools.partial(make, **settings))
