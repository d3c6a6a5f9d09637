"""What a captioner reads and writes, as word pieces: tag lists, the prompt, captions (Tag2Text 1.4).

Knows the words around the numbers; the network that reads them is `taglens.models.captioner`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from taglens.language.wordpiece import Pieces, WordPiece

PROMPT = "a picture of "
SEPARATOR = " | "
LENGTH = 40  # pieces of a tag list, and of a caption to learn from (Tag2Text 1.4)


class CaptionText:
    """The texts of one captioner, cut by its word pieces.

    Args:
        pieces: the tokenizer.
        prompt: how every caption begins; read with it, left out of what is told.
        length: pieces to which tag lists are cut or filled up.
    """

    def __init__(self, pieces: WordPiece, *, prompt: str = PROMPT, length: int = LENGTH) -> None:
        self.pieces = pieces
        self.prompt = prompt
        self.length = length
        # The end mark is the caption's to write.
        self.prompt_ids = (pieces.dec, *pieces.ids(prompt)[1:-1])

    def tags(self, names: Iterable[str]) -> Pieces:
        """Tag names in their order, [ENC] in front; what is beyond the length is not read."""
        found = self.pieces.encode(SEPARATOR.join(names), self.length)
        return Pieces((self.pieces.enc, *found.ids[1:]), found.mask)

    def whole_tags(self, names: Sequence[str]) -> int:
        """How many of the names, from the first, fit into the length whole."""
        room = self.length - 2
        for number, name in enumerate(names):
            room -= len(self.pieces.pieces((SEPARATOR if number else "") + name))
            if room < 0:
                return number
        return len(names)

    def captions(self, texts: Sequence[str]) -> list[Pieces]:
        """Whole captions, prompt included, [DEC] in front, filled up to the longest of them: what training reads."""
        cut = [self.pieces.ids(text, longest=self.length) for text in texts]
        width = max(map(len, cut), default=0)
        return [
            Pieces(
                (self.pieces.dec, *ids[1:], *[self.pieces.pad] * (width - len(ids))),
                (*[1] * len(ids), *[0] * (width - len(ids))),
            )
            for ids in cut
        ]

    def read(self, ids: Sequence[int]) -> str:
        """Generated numbers, prompt and end mark included, to the caption's own words.

        The prompt is cut off by its length in characters, as the published models do: decoding never changes it.
        """
        return self.pieces.decode(ids)[len(self.prompt) :]
