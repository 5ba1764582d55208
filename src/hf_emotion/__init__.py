"""Multimodal emotion LLMs, native to transformers: a raw clip in, open-vocabulary emotions and the clues for them out.

Importing the package lets the Auto classes of transformers find its models, and does nothing else: torch, transformers
and the models themselves are loaded when a name of the package or an Auto class is first used.
"""

import lazy_loader

from .auto import register_at_first_use

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

register_at_first_use()
