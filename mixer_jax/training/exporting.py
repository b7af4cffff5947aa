"""A run as a StableHLO artefact: network, weights and preprocessing in one function of raw examples."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import export

from mixer_jax.data.inputs import Images
from mixer_jax.errors import MixerError, unknown
from mixer_jax.training.classifying import to_probabilities
from mixer_jax.training.restore import Run

PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
MEANINGS = {
  'image': 'pixels, 0 to 255, of the size of the model',
  'features': "numbers, scaled as the run's schema.json says",
  'categories': "numbers of the categories in the run's schema.json, 0 for unknown",
}


def export_run(run: Run, platforms: tuple[str, ...]) -> tuple[bytes, dict[str, Any]]:
  """The artefact, and what is to be known of it.

  The function takes raw examples, [batch, ...] for any batch, in the order of `inputs`: uint8 pixels of images, scaled
  columns of tables. It gives a dict: `logits` and `probabilities` [batch, classes], or of an auto-encoder `image`,
  [batch, height, width, channels], pixels as the model gives them, in [0, 1] but for what it overshoots.

  Args:
    platforms: for which it is compiled when it is called, of PLATFORMS.

  Raises:
    MixerError: an unknown platform.
  """
  for name in platforms:
    if name not in PLATFORMS:
      raise unknown('--platforms', name, PLATFORMS)
  if not platforms:
    raise MixerError(f'--platforms is empty; choose of {", ".join(PLATFORMS)}')
  experiment, data = run.experiment, run.experiment.data
  # What is exported takes images of the model's size: to cut them out of larger ones is for whoever reads files.
  data = dataclasses.replace(data, crop_from=0) if isinstance(data, Images) else data
  prepare = data.make_prepare({}, 1)

  def forward(*raw):
    prepared = prepare(dict(zip(data.inputs, raw, strict=True)))
    output = nnx.merge(experiment.graphdef, run.params)(*(prepared[name] for name in data.inputs))
    if experiment.has_code:
      return {'image': output}
    logits = output.astype(jnp.float32)
    return {'logits': logits, 'probabilities': to_probabilities(experiment, logits)}

  (batch,) = export.symbolic_shape('batch')
  shapes = {name: data.batch(1)[name] for name in data.inputs}
  given = [jax.ShapeDtypeStruct((batch, *shape.shape[1:]), shape.dtype) for shape in shapes.values()]
  exported = export.export(jax.jit(forward), platforms=platforms)(*given)
  describe = lambda shape: {'shape': ['batch', *shape.shape[1:]], 'dtype': shape.dtype.name}
  outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
  about = {
    'inputs': [{'name': name, **describe(shape), 'meaning': MEANINGS[name]} for name, shape in shapes.items()],
    'outputs': {name: describe(shape) for name, shape in outputs.items()},
    'labels': run.classes,
    'step': run.step,
    'averaged': run.averaged,
    'platforms': list(platforms),
    'calling_convention_version': exported.calling_convention_version,
    'jax': jax.__version__,
  }
  return exported.serialize(), about
