"""BLEU, ROUGE-L, CIDEr, METEOR and SPICE, as the package pycocoevalcap computes them.

Knows that package, Java and what each needs. Refuses to know pictures, and how a caption becomes words
(`taglens.evaluation.caption_words`): texts come as words with a space between them. The first three are Python and
need no Java; METEOR is a Java program inside the package; SPICE is one that fetches more from its authors when it is
first used.

Figures are fractions: CIDEr is 1.0 where papers write 100, and at most 10.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from taglens.errors import MissingExtraError, UsageError

PACKAGE = "pycocoevalcap"
GRAMS = 4
_METEOR_JAR = "meteor-1.5.jar"


def require_scorers() -> None:
    """Raises MissingExtraError where the package is absent."""
    # The parts that are used, without the rest of the package and what that needs.
    if find_spec(PACKAGE) is None:
        raise MissingExtraError(PACKAGE, extra="eval", purpose="evaluating captions")


class CaptionMetrics:
    """Scores lists of captions; close it, or use it in a ``with``, since METEOR is a process of its own.

    Attributes:
        notes: what could not be computed, and why.

    Args:
        meteor: True: it must be there; None: where Java answers; False: no.
        spice: whether to compute it too.

    Raises:
        MissingExtraError: the package is absent.
        UsageError: METEOR or SPICE is asked for and does not work.
    """

    def __init__(self, *, meteor: bool | None = None, spice: bool = False) -> None:
        require_scorers()
        self.notes: list[str] = []
        self._required = meteor is True
        self._spice = spice
        self._meteor: _Meteor | None = None
        java = shutil.which("java")
        if java is None:
            asked = "METEOR" if meteor else "SPICE" if spice else None
            if asked is not None:
                raise UsageError(f"{asked} runs in Java, and there is no java to be found; install one")
            if meteor is None:
                self.notes.append("METEOR is left out: it runs in Java, and there is no java to be found")
        elif meteor is not False:
            self._meteor = _Meteor(java)
        # What was asked for is tried here, before someone writes captions for hours.
        if self._required:
            self._by_meteor([["a dog"]], ["a dog"])
        if spice:
            _by_spice({0: ["a dog"]}, {0: ["a dog"]})

    def __call__(
        self, references: Sequence[Sequence[str]], captions: Sequence[str]
    ) -> dict[str, float | None]:
        """The figures of one caption for each picture.

        Args:
            references: per picture one or more, none of them empty.
            captions: one for each picture; an empty one scores 0.

        Returns:
            Name -> figure; None where it is undefined (CIDEr of a single picture: words are weighed by how many
            pictures they tell apart) or could not be computed (see ``notes``).

        Raises:
            UsageError: no pictures, or METEOR or SPICE was asked for and works no longer.
        """
        if not captions or len(references) != len(captions):
            raise UsageError(
                f"{len(captions)} captions for {len(references)} pictures; expected one for each"
            )
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge

        truth = {number: list(texts) for number, texts in enumerate(references)}
        given = {number: [text] for number, text in enumerate(captions)}
        figures: dict[str, float | None] = {}
        bleus = Bleu(GRAMS).compute_score(truth, given, verbose=0)[0]
        figures |= {f"BLEU-{grams}": float(bleu) for grams, bleu in enumerate(bleus, 1)}
        figures["ROUGE-L"] = float(Rouge().compute_score(truth, given)[0])
        figures["CIDEr"] = float(Cider().compute_score(truth, given)[0]) if len(captions) > 1 else None
        figures["METEOR"] = self._by_meteor(references, captions)
        if self._spice:
            figures["SPICE"] = _by_spice(truth, given)
        return figures

    def close(self) -> None:
        if self._meteor is not None:
            self._meteor.close()
            self._meteor = None

    def __enter__(self) -> CaptionMetrics:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _by_meteor(self, references: Sequence[Sequence[str]], captions: Sequence[str]) -> float | None:
        if self._meteor is None:
            return None
        try:
            return self._meteor.score(references, captions)
        except (OSError, ValueError) as error:
            self.close()
            told = f"METEOR's Java program does not answer ({error})"
            if self._required:
                raise UsageError(f"{told}; leave --meteor out, or look what java says") from None
            self.notes.append(f"METEOR is left out: {told}")
            return None


class _Meteor:
    """The Java program, fed by lines: statistics of each caption, then one score of them all."""

    def __init__(self, java: str) -> None:
        self._command = [java, "-Xmx2G", "-jar", _METEOR_JAR, "-", "-", "-stdio", "-l", "en", "-norm"]
        self._process: subprocess.Popen[str] | None = None

    def score(self, references: Sequence[Sequence[str]], captions: Sequence[str]) -> float:
        """Raises OSError or ValueError when the program cannot be started or does not answer as it should."""
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        found = []
        for texts, caption in zip(references, captions, strict=True):
            line = _ask(process.stdin, process.stdout, " ||| ".join(("SCORE", *texts, caption)))
            # Other answers come from another program, which would be waited for in vain below.
            [float(number) for number in line.split()]
            found.append(line)
        first = _ask(process.stdin, process.stdout, " ||| ".join(("EVAL", *found)))
        # A score for each caption, then that of all together.
        *_, last = (float(first), *(float(_answer(process.stdout)) for _ in captions))
        return last

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            # Waits for it, and closes both pipes.
            self._process.communicate()
            self._process = None

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(  # noqa: S603 -- the program that was found by name
                self._command,
                cwd=_folder() / "meteor",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
            )
        return self._process


def _ask(to: IO[str], answers: IO[str], line: str) -> str:
    to.write(line + "\n")
    to.flush()
    return _answer(answers)


def _answer(answers: IO[str]) -> str:
    line = answers.readline().strip()
    if not line:
        raise ValueError("it ended")
    return line


def _folder() -> Path:
    spec = find_spec(PACKAGE)
    assert spec is not None and spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)))


def _by_spice(truth: dict[int, list[str]], given: dict[int, list[str]]) -> float:
    try:
        with _output_to_errors():
            from pycocoevalcap.spice.spice import Spice

            return float(Spice().compute_score(truth, given)[0])
    except (OSError, ImportError, subprocess.SubprocessError, json.JSONDecodeError) as error:
        raise UsageError(
            f"SPICE could not be computed ({error}): it is an old Java program (it was made for Java 8) that fetches "
            "its language models from nlp.stanford.edu when it is first used; leave --spice out"
        ) from None


@contextmanager
def _output_to_errors() -> Iterator[None]:
    """Standard output is for the report: what others print there, from Java too, goes to standard error."""
    sys.stdout.flush()
    kept: Any = sys.stdout
    number = os.dup(1)
    sys.stdout = sys.stderr
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(number, 1)
        os.close(number)
        sys.stdout = kept
