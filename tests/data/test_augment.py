"""Augmentations as one: order, independence, those of the user, and every refusal with its message."""

import math
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from augmented import CLASSES, SETTINGS, images, random_batch, refused, run, spec

from mixer_jax.data.augment import AUGMENTATIONS, make_augment, make_optional

# ---- all of them


def test_every_augmentation_is_tested():
  assert set(SETTINGS) == set(AUGMENTATIONS)


@pytest.mark.parametrize('name', AUGMENTATIONS)
def test_shapes_ranges_and_keys(name):
  batch = random_batch()
  first, again, other = (run({name: SETTINGS[name]}, batch, seed) for seed in (0, 0, 1))
  assert set(first) == set(batch)
  assert first['image'].shape == batch['image'].shape and first['image'].dtype == jnp.float32
  assert name == 'noise' or first['image'].min() >= 0 and first['image'].max() <= 1 + 1e-6
  np.testing.assert_array_equal(first['image'], again['image'])
  assert not np.array_equal(first['image'], other['image'])
  assert not np.array_equal(first['image'], batch['image'])
  np.testing.assert_array_equal(first['mask'], batch['mask'])
  if name in ('cutmix', 'mixup'):
    assert first['label'].shape == (8, CLASSES) and first['label'].dtype == jnp.float32
    np.testing.assert_allclose(first['label'].sum(-1), 1, rtol=1e-6)
  else:
    np.testing.assert_array_equal(first['label'], batch['label'])


@pytest.mark.parametrize('name', [name for name in AUGMENTATIONS if name not in ('cutmix', 'mixup')])
def test_examples_are_drawn_independently(name):
  """Eight copies of one image come out different, most of them."""
  batch = random_batch(batch=1)
  batch = jax.tree.map(lambda x: jnp.repeat(x, 8, axis=0), batch)
  image = np.asarray(run({name: SETTINGS[name]}, batch)['image'])
  distinct = len(np.unique(image.reshape(8, -1), axis=0))
  assert distinct == 2 if name == 'flip' else distinct > 4


def test_nothing_configured_changes_nothing():
  batch = random_batch()
  result = make_augment({}, features=spec(batch), classes=CLASSES)(batch, jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, result, batch)


def test_order_is_that_of_the_table():
  batch = random_batch()
  crop, jitter = {'crop': {'padding': 2}}, {'color_jitter': {'contrast': 0.4}}
  expected = run(jitter, run(crop, batch))['image']
  np.testing.assert_allclose(run({**jitter, **crop}, batch)['image'], expected, atol=1e-6)
  np.testing.assert_allclose(run({**crop, **jitter}, batch)['image'], expected, atol=1e-6)
  assert np.abs(run(crop, run(jitter, batch))['image'] - expected).max() > 0.01


def test_adding_one_leaves_the_draws_of_the_others():
  batch = random_batch()
  alone = run({'crop': {'padding': 2}}, batch)
  np.testing.assert_array_equal(
    run({'flip': {'probability': 0}, 'crop': {'padding': 2}}, batch)['image'], alone['image']
  )


def test_works_in_a_scan():
  batch = random_batch()
  settings = {'flip': {}, 'crop': {'padding': 2}}
  step = make_augment(settings, features=spec(batch), classes=CLASSES)
  seeds = jnp.arange(3)
  scan = lambda batch: jax.lax.scan(lambda _, seed: (None, step(batch, jax.random.key(seed))), None, seeds)[1]
  scanned = jax.jit(scan)(batch)
  for seed in range(3):
    np.testing.assert_array_equal(scanned['image'][seed], run(settings, batch, seed)['image'])


# ---- of the user's own


