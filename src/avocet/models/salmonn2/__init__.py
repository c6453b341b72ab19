"""video-SALMONN 2: the paper's architecture, configurable in every size, and the released 7B, 2+ 3B, 7B and 72B."""

from avocet.models.salmonn2.auto import Salmonn2AutoModel
from avocet.models.salmonn2.checkpoint import load_checkpoint, save_checkpoint
from avocet.models.salmonn2.config import Salmonn2Config
from avocet.models.salmonn2.modeling import Salmonn2Model
from avocet.models.salmonn2.tokenizer import build_word_tokenizer

__all__ = [
    "Salmonn2AutoModel",
    "Salmonn2Config",
    "Salmonn2Model",
    "build_word_tokenizer",
    "load_checkpoint",
    "save_checkpoint",
]
