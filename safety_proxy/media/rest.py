"""What a file holds beside the picture that it is."""

from dataclasses import dataclass

from safety_proxy.media.window import Spliced, Window


@dataclass(frozen=True, slots=True)
class Rest:
    """Bytes that no browser shows.

    where: for people. is_tail: they follow the end of the picture.
    patches: offsets, and the bytes to be put there; with them `window` is the whole file, of which
        another picture is shown so. Without, pictures may begin anywhere in it.
    """

    where: str
    window: Window
    is_tail: bool = False
    patches: tuple[tuple[int, bytes], ...] = ()

    def patched(self) -> Window:
        """A copy of the bytes with the patches in their places."""
        pieces: list[Window | bytes] = []
        at = 0
        for offset, patch in sorted(self.patches):
            pieces += [self.window.part(at, offset), patch]
            at = offset + len(patch)
        return Window(Spliced([*pieces, self.window.part(at)]).read())
