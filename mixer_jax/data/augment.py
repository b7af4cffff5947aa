"""Augmentations that run on the device, inside the jitted train step.

A batch is a dict, `{'image': float32 [batch, height, width, channels] in [0, 1], 'label': int32 [batch]}`;
other entries pass through. A config names augmentations with their settings, for example

    config.augment = {'flip': {}, 'crop': {'padding': 4}, 'mixup': {'alpha': 0.5}}

They are applied in the order of `AUGMENTATIONS` (geometry, colour, erasing, noise, mixing), whatever the order in
the config, and each draws from a key of its own, so that adding one does not change what another draws. All
draws are made on whole-batch shapes: a result depends on the batch and the key alone, not on how the batch is
split over devices.

Every entry of `AUGMENTATIONS` is a maker: it checks its settings against the batches they are for
(`features`, name -> ShapeDtypeStruct) and returns a pure function (batch, key) -> batch.
"""

import inspect
import math
import numbers
import zlib
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.scipy.ndimage import map_coordinates

from mixer_jax.errors import MixerError, unknown

Batch = dict[str, jax.Array]
Features = Mapping[str, jax.ShapeDtypeStruct]
Augment = Callable[[Batch, jax.Array], Batch]


def make_augment(settings: Mapping[str, Mapping], *, features: Features, classes: int | None) -> Augment:
  """The function (batch, key) -> batch that applies the augmentations a config names.

  Args:
    settings: name of an augmentation -> its settings, `{'crop': {'padding': 4}, 'flip': {}}`; empty leaves
      batches alone.
    features: what a batch holds, name -> ShapeDtypeStruct, the batch axis first.
    classes: number of classes; `mixup` and `cutmix` turn labels into float32 [batch, classes].

  Raises:
    MixerError: unknown name or setting, missing setting, wrong value, or data that lack what an augmentation
      needs.
  """
  if not hasattr(settings, 'items'):
    raise MixerError(f"config.augment must be a dict, {{'flip': {{}}, 'crop': {{'padding': 4}}}}, got {settings!r}")
  for name in settings:
    if name not in AUGMENTATIONS:
      raise unknown('augmentation', name, AUGMENTATIONS)
  steps = [
    # By name, not by place: the draws stay the same when AUGMENTATIONS grows.
    (zlib.crc32(name.encode()), _make(name, make, settings[name], features=features, classes=classes))
    for name, make in AUGMENTATIONS.items()
    if name in settings
  ]

  def augment(batch: Batch, key: jax.Array) -> Batch:
    for number, apply in steps:
      own_key = jax.random.fold_in(key, number)
      batch = apply(batch, own_key)
      batch = {**batch, 'image': _finish(batch['image'], own_key)}
    return batch

  return augment


def to_float(image: jax.Array) -> jax.Array:
  """uint8 pixels as float32 in [0, 1].

  Raises:
    MixerError: the pixels are not uint8.
  """
  if image.dtype != jnp.uint8:
    raise MixerError(f'images to be scaled by 1/255 must be uint8, got {image.dtype}; leave scaled images as they are')
  return image.astype(jnp.float32) / 255


def normalize(image: jax.Array, mean: Sequence[float] | float, std: Sequence[float] | float) -> jax.Array:
  """(image - mean) / std, channel by channel.

  Args:
    image: [..., channels].
    mean, std: one number a channel, or one for all; in the units of the image.

  Raises:
    MixerError: a wrong number of channels, a number that is not finite, or a std that is not positive.
  """
  channels = image.shape[-1]
  for name, value in (('mean', mean), ('std', std)):
    if np.shape(value) not in ((), (channels,)):
      raise MixerError(
        f'{name} has {np.size(value)} numbers, but the images have {channels} channels;'
        ' give one a channel, or one for all'
      )
    if not np.all(np.isfinite(value)):
      raise MixerError(f'{name} must be finite, got {value}')
  if not np.all(np.asarray(std) > 0):
    raise MixerError(f'std must be positive, got {std}; a channel that never changes can have 1')
  return (image - jnp.asarray(mean, image.dtype)) / jnp.asarray(std, image.dtype)


# ---- geometry


def flip(features: Features, *, probability: float = 0.5) -> Augment:
  """Mirrors an image left to right with a probability."""
  _image_shape('flip', features)
  _check('flip.probability', probability, 0, 1)

  def apply(image, key):
    mirrored = _chance(key, probability, (len(image),))
    return jnp.where(rearrange(mirrored, 'b -> b 1 1 1'), image[:, :, ::-1], image)

  return _to_images(apply)


