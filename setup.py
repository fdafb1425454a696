"""What `pip install -e .` installs; settings of the tools stand in pyproject.toml."""

import setuptools

setuptools.setup(
    name="learnmax_jax",
    version="0.1.0",
    description="Discrete-token world models, batched tree search and exploration in JAX",
    license="Apache-2.0",
    python_requires=">=3.11",
    # experiments/, configs/ and tests/ are found from the repository root: their names are too common to install.
    packages=setuptools.find_packages(include=["learnmax_jax", "learnmax_jax.*"]),
    package_data={"learnmax_jax": ["data/*.json", "data/*.csv", "data/README.md", "py.typed"]},
    install_requires=[
        "absl-py>=2",
        "chex>=0.1.90",
        "envpool>=1.2.5",
        "flax>=0.12,<0.13",
        "jax>=0.10.2",
        "matplotlib>=3.8",
        "mctx>=0.0.6",
        "ml_collections>=1.0",
        "numpy>=1.26",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.12,<0.13",
        "pillow>=10",
    ],
    extras_require={
        "test": ["hypothesis", "mypy", "pytest", "pytest-timeout", "pytest-xdist", "ruff"],
        "cuda13": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
        "tracking": ["tensorboardX", "tensorboard"],
        "video": ["imageio", "imageio-ffmpeg"],
    },
)
