"""Published engines' own verification code as samplers, run without a GPU. Nothing of theirs is copied or imported
before an adapter is made.
"""

from specsim.verification.engines.huggingface import HuggingFace
from specsim.verification.engines.sglang import SGLangChain

__all__ = ["HuggingFace", "SGLangChain"]
