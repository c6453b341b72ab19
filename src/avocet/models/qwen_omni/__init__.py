"""Qwen2.5-Omni (AVoCaDO) and Qwen3-Omni thinkers."""

from avocet.models.qwen_omni.checkpoint import load_checkpoint
from avocet.models.qwen_omni.config import ReadingSettings
from avocet.models.qwen_omni.modeling import QwenOmniModel

__all__ = ["QwenOmniModel", "ReadingSettings", "load_checkpoint"]
