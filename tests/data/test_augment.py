"""Augmentations against plain NumPy, SciPy and colorsys, and every refusal with its message."""

import ast
import colorsys
import functools
import math
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from mixer_jax.data.augment import AUGMENTATIONS, colour, geometry, make_augment, make_optional
from mixer_jax.data.images.pixels import normalize, to_float
from mixer_jax.errors import MixerError

CLASSES = 5
# One that changes images for sure, for every name: a new augmentation without one fails below.
SETTINGS = {
  'flip': {},
  'resized_crop': {'min_area': 0.3},
  'crop': {'padding': 2},
  'rotation': {'degrees': 30},
  'affine': {'degrees': 20, 'translate': 0.1, 'scale': 0.2, 'shear': 10},
  'elastic': {'alpha': 10.0, 'sigma': 2.0},
  'color_jitter': {'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.4, 'hue': 0.1},
  'erasing': {'probability': 0.9},
  'noise': {'deviation': 0.1},
  'cutmix': {},
  'mixup': {'alpha': 0.4},
}


def random_batch(seed=0, batch=8, height=9, width=12, channels=3):
  rng = np.random.default_rng(seed)
  return {
    'image': jnp.asarray(rng.uniform(size=(batch, height, width, channels)), jnp.float32),
    'label': jnp.asarray(rng.integers(CLASSES, size=batch), jnp.int32),
    'mask': jnp.asarray(rng.uniform(size=batch) < 0.8),
  }


def spec(batch):
  return {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in batch.items()}


def images(height=8, width=8, channels=3):
  return {
    'image': jax.ShapeDtypeStruct((4, height, width, channels), jnp.float32),
    'label': jax.ShapeDtypeStruct((4,), jnp.int32),
  }


@functools.cache
def compiled(settings, shapes):
  features = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in shapes}
  return jax.jit(make_augment(ast.literal_eval(settings), features=features, classes=CLASSES))


def run(settings, batch, seed=0):
  # Compiling is nearly all the time these tests take.
  shapes = tuple((name, value.shape, value.dtype) for name, value in batch.items())
  return jax.device_get(compiled(repr(settings), shapes)(batch, jax.random.key(seed)))


def draws(batch, seed):
  """numbers an example, as the augmentations take them."""
  return np.random.default_rng(seed).uniform(size=batch).astype(np.float32)


def refused(settings, features=None, classes=CLASSES):
  with pytest.raises(MixerError) as error:
    make_augment(settings, features=features or images(), classes=classes)
  assert '\n' not in str(error.value)
  return str(error.value)


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


# ---- geometry


def test_flip_mirrors_left_to_right():
  batch = random_batch(batch=64)
  image, result = np.asarray(batch['image']), np.asarray(run({'flip': {}}, batch)['image'])
  mirrored = np.array([np.array_equal(y, x[:, ::-1]) for x, y in zip(image, result, strict=True)])
  same = np.array([np.array_equal(y, x) for x, y in zip(image, result, strict=True)])
  assert (mirrored ^ same).all()
  assert 16 < mirrored.sum() < 48


def test_flip_with_certainty_twice_is_the_identity():
  batch = random_batch()
  once = run({'flip': {'probability': 1}}, batch)
  np.testing.assert_array_equal(once['image'], batch['image'][:, :, ::-1])
  np.testing.assert_array_equal(run({'flip': {'probability': 1}}, once)['image'], batch['image'])


def test_crop_is_a_window_of_the_padded_image():
  batch = random_batch(batch=32, height=5, width=6)
  padded = np.pad(np.asarray(batch['image']), ((0, 0), (2, 2), (2, 2), (0, 0)))
  result = np.asarray(run({'crop': {'padding': 2}}, batch)['image'])
  found = set()
  for before, after in zip(padded, result, strict=True):
    at = [(i, j) for i in range(5) for j in range(5) if np.array_equal(before[i : i + 5, j : j + 6], after)]
    assert len(at) == 1
    found |= set(at)
  assert {i for i, _ in found} == {j for _, j in found} == set(range(5))


def test_warp_agrees_with_scipy():
  rng = np.random.default_rng(1)
  image = np.asarray(random_batch()['image'])
  rows = rng.uniform(-3, 11, size=(8, 9, 12)).astype(np.float32)
  columns = rng.uniform(-3, 14, size=(8, 9, 12)).astype(np.float32)
  result = jax.jit(geometry._warp)(jnp.asarray(image), jnp.asarray(rows), jnp.asarray(columns))
  for i in range(8):
    for channel in range(3):
      at = [rows[i], columns[i]]
      expected = ndimage.map_coordinates(image[i, ..., channel], at, order=1, mode='grid-constant')
      np.testing.assert_allclose(result[i, ..., channel], expected, atol=2e-6)


