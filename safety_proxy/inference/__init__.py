"""CLIP: crops and prompts in, embeddings out, batched across requests."""
