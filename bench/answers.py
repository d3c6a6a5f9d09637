"""Questions about pictures answered with tags and without (Tag2Text 1.10); made from Flickr8k's captions.

    python bench/answers.py --start DIR --shards DIR --questions FILE [--steps 1000] [--seeds 0] [--record]

The questions are what ``taglens questions`` makes from people's captions: what is in a picture, colours, doings,
numbers. They ask for what captions say, so that "no" often means that nobody mentioned it; they are no VQAv2. Arms:
    tags    the captioner learns to answer with recognised tags beside nine questions in ten
    untold  it never reads a tag, in training or afterwards
Told are VQAv2's accuracy on the validation pictures' questions, of all and per type, with the 95 % interval over
pictures: asked with recognised tags, without, and about another picture (what is known without looking); and what
answering by the most common answer to the same question gives. Needs the extra train.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from captions import interval
from common import record, shared
from guidance import AT_ONCE, Runs, add_arguments, configured, held_tokens
from taglens.data.questions import Question, read_questions
from taglens.evaluation.answers import accuracy, evaluate_answers
from taglens.inference.answering import Answering
from taglens.inference.caption_engines import TorchCaptionEngine
from taglens.inference.captioning import CaptionWriter
from taglens.inference.tagger import Tagger
from taglens.training.loop import Progress, run_steps
from taglens.training.text_data import GuideMix
from taglens.training.text_settings import Texts
from taglens.training.text_steps import Trainer
from taglens.training.text_tasks import Tag2Text

ARMS = {"tags": 0.1, "untold": 1.0}  # share of questions that is read without tags


class Exam:
    """The held-out questions, and how many of them a model answers as people did."""

    def __init__(
        self, runs: Runs, held: Sequence[Question], others: Sequence[Question], tagger: Tagger
    ) -> None:
        self._runs, self._others, self._tagger = runs, others, tagger
        places = {name: place for place, name in enumerate(runs.held_names)}
        self._asked: list[list[Question]] = [[] for _ in places]
        for each in held:
            self._asked[places[each.path.name]].append(each)
        folder = shared() / "data" / "flickr8k" / "images"
        rows = tagger.scores([folder / name for name in runs.held_names])
        self._scores = np.stack([scores for _, scores in rows if scores is not None])

    def __call__(self, model: Tag2Text, *, recognise: bool, shift: int = 0) -> dict[str, Any]:
        """Figures of all questions. ``shift``: ask about the picture so many places further."""
        captioner = replace_answers(model)
        writer = CaptionWriter(
            TorchCaptionEngine(captioner, device="cpu"),
            self._runs.reader.text,
            positions=captioner.config.positions,
            most_tags=captioner.config.most_tags,
            answers=True,
        )
        answer = Answering(writer, self._tagger.vocabulary, ref=self._tagger.ref, recognise=recognise)
        tokens = np.roll(held_tokens(model, self._runs.held, self._runs.config.loop.side), -shift, 0)
        scores = np.roll(self._scores, -shift, 0)
        given: list[str | None] = []
        for at in range(0, len(tokens), AT_ONCE):
            part = slice(at, at + AT_ONCE)
            asked = [[each.question for each in rows] for rows in self._asked[part]]
            given += [found.answer for each in answer(tokens[part], scores[part], asked) for found in each]
        flat = [each for rows in self._asked for each in rows]
        report = evaluate_answers(flat, given, others=self._others)
        of_picture: dict[str, list[float]] = defaultdict(list)
        for each, text in zip(flat, given, strict=True):
            of_picture[each.image].append(accuracy(text or "", each.answers or ()))
        blind = report.baselines["most_common_per_question"]
        return {
            "accuracy": round(report.figures.accuracy, 4),
            "accuracy_95": interval(np.array([np.mean(each) for each in of_picture.values()])),
            "per_type": {
                type: [n, round(share, 4)] for type, (n, share) in sorted(report.figures.per_type.items())
            },
            "distinct": report.distinct,
            "blind": round(blind.accuracy, 4),
            "blind_per_type": {type: round(share, 4) for type, (_, share) in sorted(blind.per_type.items())},
        }


def replace_answers(model: Tag2Text) -> Any:
    captioner = model.captioner.eval()
    captioner.config = replace(captioner.config, answers=True)
    return captioner


def taught(runs: Runs, arm: str, questions: Sequence[Question]) -> Tag2Text:
    """A model that learned to answer beside writing captions."""
    runs.reader.config = replace(runs.config, mix=GuideMix(parsed=0.5, none=ARMS[arm]))
    model, _ = runs.fresh(anew=False)
    streams = runs.reader.streams(runs.sources, Texts(questions=questions), runs.seen)
    trainer = Trainer(model, runs.reader, streams, runs.seen.views)

    def tell(progress: Progress) -> None:
        print(f"{arm} {progress.step}: {progress.losses}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        return run_steps(model, trainer.gradients, runs.config.loop, out=Path(folder), report=tell)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_arguments(parser, steps=1000, batch_size=128)
    parser.add_argument("--questions", type=Path, required=True, help="as taglens questions makes it")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    options = parser.parse_args()
    base = configured(options, only=("captioner",))
    runs = Runs(options.start, options.shards, base)
    train = read_questions(options.questions, split="train")
    held = read_questions(options.questions, split="val")
    exam = Exam(runs, held, train, Tagger.from_pretrained(options.recognised_by))
    for seed in options.seeds:
        runs.config = replace(base, loop=replace(base.loop, seed=seed))
        for arm in options.arms:
            started = time.perf_counter()
            model = taught(runs, arm, train)
            seconds = round(time.perf_counter() - started)
            ways = {"without tags": exam(model, recognise=False)}
            if arm == "tags":
                ways["with tags"] = exam(model, recognise=True)
                ways["another picture"] = exam(model, recognise=True, shift=1)
            settings = {
                "arm": arm,
                "seed": seed,
                "steps": options.steps,
                "batch_size": options.batch_size,
                "views": options.views,
                "questions": len(held),
                "threads": torch.get_num_threads(),
            }
            if options.record:
                record("answers", settings, {"ways": ways, "seconds": seconds})
            else:
                print(settings, ways, flush=True)


if __name__ == "__main__":
    main()
