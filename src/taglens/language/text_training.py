"""Learns the text encoder from plain captions: words that keep the same company get near vectors.

Two tables are counted: which words stand right beside a word (kin that can replace each other: "corgi" and
"terrier"), and which share a caption with it (things seen together: "surfer" and "wave"). Both are turned into
positive pointwise mutual information and narrowed together to the encoder's width; then pieces of words are fitted
to the result, so that unknown words find a place by their spelling. No gradient, no chance: the same captions give
the same file.

Run ``python -m taglens.language.text_training --captions FILE... --out FILE`` to remake the shipped file.

Shape legend: W words, C context columns, L width, H buckets of pieces.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from taglens.errors import DataError
from taglens.language.neighbours import narrow, surprise
from taglens.language.text_encoder import Floats, Quantised, TextEncoder, pieces_of, words_of
from taglens.language.vocabulary_builder import read_captions


def learn(
    captions: Iterable[str],
    *,
    width: int = 192,
    words: int = 12_000,
    least: int = 4,
    contexts: int = 1_500,
    buckets: int = 8_192,
) -> TextEncoder:
    """The encoder of a corpus.

    Args:
        words, least: at most so many words, each met at least ``least`` times.
        contexts: the most frequent words that count as company, on each side and within the caption.

    Raises:
        DataError: fewer words than the width asked for.
    """
    kept = [words_of(caption) for caption in captions]
    counts = Counter(chain.from_iterable(kept))
    known = [word for word, count in counts.most_common(words) if count >= least]
    if len(known) < width:
        raise DataError(
            f"{len(known)} words stand at least {least} times in {len(kept)} captions: too few for {width} dimensions"
        )
    number = {word: row for row, word in enumerate(known)}
    tables = [surprise(table) for table in _company(kept, number, min(contexts, len(known)))]
    vectors = _centred(narrow(np.concatenate(tables, axis=1), width), [counts[word] for word in known])
    pieces = _pieces(known, vectors, buckets)
    share = np.array([counts[word] for word in known], np.float64)
    # A rare word's own row is noisy: it leans on what its spelling says.
    spelled = np.stack([pieces[pieces_of(word, buckets)].sum(axis=0) for word in known])
    trust = (share / (share + 2 * least))[:, None]
    vectors = (trust * vectors + (1 - trust) * spelled).astype(np.float32)
    weights = 1e-3 / (1e-3 + share / max(1, sum(counts.values())))
    return TextEncoder(tuple(known), Quantised.of(vectors), weights.astype(np.float32), Quantised.of(pieces))


def _company(kept: Sequence[Sequence[str]], number: dict[str, int], contexts: int) -> tuple[Floats, Floats]:
    """Counts of the words beside each word, [W, 2 C] left then right, and in its caption, [W, C]."""
    beside = np.zeros((len(number), 2 * contexts), np.float32)
    within = np.zeros((len(number), contexts), np.float32)
    for tokens in kept:
        rows = [number.get(token) for token in tokens]
        for i, row in enumerate(rows):
            if row is None:
                continue
            for step in (-2, -1, 1, 2):
                j = i + step
                if 0 <= j < len(rows) and (column := rows[j]) is not None and column < contexts:
                    beside[row, column + (contexts if step > 0 else 0)] += 1 / abs(step)
        present = sorted({row for row in rows if row is not None})
        columns = [row for row in present if row < contexts]
        within[np.ix_(present, columns)] += 1
    # A word is not its own company.
    own = np.arange(contexts)
    within[own, own] = 0
    return beside, within


def _centred(vectors: Floats, counts: Sequence[int]) -> Floats:
    """Without what all words share: the mean and the strongest direction, which say "frequent" and little else."""
    weight = np.sqrt(np.array(counts, np.float64))[:, None]
    centred = vectors - (vectors * weight).sum(axis=0) / weight.sum()
    _, directions = np.linalg.eigh((centred * weight).T @ centred)
    lead = directions[:, -1:]
    centred = centred - (centred @ lead) @ lead.T
    length = np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    return np.asarray(centred / length, np.float32)


def _pieces(known: Sequence[str], vectors: Floats, buckets: int, *, ridge: float = 2.0) -> Floats:
    """[H, L]: the piece vectors whose sums come nearest to the word vectors, by ridge regression in its dual form."""
    marks = np.zeros((len(known), buckets), np.float32)
    for row, word in enumerate(known):
        marks[row, pieces_of(word, buckets)] = 1
    gram = marks @ marks.T
    gram[np.diag_indices(len(known))] += ridge
    fitted: Floats = marks.T @ np.linalg.solve(gram, vectors)
    return fitted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--captions", type=Path, nargs="+", required=True)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    encoder = learn(
        chain.from_iterable(read_captions(path) for path in options.captions), width=options.width
    )
    encoder.save(options.out)
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}: {len(encoder.words):,} words, {encoder.width} wide, {size:.1f} MB")  # noqa: T201


if __name__ == "__main__":
    main()
