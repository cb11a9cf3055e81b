"""What the scanner needs of a model; `clip.ClipEmbedder` is the one in this process."""

from collections.abc import Sequence
from typing import Protocol

from safety_proxy.crops import CropSpec, Float32Array, UInt8Array


class Embedder(Protocol):
    """A model with an image tower and a text tower. Its methods block and are not reentrant."""

    @property
    def fingerprint(self) -> str:
        """Names model, weights and precision; only embeddings with equal ones may be compared."""

    @property
    def crop_spec(self) -> CropSpec:
        """The input of the image tower."""

    @property
    def logit_scale(self) -> float:
        """Factor between a cosine and the logit that the model was trained with."""

    @property
    def logit_bias(self) -> float | None:
        """Added to the scaled cosine by models trained with a sigmoid (SigLIP); else None."""

    def embed_images(self, crops: Sequence[UInt8Array]) -> Float32Array:
        """Image embeddings, one row a crop, L2-normalized, finite.

        crops: N arrays (height, width, 3) uint8 RGB as `crop_spec` has them, N >= 1.
        Returns (N, D) float32. Raises EmbedderUnavailable if the model fails.
        """

    def embed_texts(self, texts: Sequence[str]) -> Float32Array:
        """Text embeddings, one row a text, L2-normalized, finite: (N, D) float32."""