def resized_crop(features: Features, *, min_area: float = 0.08, max_aspect: float = 4 / 3) -> Augment:
  """A random part of an image, enlarged to the size of the whole: the Inception crop.

  The part has an area uniform in [min_area, 1] of the image's, and sides stretched against the image's by an
  aspect that is log-uniform in [1 / max_aspect, max_aspect].

  Szegedy et al. 2015, "Going deeper with convolutions". Deviations: a side longer than the image's is cut to
  it, where other code draws again; the part's corners are not rounded to pixels; aspect is relative to that
  of the image, which is the same for square ones; pixels next to the part are interpolated with, where they
  exist.
  """
  height, width, _ = _image_shape('resized_crop', features)
  _check('resized_crop.min_area', min_area, 0, 1, above=True)
  _check('resized_crop.max_aspect', max_aspect, 1)

  def apply(image, key):
    area_key, aspect_key, row_key, column_key = jax.random.split(key, 4)
    area = _uniform(area_key, image, min_area, 1)
    stretch = jnp.exp(_uniform(aspect_key, image, -math.log(max_aspect), math.log(max_aspect)) / 2)
    rows = jnp.minimum(jnp.sqrt(area) / stretch, 1) * height
    columns = jnp.minimum(jnp.sqrt(area) * stretch, 1) * width
    top = _uniform(row_key, image, 0, 1) * (height - rows)
    left = _uniform(column_key, image, 0, 1) * (width - columns)
    return _enlarge(image, top, left, rows, columns)

  return _to_images(apply)


def crop(features: Features, *, padding: int) -> Augment:
  """Moves an image by up to `padding` pixels along each side; what comes in is zero.

  He et al. 2016, "Deep residual learning for image recognition": pad each side with zeros, cut the old size
  out at random.
  """
  height, width, channels = _image_shape('crop', features)
  _check(
    'crop.padding',
    padding,
    0,
    min(height, width) - 1,
    whole=True,
    note=f'; the images are {height} x {width}',
  )

  def apply(image, key):
    start = jax.random.randint(key, (len(image), 2), 0, 2 * padding + 1)
    padded = jnp.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    cut = lambda one, at: jax.lax.dynamic_slice(one, (at[0], at[1], 0), (height, width, channels))
    return jax.vmap(cut)(padded, start)

  return _to_images(apply)


def rotation(features: Features, *, degrees: float) -> Augment:
  """Turns an image about its centre by an angle uniform in +-degrees: `affine` with nothing else."""
  _image_shape('rotation', features)
  _check('rotation.degrees', degrees, 0, 180)
  return affine(features, degrees=degrees)


def affine(
  features: Features, *, degrees: float = 0.0, translate: float = 0.0, scale: float = 0.0, shear: float = 0.0
) -> Augment:
  """Shears, scales, turns and moves an image in one bilinear warp, zero outside.

  Args:
    degrees: the angle is uniform in +-degrees.
    translate: the shift is uniform in +-translate of the height, and of the width.
    scale: the size is log-uniform in [1 / (1 + scale), 1 + scale], so that growing and shrinking are as
      likely.
    shear: the angle of a horizontal shear is uniform in +-shear degrees.
  """
  height, width, _ = _image_shape('affine', features)
  _check('affine.degrees', degrees, 0, 180)
  _check('affine.translate', translate, 0, 1)
  _check('affine.scale', scale, 0)
  _check('affine.shear', shear, 0, 80)

  def apply(image, key):
    degrees_key, row_key, column_key, scale_key, shear_key = jax.random.split(key, 5)
    return _affine_warp(
      image,
      degrees=_uniform(degrees_key, image, -degrees, degrees),
      down=_uniform(row_key, image, -translate, translate) * height,
      right=_uniform(column_key, image, -translate, translate) * width,
      scale=jnp.exp(_uniform(scale_key, image, -math.log1p(scale), math.log1p(scale))),
      shear=_uniform(shear_key, image, -shear, shear),
    )

  return _to_images(apply)


