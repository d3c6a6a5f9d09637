"""The tagger's teacher: a recurrent network over the whole caption with a score for each pair of labels.

Knows word rows and labels; refuses to know files. Too slow to ship; ``tagger_training`` teaches the shipped
network with it. Needs torch.

Shape legend: B captions, T places, L labels, P pieces of a word.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from taglens.language.graphs import Example
from taglens.language.tagger import LABELS

Rows = Sequence[tuple[int, ...]]


class Teacher(nn.Module):
    """Bidirectional LSTM and a linear chain over the labels (a conditional random field)."""

    def __init__(
        self,
        words: int,
        pieces: int,
        neighbours: npt.NDArray[np.float32],
        *,
        width: int = 96,
        hidden: int = 128,
        drop: float = 0.4,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(words + 1, width, padding_idx=0)
        self.pieces = nn.Embedding(pieces + 1, width, padding_idx=0)
        for table in (self.words, self.pieces):
            nn.init.normal_(table.weight, std=0.1)
            table.weight.data[0] = 0.0
        self.neighbours = nn.Embedding(*neighbours.shape)
        self.neighbours.weight = nn.Parameter(torch.from_numpy(neighbours), requires_grad=False)
        self.project = nn.Linear(neighbours.shape[1], width)
        self.reader = nn.LSTM(width, hidden, 2, batch_first=True, bidirectional=True, dropout=drop)
        self.scores = nn.Linear(2 * hidden, len(LABELS))
        self.drop = nn.Dropout(drop)
        self.pairs = nn.Parameter(torch.zeros(len(LABELS), len(LABELS)))
        self.starts = nn.Parameter(torch.zeros(len(LABELS)))
        self.ends = nn.Parameter(torch.zeros(len(LABELS)))
        self.met: Tensor
        # Word -> how often labelled captions have it; set when training begins.
        self.register_buffer("met", torch.zeros(words + 1))

    def forward(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """[B, T, 1 + P] rows -> [B, T, L] scores of each label by itself."""
        word = rows[..., 0]
        seen = word
        if self.training:
            # As a word of later captions: known by its neighbours and pieces alone.
            seen = word * (torch.rand(word.shape) >= 3.0 / (3.0 + self.met[word]) * 0.5 + 0.05)
        # A word without a label of its own has a vector that nothing has taught.
        seen = seen * (self.met[word] > 0)
        x = self.words(seen) + self.pieces(rows[..., 1:]).sum(2) + self.project(self.neighbours(word))
        packed = nn.utils.rnn.pack_padded_sequence(
            self.drop(x), lengths, batch_first=True, enforce_sorted=False
        )
        read, _ = nn.utils.rnn.pad_packed_sequence(self.reader(packed)[0], batch_first=True)
        scores: Tensor = self.scores(self.drop(read))
        return scores

    def loss(self, scores: Tensor, labels: Tensor, present: Tensor) -> Tensor:
        """Minus the log-likelihood of [B, T] labels, a mean over tokens."""
        each = torch.arange(len(scores))
        path = self.starts[labels[:, 0]] + scores[each, 0, labels[:, 0]]
        total = self.starts + scores[:, 0]
        for t in range(1, scores.shape[1]):
            here = present[:, t]
            longer = torch.logsumexp(total[:, :, None] + self.pairs, 1) + scores[:, t]
            total = torch.where(here[:, None], longer, total)
            step = self.pairs[labels[:, t - 1], labels[:, t]] + scores[each, t, labels[:, t]]
            path = path + step * here
        path = path + self.ends[labels[each, present.sum(1) - 1]]
        return (torch.logsumexp(total + self.ends, 1) - path).sum() / present.sum()

    @torch.inference_mode()
    def shares(self, captions: Sequence[Rows]) -> Tensor:
        """[B, T, L]: how likely each label is for each token, given the whole caption; eval mode."""
        rows, present = _collate(captions)
        scores = self(rows, present.sum(1))
        size = scores.shape[1]
        forward, backward = [self.starts + scores[:, 0]], [torch.zeros_like(scores[:, 0])] * size
        for t in range(1, size):
            longer = torch.logsumexp(forward[-1][:, :, None] + self.pairs, 1) + scores[:, t]
            forward.append(torch.where(present[:, t, None], longer, forward[-1]))
        last = self.ends.expand_as(scores[:, 0])
        backward[size - 1] = last
        for t in range(size - 2, -1, -1):
            longer = torch.logsumexp(self.pairs + (scores[:, t + 1] + backward[t + 1])[:, None], 2)
            backward[t] = torch.where(present[:, t + 1, None], longer, last)
        return torch.softmax(torch.stack(forward, 1) + torch.stack(backward, 1), -1)


def _collate(captions: Sequence[Rows]) -> tuple[Tensor, Tensor]:
    rows = np.zeros((len(captions), max(map(len, captions)), len(captions[0][0])), np.int64)
    present = np.zeros(rows.shape[:2], np.bool_)
    for i, caption in enumerate(captions):
        rows[i, : len(caption)], present[i, : len(caption)] = caption, True
    return torch.from_numpy(rows), torch.from_numpy(present)


def fit_teacher(
    teacher: Teacher,
    epoch_of: Callable[[], Sequence[Example]],
    rows_of: Callable[[Sequence[str]], Rows],
    *,
    epochs: int,
    seed: int,
    lr: float = 2e-3,
    batch_size: int = 64,
    say: Callable[[str], None],
) -> None:
    """Learn from ``epoch_of()``, asked anew each epoch; AdamW, one cycle of the rate."""
    torch.manual_seed(seed)
    chance = random.Random(seed)
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=lr, weight_decay=0.01)
    steps = max(1, len(epoch_of()) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * steps, pct_start=0.1)
    for epoch in range(epochs):
        started, total = time.monotonic(), 0.0
        examples = [(rows_of(e.tokens), [LABELS.index(label) for label in e.labels]) for e in epoch_of()]
        if not epoch:
            for words, _ in examples:
                teacher.met.index_add_(0, torch.tensor([row[0] for row in words]), torch.ones(len(words)))
            teacher.met[0] = 0
        order = sorted(range(len(examples)), key=lambda i: len(examples[i][0]) + 3 * chance.random())
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        chance.shuffle(batches)
        teacher.train()
        for batch in batches[:steps]:
            rows, present = _collate([examples[i][0] for i in batch])
            labels = torch.zeros(present.shape, dtype=torch.long)
            labels[present] = torch.tensor([label for i in batch for label in examples[i][1]])
            loss = teacher.loss(teacher(rows, present.sum(1)), labels, present)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        say(
            f"teacher epoch {epoch + 1} of {epochs}, loss {total / steps:.4f}, {time.monotonic() - started:.0f} s"
        )
    teacher.eval()
