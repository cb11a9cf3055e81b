"""Pure: embeddings, prompts and thresholds in, an action and its reasons out."""
