"""Data sets that TFDS has prepared, read without TensorFlow."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from image_sets import AT, refused, write_mnist

import mixer_jax
from mixer_jax.data import examples
from mixer_jax.data.images import sets, tfds

pytestmark = pytest.mark.usefixtures('no_data')


BUILDER = """
import io
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

class Builder(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    features = {FEATURES}
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(10, 0), 'test': self._generate_examples(4, 100)}

  def _generate_examples(self, n, start):
    for k in range(n):
      png = io.BytesIO()
      Image.fromarray(np.full((5, 6, 3), 10 * k + start, np.uint8)).save(png, 'PNG')
      png.seek(0)
      yield k, {EXAMPLE}
"""


IMAGE = "'image': tfds.features.Image(shape=(None, None, 3))"
VARIANTS = {  # name of the data set: its features, an example
  'tiny_labelled': (
    "{%s, 'label': tfds.features.ClassLabel(names=['even', 'odd'])}" % IMAGE,  # noqa: UP031 braces
    "{'image': png, 'label': k % 2}",
  ),
  'tiny_unlabelled': ('{%s}' % IMAGE, "{'image': png}"),  # noqa: UP031
  'tiny_numbers': ("{%s, 'label': np.float32}" % IMAGE, "{'image': png, 'label': 0.5}"),  # noqa: UP031
  'tiny_partly': (
    "{%s, 'label': tfds.features.ClassLabel(names=['even', 'odd'])}" % IMAGE,  # noqa: UP031
    "{'image': png, 'label': -1}",
  ),
}


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """A data directory with the data sets of VARIANTS, prepared as ArrayRecord and without TensorFlow."""
  pytest.importorskip('tensorflow_datasets')
  pytest.importorskip('array_record')
  root, code = tmp_path_factory.mktemp('tfds'), tmp_path_factory.mktemp('builders')
  lines = []
  for name, (features, example) in VARIANTS.items():
    (code / name).mkdir()
    (code / name / '__init__.py').write_text('')
    builder = BUILDER.replace('{FEATURES}', features).replace('{EXAMPLE}', example)
    (code / name / f'{name}_dataset_builder.py').write_text(builder)
    lines.append(f'from {name} import {name}_dataset_builder as module')
    lines.append(f"module.Builder(data_dir={str(root)!r}, file_format='array_record').download_and_prepare()")
  subprocess.run([sys.executable, '-c', '\n'.join(lines)], cwd=code, check=True, capture_output=True, timeout=60)
  return root


def test_tfds(prepared):
  source = sets.load('tfds:tiny_labelled', 'train', image=(5, 6, 3), classes=2, data_dir=str(prepared))
  assert source.classes == ('even', 'odd')
  assert source.arrays is None
  assert len(source) == 10
  values = [int(e['image'][0, 0, 0]) for e in source]
  assert sorted(values) == list(range(0, 100, 10))  # TFDS shuffles when it prepares
  assert [int(e['label']) for e in source] == [v // 10 % 2 for v in values]
  assert source[0]['image'].dtype == np.uint8
  assert source[0]['label'].dtype == np.int32


def test_tfds_splits_and_shapes(prepared, monkeypatch):
  monkeypatch.setenv('MIXER_DATA_DIR', str(prepared))
  whole = sets.load('tfds:tiny_labelled:1.0.0', 'train', image=(4, 4, 1), classes=2)
  part = sets.load('tfds:tiny_labelled', 'train[30%:-2]', image=(4, 4, 1), classes=2)
  assert len(part) == 5
  assert part[0]['image'].shape == (4, 4, 1)
  np.testing.assert_array_equal(examples.materialize(part)['image'], examples.materialize(whole)['image'][3:8])


def test_tfds_in_its_own_default_directory(prepared):
  # TFDS reads its environment once, when it is imported.
  code = "s = sets.load('tfds:tiny_labelled', 'test', image=(5, 6, 3), classes=2); assert len(s) == 4"
  run_alone(code, TFDS_DATA_DIR=str(prepared))


def test_tfds_in_its_default_directory_where_another_is_set(prepared, tmp_path):
  code = (
    "s = sets.load('tfds:tiny_labelled', 'test', image=(5, 6, 3), classes=2)\n"
    f"assert len(s) == 4 and s.notes == ('tfds:tiny_labelled: found in {prepared}/tiny_labelled/1.0.0',), s.notes"
  )
  run_alone(code, TFDS_DATA_DIR=str(prepared), MIXER_DATA_DIR=str(tmp_path))
  # That of the user's goes first.
  run_alone(code, TFDS_DATA_DIR=str(tmp_path), MIXER_DATA_DIR=str(prepared))


def test_tfds_says_everywhere_it_looked(prepared, tmp_path, monkeypatch):
  monkeypatch.setattr('tensorflow_datasets.core.constants.DATA_DIR', str(tmp_path / 'default'))
  both = f'{tmp_path}/here and {tmp_path}/default'
  tfds_refused('not prepared in', both, name='mnist', classes=10, data_dir=tmp_path / 'here')
  tfds_refused('looked for in', both, name='no_such_data', data_dir=tmp_path / 'here')
  refused('no copy prepared by TFDS in', both, name='mnist', split='train', **AT(tmp_path / 'here'))


def test_tensorflow_is_never_imported(prepared):
  run_alone(
    "s = sets.load('tfds:tiny_labelled', 'train', image=(5, 6, 3), classes=2)\n"
    'examples.materialize(s)\n'
    "assert 'tensorflow_datasets' in sys.modules and 'tensorflow' not in sys.modules",
    MIXER_DATA_DIR=str(prepared),
  )


def run_alone(code, **environment):
  path = str(pathlib.Path(mixer_jax.__file__).parents[1])
  imports = 'from mixer_jax.data import examples\nfrom mixer_jax.data.images import sets'
  done = subprocess.run(
    [sys.executable, '-c', f'import sys\n{imports}\n{code}'],
    env=os.environ | {'PYTHONPATH': path} | environment,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == 0, done.stderr


def test_optional_packages_are_imported_only_when_asked_for():
  run_alone("assert not {'tensorflow', 'tensorflow_datasets', 'sklearn'} & set(sys.modules)")


def tfds_refused(*parts, name, data_dir, split='train', classes=2):
  refused(*parts, name=f'tfds:{name}', split=split, image=(5, 6, 3), classes=classes, data_dir=str(data_dir))


def test_tfds_mistakes(prepared, tmp_path):
  tfds_refused("'valid'", 'test, train', name='tiny_labelled', split='valid', data_dir=prepared)
  tfds_refused('expects 3', 'have 2', name='tiny_labelled', classes=3, data_dir=prepared)
  tfds_refused('lacks the features label', 'it has image', name='tiny_unlabelled', data_dir=prepared)
  tfds_refused('class labels', 'float32', name='tiny_numbers', data_dir=prepared)
  tfds_refused('no_such_data', 'not found', 'catalog', name='no_such_data', data_dir=prepared)
  tfds_refused('mnist[:5]', name='mnist[:5]', data_dir=prepared)
  parts = (
    'not prepared',
    tmp_path,
    "pip install 'mixer-jax[tfds]'",
    "tfds.builder('mnist', ",
    'array_record',
  )
  tfds_refused(*parts, name='mnist', classes=10, data_dir=tmp_path)


def test_tfds_without_labels_in_a_split(prepared):
  source = sets.load('tfds:tiny_partly', 'train', image=(5, 6, 3), classes=2, data_dir=str(prepared))
  refused('from 0 to 1', 'found -1', call=source.__getitem__, index=0)


def test_tfds_that_is_not_installed(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  tfds_refused("pip install 'mixer-jax[tfds]'", name='mnist', data_dir=tmp_path)


class FakeBuilder:
  """What TFDS would give for MNIST, prepared as TFRecord or, if `data` is given, with random access."""

  def __init__(self, data=None):
    library = pytest.importorskip('tensorflow_datasets')
    features = {
      'image': library.features.Image(shape=(28, 28, 1)),
      'label': library.features.ClassLabel(num_classes=10),
    }
    self.info = type('Info', (), {'features': features, 'splits': {'train': None, 'test': None}})
    self.info.file_format = library.core.FileFormat.TFRECORD
    self.data, self.data_path = data, '/data/mnist/3.0.1'

  def as_data_source(self, split):
    if self.data is None:
      raise NotImplementedError('no random access')
    return self.data


def test_tfds_prepared_without_random_access(tmp_path, monkeypatch):
  monkeypatch.setattr(tfds, 'prepared', lambda name, data_dir: FakeBuilder())
  parts = ('/data/mnist/3.0.1', 'tfrecord', 'array_record', 'remove')
  tfds_refused(*parts, name='mnist', classes=10, data_dir=tmp_path)


def test_mnist_prepared_by_tfds_is_used_where_there_are_no_files(tmp_path, monkeypatch):
  data = [{'image': np.full((28, 28, 1), k, np.uint8), 'label': np.int64(k % 10)} for k in range(70)]
  monkeypatch.setattr(tfds, 'prepared', lambda name, data_dir: FakeBuilder(data))
  source = sets.load('mnist', 'train', **AT(tmp_path))
  np.testing.assert_array_equal(source.arrays['image'][:, 0, 0, 0], np.arange(70))
  np.testing.assert_array_equal(source.arrays['label'], np.arange(70) % 10)
  assert len(sets.load('mnist', 'train[:10]', **AT(tmp_path)).arrays['image']) == 10
  write_mnist(tmp_path)
  assert len(sets.load('mnist', 'train', **AT(tmp_path))) == 12