def elastic(features: Features, *, alpha: float, sigma: float) -> Augment:
  """Moves every pixel by a smooth random field, bilinearly, zero outside.

  Each component of the field is uniform noise in [-1, 1], blurred by a Gaussian of `sigma` pixels (noise is
  zero outside the image) and multiplied by `alpha` pixels. Far from the border a component then has the
  standard deviation alpha / (sigma * sqrt(12 * pi)): 1.4 pixels for the paper's alpha = 34 and sigma = 4 on
  29 x 29 MNIST digits.

  Simard et al. 2003, "Best practices for convolutional neural networks applied to visual document analysis".
  """
  height, width, _ = _image_shape('elastic', features)
  _check('elastic.alpha', alpha, 0)
  _check('elastic.sigma', sigma, 0, above=True)
  row_blur, column_blur = _gaussian(height, sigma), _gaussian(width, sigma)

  def apply(image, key):
    # Both components from the halves of one draw: threefry is most of what this costs on a CPU.
    bits = jax.random.bits(key, (len(image), height, width), jnp.uint32)
    noise = jnp.stack([bits >> 16, bits & 0xFFFF], axis=1).astype(jnp.float32) / 2**15 - 1
    field = alpha * jnp.einsum('ip,bcpq,qj->bcij', row_blur, noise, column_blur)
    return _warp(image, jnp.arange(height)[:, None] + field[:, 0], jnp.arange(width) + field[:, 1])

  return _to_images(apply)


# ---- colour


def color_jitter(
  features: Features,
  *,
  brightness: float = 0.0,
  contrast: float = 0.0,
  saturation: float = 0.0,
  hue: float = 0.0,
) -> Augment:
  """Changes brightness, contrast, saturation and hue by random factors, clipped to [0, 1] after each.

  The factors are those of torchvision's ColorJitter: uniform in [max(0, 1 - setting), 1 + setting], the hue
  shifted by up to +-hue of the colour circle (at most 0.5). Deviation: always in this order, where
  torchvision shuffles it. Images with one channel have no saturation and no hue; both must then be 0.
  """
  channels = _image_shape('color_jitter', features)[-1]
  _check('color_jitter.brightness', brightness, 0)
  _check('color_jitter.contrast', contrast, 0)
  _check('color_jitter.saturation', saturation, 0)
  _check('color_jitter.hue', hue, 0, 0.5)
  if channels not in (1, 3):
    raise MixerError(f'color_jitter needs images of 1 or 3 channels, but these have {channels}; leave it out')
  if channels != 3 and (saturation or hue):
    raise MixerError(
      f'color_jitter.saturation = {saturation} and hue = {hue} need images of 3 channels,'
      f' but these have {channels}; set both to 0'
    )

  def apply(image, key):
    keys = jax.random.split(key, 4)
    factor = lambda key, setting: rearrange(_uniform(key, image, max(0, 1 - setting), 1 + setting), 'b -> b 1 1 1')
    if brightness:
      image = _blend(image, 0, factor(keys[0], brightness))
    if contrast:
      image = _blend(image, _grey(image.mean((1, 2), keepdims=True)), factor(keys[1], contrast))
    if saturation:
      image = _blend(image, _grey(image), factor(keys[2], saturation))
    if hue:
      image = _shift_hue(image, rearrange(_uniform(keys[3], image, -hue, hue), 'b -> b 1 1'))
    return image

  return _to_images(apply)


def erasing(
  features: Features,
  *,
  probability: float = 0.5,
  min_area: float = 0.02,
  max_area: float = 0.4,
  max_aspect: float = 1 / 0.3,
) -> Augment:
  """Fills a random box of an image with a random colour, with a probability.

  The box has an area uniform in [min_area, max_area] of the image's and an aspect log-uniform in
  [1 / max_aspect, max_aspect].

  Zhong et al. 2020, "Random erasing data augmentation". Deviations: one colour a box, where the paper draws
  every pixel, which takes longer than a small network's step; the aspect is log-uniform, as in later code; a
  side longer than the image's is cut to it, where the paper draws again.
  """
  height, width, channels = _image_shape('erasing', features)
  _check('erasing.probability', probability, 0, 1)
  _check('erasing.max_area', max_area, 0, 1)
  _check('erasing.min_area', min_area, 0, max_area, note=' (max_area)')
  _check('erasing.max_aspect', max_aspect, 1)

  def apply(image, key):
    chosen_key, area_key, aspect_key, row_key, column_key, colour_key = jax.random.split(key, 6)
    chosen = _chance(chosen_key, probability, (len(image),))
    area = _uniform(area_key, image, min_area, max_area) * height * width
    stretch = jnp.exp(_uniform(aspect_key, image, -math.log(max_aspect), math.log(max_aspect)) / 2)
    rows = jnp.clip(jnp.round(jnp.sqrt(area) / stretch), 0, height)
    columns = jnp.clip(jnp.round(jnp.sqrt(area) * stretch), 0, width)
    top = jnp.floor(_uniform(row_key, image, 0, 1) * (height - rows + 1))
    left = jnp.floor(_uniform(column_key, image, 0, 1) * (width - columns + 1))
    box = _box(height, width, top, left, top + rows, left + columns) & rearrange(chosen, 'b -> b 1 1')
    colour = jax.random.uniform(colour_key, (len(image), 1, 1, channels), image.dtype)
    return jnp.where(box[..., None], colour, image)

  return _to_images(apply)