affine_warp = jax.jit(geometry._affine_warp)


def still(batch):
  zero = np.zeros(batch, np.float32)
  return {'degrees': zero, 'down': zero, 'right': zero, 'scale': zero + 1, 'shear': zero}


def test_affine_by_quarter_turns_and_whole_pixels():
  image = random_batch(batch=3, height=7, width=7)['image']
  warp = lambda **changes: np.asarray(affine_warp(image, **{**still(3), **changes}))
  np.testing.assert_allclose(warp(), image, atol=1e-6)
  quarter = warp(degrees=jnp.array([90.0, -90.0, 180.0]))
  for turned, before, turns in zip(quarter, np.asarray(image), (1, -1, 2), strict=True):
    np.testing.assert_allclose(turned, np.rot90(before, turns), atol=1e-5)
  moved = warp(down=jnp.array([2.0, 0.0, -1.0]), right=jnp.array([0.0, 3.0, 0.0]))
  np.testing.assert_allclose(moved[0, 2:], image[0, :-2], atol=1e-6)
  np.testing.assert_array_equal(moved[0, :2], 0)
  np.testing.assert_allclose(moved[1, :, 3:], image[1, :, :-3], atol=1e-6)
  np.testing.assert_allclose(moved[2, :-1], image[2, 1:], atol=1e-6)
  # Twice as large: every second pixel, counted from the centre, is one of the image's.
  np.testing.assert_allclose(warp(scale=jnp.full(3, 2.0))[:, 1::2, 1::2], image[:, 2:5, 2:5], atol=1e-6)


def test_affine_agrees_with_scipy():
  batch = random_batch(channels=1)
  image = np.asarray(batch['image'])
  down, right = 4 * draws(8, 2) - 2, 4 * draws(8, 3) - 2
  degrees, scale, shear = 180 * draws(8, 4) - 90, 0.5 + draws(8, 5), 60 * draws(8, 6) - 30
  result = affine_warp(batch['image'], degrees=degrees, down=down, right=right, scale=scale, shear=shear)
  for i in range(8):
    angle = math.radians(degrees[i])
    # In (down, right): a shear moves lower rows to the right, a turn counter-clockwise takes right to up.
    sheared = np.array([[1, 0], [math.tan(math.radians(shear[i])), 1]])
    turned = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    inverse = np.linalg.inv(turned @ (scale[i] * sheared))
    centre = np.array([4.0, 5.5])
    offset = centre - inverse @ (centre + [down[i], right[i]])
    expected = ndimage.affine_transform(image[i, ..., 0], inverse, offset, order=1, mode='grid-constant')
    np.testing.assert_allclose(result[i, ..., 0], expected, atol=1e-5)


def test_rotation_is_affine_with_an_angle_only():
  batch = random_batch()
  step = AUGMENTATIONS['rotation'](spec(batch), degrees=40)
  same = AUGMENTATIONS['affine'](spec(batch), degrees=40)
  key = jax.random.key(5)
  np.testing.assert_array_equal(step(batch, key)['image'], same(batch, key)['image'])


@pytest.mark.parametrize('name, settings', [('rotation', {'degrees': 0}), ('affine', {}), ('color_jitter', {})])
def test_settings_of_zero_change_nothing(name, settings):
  batch = random_batch()
  np.testing.assert_allclose(run({name: settings}, batch)['image'], batch['image'], atol=1e-6)


def test_affine_stays_in_its_ranges():
  batch = random_batch(batch=256, height=4, width=8)
  taken = {}

  def record(image, **values):
    taken.update(values)
    return image

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(geometry, '_affine_warp', record)
    settings = {'degrees': 30, 'translate': 0.25, 'scale': 0.5, 'shear': 10}
    make_augment({'affine': settings}, features=spec(batch), classes=None)(batch, jax.random.key(0))
  for name, low, high in [
    ('degrees', -30, 30),
    ('down', -1, 1),
    ('right', -2, 2),
    ('scale', 2 / 3, 1.5),
    ('shear', -10, 10),
  ]:
    width = high - low
    assert low <= taken[name].min() < low + width / 10
    assert high - width / 10 < taken[name].max() <= high
  assert abs(np.log(taken['scale']).mean()) < 0.05


