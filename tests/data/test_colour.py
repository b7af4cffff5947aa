"""Augmentations of colour against plain NumPy, SciPy and colorsys."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from augmented import SETTINGS, draws, random_batch, run

from mixer_jax.data.augment import colour

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