def noise(features: Features, *, deviation: float) -> Augment:
  """Adds normal noise to every pixel, without clipping, after all others; `target` is the image before it.

  The task `reconstruction` then asks for the target: a denoising auto-encoder (Vincent et al. 2008, "Extracting and
  composing robust features with denoising autoencoders").
  """
  _image_shape('noise', features)
  _check('noise.deviation', deviation, 0)

  def apply(batch, key):
    image = batch['image']
    return {**batch, 'image': image + deviation * jax.random.normal(key, image.shape, image.dtype), 'target': image}

  return apply


# ---- mixing


def cutmix(features: Features, classes: int, *, alpha: float = 1.0, probability: float = 1.0) -> Augment:
  """Puts a box of the image before it in the batch into every image, and mixes the labels by area.

  One box for the whole batch, with a probability: its area is 1 - lambda of the image's with lambda ~
  Beta(alpha, alpha), its centre uniform; it is cut at the border and the labels are weighed by the area that
  is left.

  Yun et al. 2019, "CutMix". Deviation: the partner is the neighbour, not a random one, in batches shuffled
  already.
  """
  height, width, _ = _image_shape('cutmix', features)
  _check_labels('cutmix', features, classes)
  _check('cutmix.alpha', alpha, 0, above=True)
  _check('cutmix.probability', probability, 0, 1)

  def apply(batch, key):
    image, label = batch['image'], distribution(batch['label'], classes)
    chosen_key, share_key, row_key, column_key = jax.random.split(key, 4)
    side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha))
    side = jnp.where(_chance(chosen_key, probability, ()), side, 0)
    rows, columns = jnp.floor(side * height), jnp.floor(side * width)
    top = jax.random.randint(row_key, (), 0, height) - rows // 2
    left = jax.random.randint(column_key, (), 0, width) - columns // 2
    box = _box(height, width, top, left, top + rows, left + columns)
    share = box.mean(dtype=jnp.float32)
    image = jnp.where(box[..., None], jnp.roll(image, 1, axis=0), image)
    return {**batch, 'image': image, 'label': _mix(label, 1 - share)}

  return apply


def mixup(features: Features, classes: int, *, alpha: float, probability: float = 1.0) -> Augment:
  """Blends every image, and its label, with the one before it in the batch.

  lambda * own + (1 - lambda) * neighbour, with one lambda ~ Beta(alpha, alpha) for the whole batch.

  Zhang et al. 2018, "mixup: Beyond empirical risk minimization". Deviations: the partner is the neighbour,
  not a random one, in batches shuffled already; a batch is left alone with 1 - probability.
  """
  _image_shape('mixup', features)
  _check_labels('mixup', features, classes)
  _check('mixup.alpha', alpha, 0, above=True)
  _check('mixup.probability', probability, 0, 1)

  def apply(batch, key):
    chosen_key, share_key = jax.random.split(key)
    share = jax.random.beta(share_key, alpha, alpha)
    share = jnp.where(_chance(chosen_key, probability, ()), share, 1)
    label = distribution(batch['label'], classes)
    return {**batch, 'image': _mix(batch['image'], share), 'label': _mix(label, share)}

  return apply


AUGMENTATIONS: dict[str, Callable[..., Augment]] = {
  'flip': flip,
  'resized_crop': resized_crop,
  'crop': crop,
  'rotation': rotation,
  'affine': affine,
  'elastic': elastic,
  'color_jitter': color_jitter,
  'erasing': erasing,
  'cutmix': cutmix,
  'mixup': mixup,
  'noise': noise,  # last, so that its target is what the others made
}


