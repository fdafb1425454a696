"""Recorded play, for the best prediction one step ahead that was measured: see BUILD_NOTES.md, the world model.

python -m experiments.record --policy=route --num_observations=524288 --protocol=deterministic \\
  --config.seed=3 --out=data/route-524288
python -m experiments.pretrain --config=configs/prediction.py --data=data/route-524288 --workdir=runs/prediction
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config() -> ConfigDict:
    """Returns the config."""
    config = pretrain.get_config()
    config.name = "prediction"
    config.dynamics.code_head = "patches"  # held-out places: what is learned in one patch holds in all
    config.dynamics.action_norm = 6.8  # a third of what a latent adds
    config.loss_weights.open_loop = 0.25  # one step ahead comes first
    config.learner.num_unrolls = 1
    config.learner.learning_rate = 2e-3
    config.learner.decay_updates = 3000
    config.pretrain.model_updates = 3000
    config.pretrain.examine_every_updates = 1000
    return config
