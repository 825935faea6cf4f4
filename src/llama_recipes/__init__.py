"""Fine-tune Llama models: right, fast and clear."""

__version__ = "0.1.0"
