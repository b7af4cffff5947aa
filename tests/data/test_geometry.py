"""Augmentations of geometry against plain NumPy and SciPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from augmented import draws, random_batch, run, spec
from scipy import ndimage

from mixer_jax.data.augment import AUGMENTATIONS, geometry, make_augment

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
