"""Metadata, dependencies and the package map of keras-si."""

import pathlib
import re
import tempfile

from setuptools import setup

HERE = pathlib.Path(__file__).parent

# Read as text: importing keras_si would import Keras, which is not there yet.
VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (HERE / "keras_si" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
).group(1)

README = (HERE / "README.md").read_text(encoding="utf-8")
# Links and figures of the checkout lead nowhere from a package index: there
# is no address yet that they could be made absolute with. Their texts stay.
for figure_or_link, kept in (
    (r"^!\[[^]]*\]\((?!https?:)[^)]*\)\n+", ""),
    (r"\[([^]]+)\]\((?!https?:)[^)]*\)", r"\1"),
):
    README = re.sub(figure_or_link, kept, README, flags=re.MULTILINE)

# Not in the checkout: what an earlier build had left there would be packed.
BUILD = tempfile.TemporaryDirectory(prefix="keras-si-build-")

# The oldest that .ci/run tests: .ci/oldest.txt.
TENSORFLOW = "2.20"
TUNE = ["optuna>=5"]
# TensorBoard: what Keras's callback for it needs, and TensorFlow leaves out.
TEST = [
    *TUNE,
    "pytest>=8",
    "pytest-xdist>=3.6",
    "sybil>=10",
    "tensorboard>=2.20",
]
DEV = [*TEST, "build>=1.3", "mypy>=2", "pre-commit>=4", "ruff>=0.15"]

setup(
    name="keras-si",
    version=VERSION,
    description=(
        "Synaptic Intelligence for Keras 3: learn task after task, forget less"
    ),
    author="The keras-si authors",
    keywords=[
        "catastrophic forgetting",
        "continual learning",
        "keras",
        "lifelong learning",
        "synaptic intelligence",
    ],
    long_description=README,
    long_description_content_type="text/markdown",
    # The code, and the embedded MNIST.
    license="Apache-2.0 AND CC-BY-SA-3.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # An explicit map: find_packages() would install `cli`, `tests` and
    # `examples` as top-level packages.
    packages=[
        "keras_si",
        "keras_si_cli",
        "keras_si_cli.experiments",
        "keras_si_cli.methods",
        "keras_si_cli.results",
        "keras_si_cli.training",
    ],
    package_dir={"keras_si_cli": "cli"},
    package_data={
        "keras_si": ["py.typed"],
        "keras_si_cli": [
            *("py.typed", "datasets/*", "datasets/*/*", "datasets/*/*/*"),
        ],
        "keras_si_cli.results": ["*.css", "*.j2"],
    },
    install_requires=[
        "click>=8.2.1",
        "filelock>=3.16",
        # tensorflow-datasets 4.9.10 imports it and does not declare it.
        "importlib_resources>=6",
        "jinja2>=3.1",
        "keras>=3.10",
        "matplotlib>=3.8",
        "numpy>=1.26",
        "rich>=13",
        f"tensorflow>={TENSORFLOW}",
        "tensorflow-datasets>=4.9.10",
    ],
    extras_require={
        "test": TEST,
        "dev": DEV,
        "docs": [
            "l2m4m>=1.0.4",
            "mkdocs-click>=0.9",
            "mkdocstrings[python]>=1.0",
            "zensical>=0.0.73",
        ],
        "cuda": [
            f"tensorflow[and-cuda]>={TENSORFLOW}; platform_system == 'Linux'"
        ],
        "jax": ["jax>=0.10"],
        "torch": ["torch>=2.13"],
        "tune": TUNE,
    },
    options={"build": {"build_base": BUILD.name}},
    entry_points={"console_scripts": ["keras-si = keras_si_cli.main:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