def test_enlarged_whole_is_the_identity():
  batch = random_batch()
  result = run({'resized_crop': {'min_area': 1, 'max_aspect': 1}}, batch)
  np.testing.assert_allclose(result['image'], batch['image'], atol=1e-6)


def test_enlarging_agrees_with_scipy():
  batch = random_batch()
  image = np.asarray(batch['image'])
  rows, columns = 9 * (0.3 + 0.7 * draws(8, 1)), 12 * (0.3 + 0.7 * draws(8, 2))
  top, left = draws(8, 3) * (9 - rows), draws(8, 4) * (12 - columns)
  result = jax.jit(geometry._enlarge)(batch['image'], *map(jnp.asarray, (top, left, rows, columns)))
  for i in range(8):
    at = np.meshgrid(
      top[i] + (np.arange(9) + 0.5) * rows[i] / 9 - 0.5,
      left[i] + (np.arange(12) + 0.5) * columns[i] / 12 - 0.5,
      indexing='ij',
    )
    for channel in range(3):
      expected = ndimage.map_coordinates(image[i, ..., channel], at, order=1, mode='nearest')
      np.testing.assert_allclose(result[i, ..., channel], expected, atol=1e-5)


def test_resized_crop_stays_inside_its_ranges():
  batch = random_batch(batch=512, height=8, width=8)
  taken = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(geometry, '_enlarge', lambda image, *box: taken.extend(box) or image)
    make_augment({'resized_crop': {'min_area': 0.25}}, features=spec(batch), classes=None)(batch, jax.random.key(0))
  top, left, rows, columns = map(np.asarray, taken)
  assert (top >= 0).all() and (left >= 0).all()
  assert (top + rows <= 8 + 1e-5).all() and (left + columns <= 8 + 1e-5).all()
  area, aspect = rows * columns / 64, columns / rows
  assert 0.24 < area.min() < 0.3 and 0.9 < area.max() <= 1 + 1e-6
  assert 0.75 - 1e-5 <= aspect.min() < 0.8 and 1.25 < aspect.max() <= 4 / 3 + 1e-5


def test_gaussian_agrees_with_scipy():
  noise = np.random.default_rng(0).uniform(-1, 1, size=(11, 14))
  result = geometry._gaussian(11, 1.5) @ noise @ geometry._gaussian(14, 1.5)
  expected = ndimage.gaussian_filter(noise, 1.5, mode='constant', truncate=10)
  np.testing.assert_allclose(result, expected, atol=1e-6)


def test_elastic_field_is_smooth_and_as_large_as_documented():
  batch = random_batch(batch=1024, height=29, width=29, channels=1)
  taken = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(geometry, '_warp', lambda image, *at: taken.extend(at) or image)
    make_augment({'elastic': {'alpha': 34, 'sigma': 4}}, features=spec(batch), classes=None)(batch, jax.random.key(0))
  rows = np.asarray(taken[0]) - np.arange(29)[:, None]
  columns = np.asarray(taken[1]) - np.arange(29)
  for field in (rows, columns):
    centre = field[:, 10:19, 10:19]
    assert abs(centre.std() / (34 / (4 * math.sqrt(12 * math.pi))) - 1) < 0.1
    assert np.diff(centre, axis=1).std() < 0.3 * centre.std()
  assert abs(np.corrcoef(rows[:, 14, 14], columns[:, 14, 14])[0, 1]) < 0.15


def test_elastic_without_displacement_is_the_identity():
  batch = random_batch()
  step = AUGMENTATIONS['elastic'](spec(batch), alpha=0, sigma=2)
  np.testing.assert_allclose(step(batch, jax.random.key(0))['image'], batch['image'], atol=1e-6)


# ---- colour


def test_brightness_contrast_and_saturation_agree_with_numpy():
  image = np.asarray(random_batch()['image'], np.float64)
  weights = np.array([0.2989, 0.587, 0.114])
  grey = (image * weights).sum(-1, keepdims=True)
  grounds = {'brightness': 0 * grey, 'contrast': grey.mean((1, 2), keepdims=True), 'saturation': grey}
  for name, ground in grounds.items():
    result = np.asarray(run({'color_jitter': {name: 0.6}}, random_batch())['image'], np.float64)
    factors = []
    for x, y, base in zip(image, result, np.broadcast_to(ground, image.shape), strict=True):
      inside = (y > 1e-4) & (y < 1 - 1e-4)
      # y = factor * x + (1 - factor) * base, so the factor is a slope.
      slope = ((y - base) * (x - base))[inside].sum() / ((x - base) ** 2)[inside].sum()
      np.testing.assert_allclose(y, np.clip(slope * x + (1 - slope) * base, 0, 1), atol=1e-4)
      factors.append(slope)
    assert 0.4 - 1e-3 <= min(factors) < 0.9 and 1.1 < max(factors) <= 1.6 + 1e-3