OWN = """
import jax


def solarize(features, *, below: float = 0.5):
  return lambda batch, key: {**batch, 'image': jax.numpy.where(batch['image'] < below, batch['image'], 0)}


def shift(features, *, by: float):
  return lambda batch, key: {**batch, 'image': batch['image'] + by * jax.random.uniform(key)}


def relabel(features, classes):
  return lambda batch, key: {**batch, 'label': (batch['label'] + 1) % classes}


def jitter(features, *, deviation: float):
  return lambda batch, key: {**batch, 'features': batch['features'] + deviation * jax.random.normal(key)}


def nothing(features):
  return None
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
  (tmp_path / 'own_augmentations.py').write_text(OWN)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delitem(sys.modules, 'own_augmentations', raising=False)
  return 'own_augmentations'


def test_own_augmentations_run_after_the_others_and_before_noise(own):
  batch = random_batch()
  image = np.asarray(run({'crop': {'padding': 2}}, batch)['image'])
  both = run({f'{own}:solarize': {}, f'{own}:relabel': {}, 'noise': {'deviation': 0.01}, 'crop': {'padding': 2}}, batch)
  difference = np.asarray(both['image']) - np.where(image < 0.5, image, 0)
  assert difference.std() == pytest.approx(0.01, rel=0.1)  # noise alone, which would else be solarized too
  np.testing.assert_array_equal(both['label'], (batch['label'] + 1) % CLASSES)


def test_own_augmentations_draw_from_a_key_of_their_own(own):
  batch = random_batch()
  key = jax.random.fold_in(jax.random.key(3), zlib.crc32(f'{own}:shift'.encode()))
  found = run({f'{own}:solarize': {'below': 9.0}, f'{own}:shift': {'by': 0.5}}, batch, seed=3)['image']
  np.testing.assert_allclose(found, batch['image'] + 0.5 * jax.random.uniform(key), rtol=1e-6)


def test_own_augmentations_of_rows(own):
  rows = {'features': jnp.ones((4, 3)), 'label': jnp.zeros(4, jnp.int32)}
  augment = jax.jit(make_optional({f'{own}:jitter': {'deviation': 0.1}}, features=spec(rows), classes=2))
  changed, kept = (augment(rows, jax.random.key(0), augmenting)['features'] for augmenting in (True, False))
  assert changed.shape == (4, 3) and (changed != 1).all()
  np.testing.assert_array_equal(kept, rows['features'])
  np.testing.assert_array_equal(augment(rows, None, True)['features'], rows['features'])


def test_own_augmentations_that_are_refused(own):
  assert "there is no 'under'. Known: below." in refused({f'{own}:solarize': {'under': 1.0}})
  assert f'the config lacks augment.{own}:shift.by (float)' in refused({f'{own}:shift': {}})
  assert f'augment.{own}:nothing gave NoneType' in refused({f'{own}:nothing': {}})
  assert "has no 'solarise'" in refused({f'{own}:solarise': {}})
  assert "there is no module 'no_such_module'" in refused({'no_such_module:flip': {}})


# ---- refusals


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'flipp': {}}, "unknown augmentation 'flipp'; did you mean 'flip'? Known: "),
    (
      {'crop': {'pading': 4}},
      "unknown key augment.crop.pading: there is no 'pading'; did you mean 'padding'? Known: padding.",
    ),
    ({'crop': {'features': 4}}, "unknown key augment.crop.features: there is no 'features'"),
    ({'mixup': {'alpha': 1.0, 'classes': 3}}, "unknown key augment.mixup.classes: there is no 'classes'"),
    ({'crop': {}}, 'the config lacks augment.crop.padding (int); set it'),
    ({'mixup': {}}, 'the config lacks augment.mixup.alpha (float); set it'),
    ({'elastic': {'alpha': 3}}, 'the config lacks augment.elastic.sigma (float); set it'),
    ({'elastic': {}}, 'the config lacks augment.elastic.alpha (float), augment.elastic.sigma (float); set them'),
    ({'flip': 0.5}, "augment.flip must be a dict of settings, {'setting': value}, got 0.5"),
    (
      {'flip': {'probability': 1.5}},
      'augment.flip.probability must be a number at least 0 and at most 1, got 1.5',
    ),
    ({'flip': {'probability': '1'}}, "augment.flip.probability is '1' (str), but must be float"),
    ({'flip': {'probability': True}}, 'augment.flip.probability is True (bool), but must be float'),
    (
      {'crop': {'padding': -1}},
      'crop.padding must be a number at least 0 and at most 7; the images are 8 x 8, got -1',
    ),
    (
      {'crop': {'padding': 8}},
      'crop.padding must be a number at least 0 and at most 7; the images are 8 x 8, got 8',
    ),
    ({'crop': {'padding': 1.5}}, 'augment.crop.padding is 1.5 (float), but must be int'),
    ({'rotation': {'degrees': -1}}, 'rotation.degrees must be a number at least 0 and at most 180, got -1'),
    ({'rotation': {'degrees': 181}}, 'rotation.degrees must be a number at least 0 and at most 180, got 181'),
    (
      {'rotation': {'degrees': math.nan}},
      'augment.rotation.degrees is nan, but must be a number',
    ),
    ({'affine': {'degrees': 181}}, 'affine.degrees must be a number at least 0 and at most 180, got 181'),
    ({'affine': {'translate': 2}}, 'affine.translate must be a number at least 0 and at most 1, got 2'),
    ({'affine': {'scale': -0.1}}, 'affine.scale must be a number at least 0, got -0.1'),
    ({'affine': {'shear': 90}}, 'affine.shear must be a number at least 0 and at most 80, got 90'),
    ({'elastic': {'alpha': -1, 'sigma': 4}}, 'elastic.alpha must be a number at least 0, got -1'),
    ({'elastic': {'alpha': 1, 'sigma': 0}}, 'elastic.sigma must be a number above 0, got 0'),
    (
      {'resized_crop': {'min_area': 0}},
      'resized_crop.min_area must be a number above 0 and at most 1, got 0',
    ),
    ({'resized_crop': {'max_aspect': 0.5}}, 'resized_crop.max_aspect must be a number at least 1, got 0.5'),
    ({'color_jitter': {'brightness': -1}}, 'color_jitter.brightness must be a number at least 0, got -1'),
    ({'color_jitter': {'contrast': -1}}, 'color_jitter.contrast must be a number at least 0, got -1'),
    ({'color_jitter': {'saturation': -1}}, 'color_jitter.saturation must be a number at least 0, got -1'),
    ({'color_jitter': {'hue': 0.6}}, 'color_jitter.hue must be a number at least 0 and at most 0.5, got 0.6'),
    (
      {'erasing': {'probability': -1}},
      'erasing.probability must be a number at least 0 and at most 1, got -1',
    ),
    ({'erasing': {'max_area': 1.1}}, 'erasing.max_area must be a number at least 0 and at most 1, got 1.1'),
    (
      {'erasing': {'min_area': 0.5}},
      'erasing.min_area must be a number at least 0 and at most 0.4 (max_area), got 0.5',
    ),
    ({'erasing': {'max_aspect': 0}}, 'erasing.max_aspect must be a number at least 1, got 0'),
    ({'cutmix': {'alpha': 0}}, 'cutmix.alpha must be a number above 0, got 0'),
    ({'cutmix': {'probability': 2}}, 'cutmix.probability must be a number at least 0 and at most 1, got 2'),
    ({'mixup': {'alpha': -0.5}}, 'mixup.alpha must be a number above 0, got -0.5'),
    ({'mixup': {'alpha': math.inf}}, 'mixup.alpha must be a number above 0, got inf'),
    (
      {'mixup': {'alpha': 1, 'probability': -1}},
      'mixup.probability must be a number at least 0 and at most 1, got -1',
    ),
  ],
)
def test_refuses_settings(settings, message):
  assert message in refused(settings)


def test_a_list_of_names_is_refused():
  message = "augment must be a dict, {'flip': {}, 'crop': {'padding': 4}}, got ['flip']"
  assert message in refused(['flip'])


@pytest.mark.parametrize('name', AUGMENTATIONS)
def test_tables_are_refused(name):
  table = {
    'features': jax.ShapeDtypeStruct((4, 6), jnp.float32),
    'label': jax.ShapeDtypeStruct((4,), jnp.int32),
  }
  message = f'{name} needs images, but a batch of this data set holds features, label; leave {name!r} out of'
  assert message in refused({name: SETTINGS[name]}, table)


@pytest.mark.parametrize('name', ['cutmix', 'mixup'])
def test_mixing_needs_classes(name):
  without = {'image': images()['image']}
  assert f'{name} needs labels, but a batch of this data set holds image' in refused({name: SETTINGS[name]}, without)
  numbers = {**images(), 'label': jax.ShapeDtypeStruct((4,), jnp.float32)}
  message = f'{name} needs integer class labels, one per example, but labels are float32 [4]'
  assert message in refused({name: SETTINGS[name]}, numbers)
  for classes in (None, 1):
    assert f'{name} needs at least 2 classes, got {classes}' in refused({name: SETTINGS[name]}, classes=classes)


def test_colour_needs_channels():
  for setting in ('saturation', 'hue'):
    message = refused({'color_jitter': {setting: 0.2}}, images(channels=1))
    assert 'need images of 3 channels, but these have 1; set both to 0' in message
  message = refused({'color_jitter': {'brightness': 0.2}}, images(channels=4))
  assert 'color_jitter needs images of 1 or 3 channels, but these have 4' in message


def test_images_without_channels_are_refused():
  flat = {'image': jax.ShapeDtypeStruct((4, 8, 8), jnp.float32)}
  message = 'flip needs images of shape [batch, height, width, channels], but these have [4, 8, 8]'
  assert message in refused({'flip': {}}, flat)
