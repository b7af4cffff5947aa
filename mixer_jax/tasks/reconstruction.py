"""Reconstruction: the image from its code, without the noise that was added to it."""

import dm_pix
import jax
import jax.numpy as jnp

from mixer_jax.errors import MixerError, unknown
from mixer_jax.ranges import Amount
from mixer_jax.tasks.task import Batch, Scores, Task, View

LOSSES = {'mse': jnp.square, 'l1': jnp.abs}


class Reconstruction(Task):
  """Reconstructs the image, in [0, 1].

  Scores are `loss`, `mse`, and when evaluated `l1`, `psnr` in decibels (of each image, for a range of 1; an error of
  1e-10 is the least that counts) and `ssim` (Wang et al. 2004; Gaussian windows of 11x11 pixels, smaller for smaller
  images). Outputs are clipped to [0, 1] for none of them.

  Args:
    loss: `mse`, the mean squared error over pixels and channels, or `l1`, the mean absolute one.
    noise: deviation of normal noise that the model sees added to every pixel in training, without clipping, while the
      target stays as it is: a denoising auto-encoder (Vincent et al. 2008, "Extracting and composing robust features
      with denoising autoencoders").

  Refuses pixels that are not left in [0, 1], an unknown loss, a model without encode() and decode().
  """

  best, highest = 'mse', False
  panels = (('mse', 'mean squared error', 'log'), ('psnr', 'PSNR (dB)', 'linear'))
  draws_with_model, has_code, writes = True, True, 'pictures'

  def __init__(
    self, *, image: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...], loss: str = 'mse',
    noise: Amount = 0.0,
  ):  # fmt: skip
    if loss not in LOSSES:
      raise unknown('task.loss', loss, LOSSES)
    if set(mean) != {0} or set(std) != {1}:
      raise MixerError(
        f'task reconstruction compares pixels in [0, 1], but data.mean is {list(mean)} and data.std {list(std)}; set'
        ' them to zeros and ones'
      )
    self.outputs, self._loss, self._noise = tuple(image), loss, noise

  def seen(self, batch: Batch, rngs) -> Batch:
    if not self._noise or rngs is None:
      return batch
    noise = jax.random.normal(rngs.dropout(), batch['image'].shape, batch['image'].dtype)
    return batch | {'image': batch['image'] + self._noise * noise}

  def scores(self, output: jax.Array, batch: Batch, *, training: bool = False) -> Scores:
    target = batch['image']
    of_image = lambda values: values.mean(axis=(1, 2, 3))
    mse = of_image(jnp.square(output - target))
    result = {'loss': of_image(LOSSES[self._loss](output - target)), 'mse': mse}
    if not training:
      result['l1'] = of_image(jnp.abs(output - target))
      result['psnr'] = -10 * jnp.log10(jnp.maximum(mse, 1e-10))
      result['ssim'] = dm_pix.ssim(output, target, filter_size=min(11, *self.outputs[:2]))
    return result

  def check(self, model, name: str, given: tuple[int, ...]) -> None:
    super().check(model, name, given)
    if lacking := [what for what in ('encode', 'decode', 'code') if getattr(model, what, None) is None]:
      raise MixerError(
        f'model {name} lacks {", ".join(lacking)}, which task reconstruction needs; choose an auto-encoder with'
        ' model.name, or give yours encode(image), decode(code) and code, how many numbers an image becomes'
      )

  def answers(self, output: jax.Array) -> dict[str, jax.Array]:
    return {'image': output}

  def draw(self, view: View) -> None:
    from mixer_jax.analysis import pictures

    if view.first_split:
      pictures.draw_reconstructions(view)
    if view.first_split and view.last:
      pictures.draw_codes(view)