def test_hue_agrees_with_colorsys():
  image = np.array(random_batch(height=4, width=4)['image'])
  image[0, 0, 0] = 0.3
  image[0, 0, 1] = 0
  image[0, 0, 2] = [1, 1, 0]
  shift = draws(8, 1) - 0.5
  result = np.asarray(jax.jit(colour._shift_hue)(jnp.asarray(image), jnp.asarray(shift)[:, None, None]))
  for i in range(8):
    for before, after in zip(image[i].reshape(-1, 3), result[i].reshape(-1, 3), strict=True):
      hue, saturation, value = colorsys.rgb_to_hsv(*before.tolist())
      expected = colorsys.hsv_to_rgb((hue + shift[i]) % 1, saturation, value)
      np.testing.assert_allclose(after, expected, atol=3e-6)


def test_hue_by_a_third_turns_red_into_green():
  image = jnp.asarray([[[[0.9, 0.1, 0.1]]]])
  np.testing.assert_allclose(
    jax.jit(colour._shift_hue)(image, jnp.full((1, 1, 1), 1 / 3))[0, 0, 0], [0.1, 0.9, 0.1], atol=1e-6
  )


def test_hue_is_the_same_fused_and_step_by_step():
  """Fusing recomputes pixels with other roundings: a hue that hangs on equality jumps to another sextant."""
  image = random_batch(batch=64, height=16, width=16)['image']
  share = 0.6 + 0.8 * draws(64, 1)[:, None, None, None]
  shift = 0.2 * draws(64, 2)[:, None, None] - 0.1
  saturate = lambda image: colour._blend(image, colour._grey(image), share)
  fused = jax.jit(lambda image: colour._shift_hue(saturate(colour._blend(image, 0, share)), shift))(image)
  step_by_step = jax.jit(saturate)(jax.jit(colour._blend)(image, 0, share))
  step_by_step = jax.jit(colour._shift_hue)(step_by_step, shift)
  np.testing.assert_allclose(fused, step_by_step, atol=1e-5)


def test_jitter_of_greyscale_images():
  batch = random_batch(channels=1)
  image = np.asarray(batch['image'])
  result = np.asarray(run({'color_jitter': {'contrast': 0.5}}, batch)['image'])
  for x, y in zip(image, result, strict=True):
    inside = (y > 1e-4) & (y < 1 - 1e-4)
    slope = np.polyfit(x[inside], y[inside], 1)[0]
    np.testing.assert_allclose(y, np.clip(slope * x + (1 - slope) * x.mean(), 0, 1), atol=1e-4)


def test_noise_is_normal_and_comes_last():
  batch = random_batch(batch=64)
  mixed = run({'mixup': SETTINGS['mixup']}, batch)['image']
  difference = np.asarray(run({'noise': {'deviation': 0.3}, 'mixup': SETTINGS['mixup']}, batch)['image'] - mixed)
  assert difference.std() == pytest.approx(0.3, rel=0.03) and abs(difference.mean()) < 0.02


def test_erasing_fills_one_box_with_one_colour():
  batch = random_batch(batch=64, height=16, width=16)
  image = np.asarray(batch['image'])
  result = np.asarray(run({'erasing': {'probability': 0.5, 'min_area': 0.1, 'max_area': 0.3}}, batch)['image'])
  erased = 0
  for before, after in zip(image, result, strict=True):
    changed = (before != after).all(-1)
    if not changed.any():
      np.testing.assert_array_equal(before, after)
      continue
    erased += 1
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert changed[box].all() and changed.sum() == changed[box].size
    assert len(np.unique(after[box].reshape(-1, 3), axis=0)) == 1
    # Sides are rounded to pixels.
    assert 0.05 < changed.mean() < 0.4
    np.testing.assert_array_equal(before[~changed], after[~changed])
  assert 16 < erased < 48


# ---- mixing


def one_hot(batch):
  return np.eye(CLASSES, dtype=np.float32)[np.asarray(batch['label'])]


