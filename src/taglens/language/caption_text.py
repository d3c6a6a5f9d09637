"""What a captioner reads and writes, as word pieces: tag lists, questions, captions and answers (Tag2Text 1.4, 1.10).

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

    def question(self, question: str, names: Iterable[str] = ()) -> Pieces:
        """A question and tag names behind it, [ENC] in front: what an answer is about (Tag2Text 1.10).

        The question goes first: where the length is short, tags are cut before it is.
        """
        return self.tags((asked(question), *names))

    def whole_question(self, question: str, names: Sequence[str] = ()) -> tuple[int, int]:
        """How many of the question's own pieces are read, and how many of the names, from the first, whole."""
        own = len(self.pieces.pieces(asked(question)))
        whole = self.whole_tags((asked(question), *names))
        return min(own, self.length - 2), max(whole - 1, 0)

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """What opens an answer: [DEC] alone.

        What follows it is never learned from captions, whose prompt is given: so one captioner writes both, and the
        prompt says which.
        """
        return (self.pieces.dec,)

    def answers(self, texts: Sequence[str]) -> list[Pieces]:
        """Whole answers, [DEC] in front, filled up to the longest of them: what training reads."""
        return self.captions(texts)

    def read_answer(self, ids: Sequence[int]) -> str:
        """Generated numbers, [DEC] and end mark included, to the answer's words."""
        return self.pieces.decode(ids)

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


def asked(question: str) -> str:
    """A question as models read it: single spaces, one question mark at its end, whether it came with one or not."""
    return " ".join(question.split()).rstrip("? ") + "?"
