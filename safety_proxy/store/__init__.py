"""What is known already: verdicts by digest, and digests that need no model."""