@pytest.mark.parametrize('seed', range(3))
def test_mixup_is_a_convex_combination(seed):
  batch = random_batch(seed)
  result = run({'mixup': {'alpha': 0.4}}, batch, seed)
  image, label = np.asarray(batch['image']), one_hot(batch)
  neighbour = np.roll(image, 1, axis=0)
  difference = image - neighbour
  share = ((result['image'] - neighbour) * difference).sum() / (difference**2).sum()
  assert 0 < share < 1
  np.testing.assert_allclose(result['image'], share * image + (1 - share) * neighbour, atol=1e-5)
  np.testing.assert_allclose(result['label'], share * label + (1 - share) * np.roll(label, 1, axis=0), atol=1e-5)


def test_mixup_shares_are_beta_distributed():
  batch = {**random_batch(), 'label': np.arange(8, dtype=np.int32) % 2}
  shares = np.array([run({'mixup': {'alpha': 0.4}}, batch, seed)['label'][0, 0] for seed in range(1000)])
  # Beta(a, a) has the mean 1 / 2 and the variance 1 / (4 * (2 a + 1)).
  assert abs(shares.mean() - 0.5) < 0.03
  assert abs(shares.var() - 1 / (4 * 1.8)) < 0.015


@pytest.mark.parametrize('seed', range(6))
def test_cutmix_labels_are_the_shares_of_the_pixels(seed):
  batch = random_batch(seed)
  result = run({'cutmix': {}}, batch, seed)
  image, label = np.asarray(batch['image']), one_hot(batch)
  own = (result['image'] == image).all(-1)
  other = (result['image'] == np.roll(image, 1, axis=0)).all(-1)
  assert (own ^ other).all()
  assert (other == other[:1]).all()
  rows, columns = other[0].any(1).sum(), other[0].any(0).sum()
  assert other[0].sum() == rows * columns
  share = own[0].mean()
  np.testing.assert_allclose(result['label'], share * label + (1 - share) * np.roll(label, 1, axis=0), atol=1e-6)


@pytest.mark.parametrize('name', ['cutmix', 'mixup'])
def test_mixing_with_a_probability(name):
  batch = random_batch()
  settings = {name: {'alpha': 1.0, 'probability': 0.25}}
  changed = sum(bool((run(settings, batch, seed)['image'] != batch['image']).any()) for seed in range(100))
  assert 10 < changed < 40


def test_mixup_composes_with_cutmix():
  batch = random_batch()
  both = run({'mixup': {'alpha': 0.4}, 'cutmix': {}}, batch)
  cut = run({'cutmix': {}}, batch)
  share = np.asarray(run({'mixup': {'alpha': 0.4}}, {**batch, 'label': np.arange(8, dtype=np.int32) % 2})['label'])[
    0, 0
  ]
  for name in ('image', 'label'):
    values = np.asarray(cut[name])
    np.testing.assert_allclose(both[name], share * values + (1 - share) * np.roll(values, 1, axis=0), atol=1e-5)
  np.testing.assert_allclose(both['label'].sum(-1), 1, rtol=1e-6)


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


# ---- pixels


def test_to_float():
  image = np.random.default_rng(0).integers(256, size=(2, 3, 3, 1), dtype=np.uint8)
  result = to_float(jnp.asarray(image))
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result, image / 255, rtol=1e-6)
  with pytest.raises(MixerError, match='must be uint8, got float32'):
    to_float(result)


def test_normalize():
  image = random_batch()['image']
  mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
  expected = (np.asarray(image) - np.array(mean)) / np.array(std)
  result = jax.jit(lambda image: normalize(image, mean, std))(image)
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(normalize(image, 0.5, 0.25), (np.asarray(image) - 0.5) / 0.25, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  'mean, std, message',
  [
    ([0.5], 1, 'mean has 1 numbers, but the images have 3 channels'),
    (0.5, [1, 1], 'std has 2 numbers, but the images have 3 channels'),
    (0.5, [1, 0, 1], r'std must be positive, got \[1, 0, 1\]'),
    (0.5, -1, 'std must be positive, got -1'),
    (math.nan, 1, 'mean must be finite, got nan'),
    (0, math.inf, 'std must be finite, got inf'),
  ],
)
def test_normalize_refuses(mean, std, message):
  with pytest.raises(MixerError, match=message):
    normalize(random_batch()['image'], mean, std)


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
      'rotation.degrees must be a number at least 0 and at most 180, got nan',
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
  message = f'{name} needs one class number an example, but labels are float32 [4]'
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
