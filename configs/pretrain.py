"""Tokenizer and dynamics from recorded play, on two cores.

python -m experiments.pretrain --config=configs/pretrain.py --data=data/route --workdir=runs/pretrained
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the base config with a section for recorded play; its networks are base's, so that zuma can go on."""
    config = base.get_config()
    config.name = "pretrain"
    config.learner.batch_size = 16
    config.learner.replay_ratio = 1.0
    config.learner.reanalyse_fraction = 0.0  # recorded play was searched by nobody
    config.learner.warmup_updates = 100
    config.loss_weights.policy = 0.0
    config.loss_weights.value = 0.0
    config.loss_weights.q = 0.0
    config.loss_weights.intrinsic = 0.0
    with config.unlocked():
        config.pretrain = {
            "tokenizer_updates": 1000,
            "model_updates": 4000,
            "tokenizer_with_model": False,
            "windows": "rare",  # drawn by 1 / sqrt(n) of their keys; or "epochs": each transition once an epoch
            "test_share": 0.1,
            "overlap_length": 8,  # observations and actions in a row that only one part may hold
            "skip_damaged": False,
            "held_out_actions": (),
            "num_test_windows": 256,
            "report_every_updates": 50,
            "examine_every_updates": 1000,
            "checkpoint_every_updates": 500,
        }
    return config
