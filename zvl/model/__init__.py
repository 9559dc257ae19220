"""The model: the Q-Former, its objectives, the visual language model, its chat format, the nano backbones."""