# ---- the pieces


def _finish(image: jax.Array, key: jax.Array) -> jax.Array:
  """The image itself, computed once.

  XLA for CPUs fuses one augmentation into every read of the next, and so computes it once a read: rotation
  and cutmix together took ten times as long as apart. It drops an optimization_barrier before it fuses, but
  fuses nothing through a condition that it cannot foresee.
  """

  def on_cpu(image):
    never = jax.random.uniform(key) > 1
    return jax.lax.cond(never, jnp.zeros_like, lambda image: image, image)

  return jax.lax.platform_dependent(image, cpu=on_cpu, default=lambda image: image)


def _warp(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
  """image [b, h, w, c] read bilinearly at rows and columns [b, h, w], zero outside."""
  one_channel = lambda plane, at: map_coordinates(plane, at, order=1, mode='constant')
  one_image = jax.vmap(one_channel, in_axes=(-1, None), out_axes=-1)
  return jax.vmap(one_image)(image, [rows, columns])


def _affine_warp(image, *, degrees, down, right, scale, shear):
  """Shear, scale, turn counter-clockwise about the centre, shift in pixels; one number [b] an image."""
  height, width = image.shape[1:3]
  column = lambda value: rearrange(value, 'b -> b 1 1')
  # Every output pixel asks where it comes from: the steps undone, the last one first.
  y = jnp.arange(height)[:, None] - (height - 1) / 2 - column(down)
  x = jnp.arange(width) - (width - 1) / 2 - column(right)
  cos, sin = jnp.cos(jnp.radians(column(degrees))), jnp.sin(jnp.radians(column(degrees)))
  x, y = (cos * x - sin * y) / column(scale), (sin * x + cos * y) / column(scale)
  x = x - jnp.tan(jnp.radians(column(shear))) * y
  return _warp(image, y + (height - 1) / 2, x + (width - 1) / 2)


def _enlarge(image, top, left, rows, columns):
  """The box of rows x columns at (top, left), in pixels, [b], enlarged bilinearly to the image's size."""
  height, width = image.shape[1:3]

  def weights(start, length, size):
    at = start[:, None] + (jnp.arange(size) + 0.5) * length[:, None] / size - 0.5
    at = jnp.clip(at, 0, size - 1)
    return jnp.maximum(0, 1 - jnp.abs(at[..., None] - jnp.arange(size))).astype(image.dtype)

  # The two axes are independent, and products with matrices are faster than gathers where it counts. In full
  # precision: an accelerator's default would round the pixels.
  row_weights, column_weights = weights(top, rows, height), weights(left, columns, width)
  return jnp.einsum('bip,bjq,bpqc->bijc', row_weights, column_weights, image, precision='highest')


def _gaussian(size: int, sigma: float) -> np.ndarray:
  """[size, size]: the blur of a line whose neighbourhood is zero, as a matrix."""
  density = lambda distance: np.exp(-0.5 * (distance / sigma) ** 2)
  reach = math.ceil(10 * sigma)
  distances = np.arange(size)[:, None] - np.arange(size)
  return np.float32(density(distances) / density(np.arange(-reach, reach + 1)).sum())


def _box(height, width, top, left, bottom, right):
  """[..., h, w]: True from top to before bottom and from left to before right, each a scalar or [...]."""
  edge = lambda value: jnp.asarray(value)[..., None]
  row, column = jnp.arange(height), jnp.arange(width)
  rows = (row >= edge(top)) & (row < edge(bottom))
  columns = (column >= edge(left)) & (column < edge(right))
  return rows[..., :, None] & columns[..., None, :]


def _blend(image, other, share):
  """share * image + (1 - share) * other, clipped: a share above 1 moves away from the other."""
  return jnp.clip(share * image + (1 - share) * other, 0, 1)


def _grey(image):
  """[b, h, w, 1]: the brightness, weighed as by torchvision and Pillow (ITU-R 601)."""
  if image.shape[-1] == 1:
    return image
  red, green, blue = jnp.split(image, 3, axis=-1)
  return 0.2989 * red + 0.587 * green + 0.114 * blue


def _shift_hue(image, shift):
  """Turns the colour circle by a shift in [-1, 1] (1 is the whole circle), [b, 1, 1]; image [b, h, w, 3]."""
  red, green, blue = image[..., 0], image[..., 1], image[..., 2]
  value = image.max(-1)
  chroma = value - image.min(-1)
  divisor = jnp.where(chroma > 0, chroma, 1)
  # Comparisons, not `value == red`: where XLA computes a pixel twice the two can differ in the last bit, and
  # a hue that hangs on equality would be that of another colour. Where two channels tie, both cases agree.
  sextant = jnp.where(
    (red >= green) & (red >= blue),
    (green - blue) / divisor,
    jnp.where(green >= blue, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
  )
  sextant = sextant[..., None] + 6 * shift[..., None]
  # https://en.wikipedia.org/wiki/HSL_and_HSV, "HSV to RGB alternative": no branches.
  distance = jnp.array([5, 3, 1]) + sextant
  # The remainder by 6, several times faster on a CPU than `%`.
  distance = distance - 6 * jnp.floor(distance / 6)
  shade = jnp.clip(jnp.minimum(distance, 4 - distance), 0, 1)
  return jnp.clip(value[..., None] - chroma[..., None] * shade, 0, 1)


def _mix(values, share):
  """share of each example and 1 - share of the one before it in the batch."""
  return share * values + (1 - share) * jnp.roll(values, 1, axis=0)


def distribution(label, classes):
  """Labels [b] as float32 [b, classes]; distributions stay what they are."""
  return label if label.ndim == 2 else jax.nn.one_hot(label, classes, dtype=jnp.float32)


def _uniform(key, image, low, high):
  """[b]: one number an example."""
  return jax.random.uniform(key, (len(image),), minval=low, maxval=high)


def _chance(key, probability, shape):
  """True with a probability; jax.random.bernoulli does not take the whole numbers 0 and 1."""
  return jax.random.uniform(key, shape) < probability


def _to_images(apply: Callable[[jax.Array, jax.Array], jax.Array]) -> Augment:
  return lambda batch, key: {**batch, 'image': apply(batch['image'], key)}


# ---- the checks


def _make(name: str, make: Callable[..., Augment], settings: Mapping, **context) -> Augment:
  if not hasattr(settings, 'items'):
    raise MixerError(f"config.augment.{name} must be a dict of settings, {{'setting': value}}, got {settings!r}")
  settings = dict(settings.items())
  parameters = inspect.signature(make).parameters
  known = {key: parameter for key, parameter in parameters.items() if key not in context}
  for key in settings:
    if key not in known:
      raise unknown(f'setting of config.augment.{name}', key, known)
  for key, parameter in known.items():
    if parameter.default is inspect.Parameter.empty and key not in settings:
      raise MixerError(f'config.augment.{name} lacks {key!r}; its settings: {", ".join(known)}')
  return make(**{key: value for key, value in context.items() if key in parameters}, **settings)


def _check(setting, value, low, high=math.inf, *, above=False, whole=False, note=''):
  """Refuses a value outside [low, high], or that equals low where it must be above."""
  kind = numbers.Integral if whole else numbers.Real
  if (
    isinstance(value, kind)
    and not isinstance(value, bool)
    and math.isfinite(value)
    and (low < value if above else low <= value)
    and value <= high
  ):
    return
  wanted = f'{"above" if above else "at least"} {low}' + (f' and at most {high}' if math.isfinite(high) else '')
  raise MixerError(
    f'config.augment.{setting} must be a {"whole " if whole else ""}number {wanted}{note}, got {value!r}'
  )


def _need(name: str, what: str, key: str, features: Features):
  if key not in features:
    raise MixerError(
      f'{name} needs {what}, but a batch of this data set holds {", ".join(sorted(features))};'
      f' leave {name!r} out of config.augment'
    )


def _image_shape(name: str, features: Features) -> tuple[int, int, int]:
  _need(name, 'images', 'image', features)
  shape = features['image'].shape
  if len(shape) != 4:
    raise MixerError(f'{name} needs images of shape [batch, height, width, channels], but these have {list(shape)}')
  return shape[1:]


def _check_labels(name: str, features: Features, classes: int | None):
  _need(name, 'labels', 'label', features)
  label = features['label']
  if not (jnp.issubdtype(label.dtype, jnp.integer) and len(label.shape) == 1):
    raise MixerError(f'{name} needs one class number an example, but labels are {label.dtype} {list(label.shape)}')
  if classes is None or classes < 2:
    raise MixerError(f'{name} needs at least 2 classes, got {classes}; leave {name!r} out of config.augment')
