"""Keep, approve and serve many versioned LoRA adapters on one base model."""

__version__ = "0.1.0"
__all__ = ["__version__"]
