"""The training loss as a function of the parameters, and the examples that it is taken over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixer_jax import config as configs
from mixer_jax.data import examples as data_examples
from mixer_jax.errors import MixerError
from mixer_jax.inference import objective
from mixer_jax.training import experiment as experiments
from mixer_jax.training.settings import resolve


def build(name, **changes):
  config = resolve(configs.load([f'--config=configs/{name}.py']))
  for key, value in changes.items():
    config[key] = config[key] | value if isinstance(value, dict) else value
  return experiments.build(config)


def numbered(size):
  """Images that tell which they are."""
  image = np.arange(size, dtype=np.uint8)[:, None, None, None] * np.ones((8, 8, 1), np.uint8)
  label = (np.arange(size) % 10).astype(np.int32)
  read = lambda i: {'image': image[i], 'label': label[i]}
  return data_examples.Source(tuple('0123456789'), None, read, size)


@pytest.mark.parametrize('count, batches', [(1, [1]), (16, [16]), (17, [16, 1]), (100, [16, 16, 16, 2])])
def test_every_example_once_and_padding_behind_them(count, batches):
  found = objective.stack_examples(build('digits', eval_batch_size=16), numbered(50), count)
  assert found['mask'].shape == found['label'].shape == (len(batches), min(16, max(batches)))
  assert np.asarray(found['mask']).sum(1).tolist() == batches
  mask, image = (np.asarray(found[name]) for name in ('mask', 'image'))
  assert (np.diff(mask.reshape(-1)) <= 0).all()
  taken = image[mask > 0][:, 0, 0, 0]
  assert len(set(taken.tolist())) == min(count, 50)
  assert count < 16 or not np.array_equal(taken, np.sort(taken))  # not in the order of the source
  np.testing.assert_array_equal(np.asarray(found['label'])[mask > 0], taken % 10)


def test_fewer_are_the_first_of_more():
  taken = [objective.stack_examples(build('digits'), numbered(50), count)['image'] for count in (10, 30)]
  np.testing.assert_array_equal(taken[0][0], taken[1][0, :10])


def test_batches_of_another_size_hold_the_same_examples():
  found = objective.stack_examples(build('digits'), numbered(50), 30, batch_size=7)
  wanted = objective.stack_examples(build('digits'), numbered(50), 30)
  assert found['image'].shape[:2] == (5, 7)
  np.testing.assert_array_equal(np.asarray(found['image']).reshape(35, 8, 8, 1)[:30], wanted['image'][0])


def test_no_examples():
  with pytest.raises(MixerError, match=r'--examples is 0, but must be at least 1'):
    objective.stack_examples(build('digits'), numbered(50), 0)


def parameters(experiment):
  random = np.random.default_rng(0)
  shapes = nnx.state(experiment.model, nnx.Param)
  return jax.tree.map(lambda s: jnp.asarray(0.3 * random.normal(size=s.shape), jnp.float32), shapes)


def test_the_loss_is_that_of_training_without_what_is_random():
  small = {'hidden': 8, 'blocks': 1, 'token_mlp': 4, 'channel_mlp': 8}
  experiment = build('digits', model=small | {'dropout': 0.5})
  plain = build('digits', model=small, augment={}, task={'label_smoothing': 0.0})
  params, batch = (
    parameters(experiment),
    {k: v[0] for k, v in objective.stack_examples(plain, numbered(50), 20).items()},
  )
  logits = nnx.merge(plain.graphdef, params)(plain.preprocess(batch)['image'])
  log = jax.nn.log_softmax(logits)
  right = jnp.take_along_axis(log, batch['label'][:, None], axis=1)[:, 0]
  found = objective.make_losses(experiment)(params, batch)
  assert found.shape == (20,) and found.dtype == jnp.float32
  np.testing.assert_allclose(found, -0.9 * right - 0.1 * log.mean(1), rtol=1e-4)
  np.testing.assert_allclose(objective.make_losses(plain)(params, batch), -right, rtol=1e-4)


def test_what_an_autoencoder_with_noise_is_to_give_is_the_image():
  small = {'hidden': 4, 'encoder_blocks': 0, 'decoder_blocks': 0, 'bottleneck': 2}
  experiment = build('digits_autoencoder', model=small, task={'noise': 0.3})
  params, batch = parameters(experiment), {'image': numbered(50).read(slice(5, 9))['image'], 'label': np.zeros(4, int)}
  image = batch['image'] / np.float32(255)
  wanted = np.square(nnx.merge(experiment.graphdef, params)(image) - image).mean((1, 2, 3))
  np.testing.assert_allclose(objective.make_losses(experiment)(params, batch), wanted, rtol=1e-4)
