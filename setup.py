import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
README = HERE / 'README.md'

# Read, not imported: importing the package would need its dependencies.
VERSION = re.search(
  r"^__version__ = '([^']+)'$", (HERE / 'mixer_jax' / '__init__.py').read_text(encoding='utf-8'), re.MULTILINE
).group(1)

setup(
  name='mixer-jax',
  version=VERSION,
  description='MLP-Mixer and its relatives in JAX.',
  long_description=README.read_text(encoding='utf-8') if README.exists() else '',
  long_description_content_type='text/markdown',
  author='The mixer-jax authors',
  license='Apache-2.0',
  license_files=['LICENSE'],
  packages=[*find_packages(include=['mixer_jax', 'mixer_jax.*']), 'mixer_jax.configs'],
  package_dir={'mixer_jax.configs': 'configs'},  # so that --config=digits finds them from any folder
  python_requires='>=3.11',
  # From the oldest release that was tried to the next one that may break an interface.
  install_requires=[
    'absl-py>=2.3,<3',
    'dm-pix>=0.4.4,<0.5',
    'einops>=0.8.1,<0.9',
    'flatbuffers>=25.2,<26',  # jax.export writes with it and does not declare it
    'flax>=0.12.8,<0.13',
    'grain>=0.2.18,<0.3',
    'importlib_resources>=6.4,<8',  # tensorflow-datasets imports it and does not declare it
    'jax>=0.10,<0.12',
    'matplotlib>=3.10.8,<4',
    'ml-collections>=1.1,<2',
    'numpy>=2.1,<3',
    'optax>=0.2.8,<0.3',
    'orbax-checkpoint>=0.12.8,<0.13',
    'pillow>=11,<14',
    'safetensors>=0.6.2,<0.9',
    'scikit-learn>=1.7,<2',
    'scipy>=1.14,<2',
    'tensorboardX>=2.6.4,<3',
    'tensorflow-datasets>=4.9.10,<5',
    'tqdm>=4.67,<5',
  ],
  extras_require={
    'cuda': ['jax[cuda13]>=0.10,<0.12'],
    'tpu': ['jax[tpu]>=0.10,<0.12'],
    'tfds': ['tensorflow-cpu>=2.20,<3'],
    'parity': [
      'perceiver-pytorch>=0.8.8,<0.12',
      'timm>=1.0.20,<2',
      'torch>=2.8,<3',
      'transformer-in-transformer>=0.1.2,<0.2',
    ],
    'onnx': ['jax2onnx>=0.13,<1'],
    'torch': ['torch>=2.8,<3'],
    'remote': [
      'fsspec>=2025.3,<2027',
      'gcsfs>=2025.3,<2027',
      'huggingface_hub>=1,<3',
    ],
    'test': [
      'fsspec>=2025.3',
      'ipykernel>=7,<8',
      'jax2onnx>=0.13,<1',
      'nbclient>=0.10.2,<0.12',
      'nbformat>=5.10,<6',
      'pytest>=9,<10',
      'pytest-xdist>=3.8,<4',
      'ruff>=0.17.5,<0.18',
    ],
    'notebooks': [
      'ipykernel>=7,<8',
      'jupyter>=1.1,<2',
      'nbclient>=0.10.2,<0.12',
      'nbformat>=5.10,<6',
    ],
  },
  classifiers=[
    'Intended Audience :: Science/Research',
    'Programming Language :: Python :: 3',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
  ],
)
