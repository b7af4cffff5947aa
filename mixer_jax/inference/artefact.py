"""A run as a StableHLO or ONNX artefact: network, weights and preprocessing in one function of raw examples."""

import importlib.metadata
import logging
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import export

from mixer_jax.errors import MixerError, unknown
from mixer_jax.tasks.task import model_inputs
from mixer_jax.training.restore import Run

PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
MEANINGS = {
  'image': 'pixels, 0 to 255, of the size of the model',
  'features': "numbers, scaled as the run's schema.json says",
  'categories': "numbers of the categories in the run's schema.json, 0 for unknown",
}
TOLERANCE = 1e-4  # of ONNX, relative to the largest output


def check_platforms(platforms: tuple[str, ...]) -> None:
  """Refuses other than PLATFORMS, and none."""
  for name in platforms:
    if name not in PLATFORMS:
      raise unknown('--platforms', name, PLATFORMS)
  if not platforms:
    raise MixerError(f'--platforms is empty; choose of {", ".join(PLATFORMS)}')


def export_run(run: Run, platforms: tuple[str, ...]) -> tuple[bytes, dict[str, Any]]:
  """The StableHLO artefact for some of PLATFORMS, and its metadata.

  The function takes raw examples, [batch, ...] for any batch, in the order of `inputs`: uint8 pixels of images, scaled
  columns of tables. It gives the task's answers as a dict: `logits` and `probabilities` [batch, classes], or of an
  auto-encoder `image`, [batch, height, width, channels], pixels as the model gives them, in [0, 1] but for overshoots.
  """
  forward, shapes = _forward(run)
  (batch,) = export.symbolic_shape('batch')
  given = [jax.ShapeDtypeStruct((batch, *shape.shape[1:]), shape.dtype) for shape in shapes.values()]
  exported = export.export(jax.jit(forward), platforms=platforms)(*given)
  version = {'calling_convention_version': exported.calling_convention_version}
  return exported.serialize(), {**_about(run, forward, shapes), 'platforms': list(platforms), **version}


def export_onnx(run: Run) -> tuple[bytes, dict[str, Any]]:
  """As export_run, as an ONNX model, run once beside jax, on random examples; an auto-encoder's output is `decoded`.

  Raises MixerError where jax2onnx is not installed, cannot convert the model or changes what it gives.
  """
  try:
    import jax2onnx
    import onnxruntime
  except ImportError as error:
    raise MixerError(
      f"ONNX needs jax2onnx ({error}): python -m pip install -e '.[onnx]' in a clone of this project, or choose a name"
      ' that does not end in .onnx for StableHLO'
    ) from error
  # They log what fails to load or has no name, whether a model needs it or not; what does need it raises.
  for name in ('jax2onnx', 'onnx_ir'):
    logging.getLogger(name).setLevel(logging.CRITICAL)
  forward, shapes = _forward(run)
  about = _about(run, forward, shapes)
  # ONNX has one name for an input and an output.
  about['outputs'] = {'decoded' if name in shapes else name: of for name, of in about['outputs'].items()}
  names = list(about['outputs'])
  given = [jax.ShapeDtypeStruct(('batch', *shape.shape[1:]), shape.dtype) for shape in shapes.values()]
  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3
  try:
    model = jax2onnx.to_onnx(
      lambda *raw: tuple(forward(*raw).values()), given, input_names=list(shapes), output_names=names
    )
    artefact = model.SerializeToString()
    session = onnxruntime.InferenceSession(artefact, options, providers=['CPUExecutionProvider'])
  except Exception as error:  # of any kind, by what cannot be converted, or run
    raise MixerError(
      f'jax2onnx cannot convert this model ({type(error).__name__}: {error}); choose a name that does not end in .onnx'
      ' for StableHLO'
    ) from error
  random = np.random.default_rng(0)
  raw = {name: _random(random, (3, *shape.shape[1:]), shape.dtype) for name, shape in shapes.items()}
  expected = jax.jit(forward)(*raw.values()).values()
  for name, found, wanted in zip(names, session.run(names, raw), expected, strict=True):
    wrong, largest = np.abs(found - wanted).max(), np.abs(wanted).max()
    if not wrong <= TOLERANCE * largest:
      raise MixerError(
        f'the ONNX model gives other {name} than the run, by up to {wrong:.1e}, the largest being {largest:.1e}; choose'
        ' a name that does not end in .onnx for StableHLO'
      )
  return artefact, {**about, 'opset': model.opset_import[0].version, 'jax2onnx': importlib.metadata.version('jax2onnx')}


def _forward(run: Run) -> tuple[Callable, dict[str, jax.ShapeDtypeStruct]]:
  """The function of raw examples, and what it takes, by name, for a batch of one."""
  experiment, data = run.experiment, run.experiment.data.without_crop()
  preprocess = data.make_preprocess({}, 1)

  def forward(*raw):
    batch = preprocess(dict(zip(data.inputs, raw, strict=True)))
    return experiment.task.answers(nnx.merge(experiment.graphdef, run.params)(*model_inputs(batch)))

  return forward, {name: data.batch(1)[name] for name in data.inputs}


def _about(run: Run, forward: Callable, shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
  describe = lambda shape: {'shape': ['batch', *shape.shape[1:]], 'dtype': shape.dtype.name}
  return {
    'inputs': [{'name': name, **describe(shape), 'meaning': MEANINGS[name]} for name, shape in shapes.items()],
    'outputs': {name: describe(shape) for name, shape in jax.eval_shape(forward, *shapes.values()).items()},
    'labels': run.labels,
    'step': run.step,
    'averaged': run.averaged,
    'jax': jax.__version__,
  }


def _random(random: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  """Pixels, numbers, or the category 0, which every column has."""
  if dtype == np.uint8:
    return random.integers(0, 256, shape, np.uint8)
  return random.normal(size=shape).astype(dtype) if np.issubdtype(dtype, np.floating) else np.zeros(shape, dtype)
