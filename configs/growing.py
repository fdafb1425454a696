"""Patches that become codes where they are new: the growing nearest-neighbour quantiser, on recorded play.

python -m experiments.pretrain --config=configs/growing.py --data=data/route --workdir=runs/growing
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config() -> ConfigDict:
    """Returns the pretraining config with a growing codebook of 12x12 patches."""
    config = pretrain.get_config()
    config.name = "growing"
    config.tokenizer.quantizer = "growing"
    config.tokenizer.layout = "patch"
    config.tokenizer.background = "none"
    config.tokenizer.num_groups = 1
    config.tokenizer.num_codes = 1024
    config.tokenizer.code_dim = 144  # a code is a patch's pixels
    with config.unlocked():
        config.growth = {
            "distance": 30.0,  # grey levels, root mean square over a patch
            "error": 0.0,  # grey levels; 0: the distance alone decides
            "limit": 64,  # codes an update
        }
    config.learner.batch_size = 2  # 49 tokens a frame
    config.learner.sequence_length = 16
    config.learner.replay_ratio = 0.0625
    config.learner.num_unrolls = 1
    return config
