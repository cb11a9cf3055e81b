"""`safety-proxy demo`: what the proxy does, shown on sample pictures with the small model."""
