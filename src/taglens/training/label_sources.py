"""What labels are worth: one small classifier, taught by each source of labels in turn, tested on people's labels.

TagLLM's downstream protocol (PAPERS 4.6 and L7) for whoever has an encoder and no days to train one: the encoder
stands still, its features of every picture are made once (`taglens.training.label_trials`), and only a head over
them is trained, the same way for every source: asymmetric loss, AdamW, one cycle of the rate, averaged weights, a
fixed number of epochs. Nothing is chosen on the test pictures.

Knows arrays. Refuses to know files, vocabularies and where labels come from.
Shapes: N training pictures, M test pictures, C classes, K features, S seeds, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from taglens.errors import UsageError
from taglens.evaluation.metrics import (
    PrecisionRecall,
    average_precisions,
    evaluable,
    mean_average_precision,
    precision_recall,
)
from taglens.evaluation.thresholds import best_uniform_threshold
from taglens.training.losses import asymmetric_loss

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.bool_]

# One training picture of so many decides where scores are cut, and teaches nothing else.
_HELD_OUT = 10


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a head is trained; the same for all sources.

    Attributes:
        hidden: width of a layer between features and classes; 0: there is none.
        rate: the highest of the cycle.
        averaging: of the weights that are kept, so much of the last step's average stays; early steps keep less.
        gamma_negative, shift: of the asymmetric loss.

    Raises:
        UsageError: a value outside its range.
    """

    epochs: int = 30
    batch_size: int = 64
    rate: float = 3e-3
    weight_decay: float = 1e-2
    hidden: int = 256
    averaging: float = 0.99
    gamma_negative: float = 4.0
    shift: float = 0.05

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.hidden < 0:
            raise UsageError(
                f"epochs and pictures a step must be 1 or more and a hidden width 0 or more; came {self.epochs}, "
                f"{self.batch_size} and {self.hidden}"
            )
        if not (self.rate > 0 and self.weight_decay >= 0 and 0 <= self.averaging < 1):
            raise UsageError(
                f"expected a rate above 0, weight decay of 0 or more and averaging from 0 up to, but not, 1; came "
                f"{self.rate}, {self.weight_decay} and {self.averaging}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """A trained head: features [n, K] to probabilities [n, C].

    Attributes:
        threshold: where its scores are cut, found on training pictures that taught it nothing, by its own source's
            labels.
    """

    middle: Array
    scale: Array
    head: nn.Module
    threshold: float

    def __call__(self, features: Array) -> Array:
        with torch.no_grad():
            logits = self.head(torch.from_numpy((features - self.middle) / self.scale))
        scores: Array = torch.sigmoid(logits).numpy()
        return scores


def train_classifier(
    features: Array, labels: Labels, *, recipe: Recipe | None = None, seed: int = 0
) -> Classifier:
    """A head that says what ``labels`` say, as far as ``features`` show it.

    Args:
        features: [N, K]; labels: [N, C], False: absent.
        seed: of the first weights, the order of pictures, and which of them only decide the threshold.

    Raises:
        UsageError: shapes that do not fit, features that are not finite, or fewer than 20 pictures.
    """
    recipe = recipe or Recipe()
    _require(features, labels, least=2 * _HELD_OUT)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(features), generator=generator).numpy()
    held, taught = drawn[::_HELD_OUT], np.sort(np.delete(drawn, np.s_[::_HELD_OUT]))
    middle = features[taught].mean(axis=0, keepdims=True)
    # A feature that never changes says nothing and must not be blown up either.
    scale = np.maximum(features[taught].std(axis=0, keepdims=True), np.float32(1e-4))
    x = torch.from_numpy((features[taught] - middle) / scale)
    y = torch.from_numpy(labels[taught].astype(np.float32))
    # First weights and what is dropped are the seed's own, whatever was drawn before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = _trained(x, y, recipe, generator)
    trained = Classifier(middle, scale, head, 0.5)
    threshold = best_uniform_threshold(trained(features[held]), labels[held])
    return Classifier(middle, scale, head, threshold)


def _trained(x: torch.Tensor, y: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> nn.Module:
    """A head after all its steps on x [N, K] and y [N, C], in eval mode."""
    head = _head(x.shape[1], y.shape[1], recipe.hidden)
    averaged = {name: value.detach().clone() for name, value in head.state_dict().items()}
    optimizer = torch.optim.AdamW(head.parameters(), recipe.rate, weight_decay=recipe.weight_decay)
    batches = math.ceil(len(x) / recipe.batch_size)
    # Fewer than this many steps leave a cycle without a rise.
    steps = max(recipe.epochs * batches, 4)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps)
    step = 0
    while step < steps:
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, min(len(x), (steps - step) * recipe.batch_size), recipe.batch_size):
            batch = order[start : start + recipe.batch_size]
            loss = asymmetric_loss(
                head(x[batch]),
                y[batch],
                torch.ones_like(y[batch]),
                gamma_negative=recipe.gamma_negative,
                shift=recipe.shift,
            )
            optimizer.zero_grad()
            loss.sum(1).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            cycle.step()
            step += 1
            kept = min(recipe.averaging, step / (10 + step))
            for name, value in head.state_dict().items():
                averaged[name].lerp_(value, 1 - kept)
    head.load_state_dict(averaged)
    head.eval()
    return head


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What the classifiers of one source say of the test pictures.

    Attributes:
        scores: [S, M, C], probabilities.
        given: [S, M, C], the classes whose score reaches the classifier's threshold.
    """

    scores: Array
    given: Labels

    @classmethod
    def joined(cls, parts: Sequence[Scored]) -> Scored:
        """Of several parts of the test pictures, one after another: with folds every picture is tested once."""
        return cls(
            np.concatenate([part.scores for part in parts], axis=1),
            np.concatenate([part.given for part in parts], axis=1),
        )


def taught(
    features: Array,
    labels: Labels,
    test: Array,
    *,
    recipe: Recipe | None = None,
    seeds: Sequence[int] = (0, 1, 2),
) -> Scored:
    """A classifier a seed, taught by one source, on the test pictures' features [M, K]. Raises as above."""
    if not seeds or test.ndim != 2 or test.shape[1] != features.shape[1]:
        raise UsageError(
            f"expected a seed or more and test features [M, {features.shape[1]}], found {len(seeds)} seeds and "
            f"{test.shape}"
        )
    scores, given = [], []
    for seed in seeds:
        classifier = train_classifier(features, labels, recipe=recipe, seed=seed)
        scores.append(classifier(test))
        given.append(scores[-1] >= np.float32(classifier.threshold))
    return Scored(np.stack(scores), np.stack(given))


def crosswise(
    features: Array,
    labels: Labels,
    *,
    folds: int = 4,
    recipe: Recipe | None = None,
    seeds: Sequence[int] = (0, 1, 2),
) -> Scored:
    """As `taught`, where there are no test pictures of their own: each N-th of the pictures by the others' head.

    Picture n is of fold ``n % folds``; the result is in the pictures' order.

    Raises:
        UsageError: fewer than two folds, or too few pictures.
    """
    if folds < 2:
        raise UsageError(f"{folds} folds: expected 2 or more")
    fold = np.arange(len(features)) % folds
    joined = Scored.joined(
        [
            taught(
                features[fold != each],
                labels[fold != each],
                features[fold == each],
                recipe=recipe,
                seeds=seeds,
            )
            for each in range(folds)
        ]
    )
    back = np.argsort(np.argsort(fold, kind="stable"), kind="stable")
    return Scored(joined.scores[:, back], joined.given[:, back])


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, and between which two lie 95 of 100 resamples of the test pictures, their median moved to it."""

    value: float
    low: float
    high: float

    def to_list(self) -> list[float | None]:
        return [_rounded(each) for each in (self.value, self.low, self.high)]


@dataclass(frozen=True, slots=True)
class Worth:
    """One source.

    Attributes:
        quality: its labels of the training pictures against people's of the same.
        labels_per_picture: that it gave.
        tested: its classifiers' decisions on the test pictures, a mean over seeds.
        mean_precision: mAP of its classifiers, a mean over seeds; deviation: over seeds.
        of_human: that as a share of what people's labels reach.
        gap_closed: (it - the best baseline) / (people - the best baseline); None without a baseline, and where
            people's labels teach no more than the baseline's.
    """

    quality: PrecisionRecall
    labels_per_picture: float
    tested: PrecisionRecall
    mean_precision: Interval
    deviation: float
    of_human: Interval
    gap_closed: Interval | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "quality": _figures(self.quality),
            "labels_per_picture": _rounded(self.labels_per_picture),
            "tested": _figures(self.tested),
            "mAP": self.mean_precision.to_list(),
            "mAP_deviation": _rounded(self.deviation),
            "of_human": self.of_human.to_list(),
            "gap_closed": None if self.gap_closed is None else self.gap_closed.to_list(),
        }


@dataclass(frozen=True, slots=True)
class Judged:
    """All sources on the same pictures.

    Attributes:
        classes: that the test pictures can tell apart: with a positive and a negative among them.
        baseline: the best of the baselines by mAP; None without any.
    """

    pictures: int
    tested: int
    classes: int
    baseline: str | None
    sources: Mapping[str, Worth]

    def to_dict(self) -> dict[str, Any]:
        return {
            "pictures": self.pictures,
            "tested": self.tested,
            "classes": self.classes,
            "baseline": self.baseline,
            "sources": {name: worth.to_dict() for name, worth in self.sources.items()},
        }


def judge(
    scored: Mapping[str, Scored],
    labels: Mapping[str, Labels],
    truth: Labels,
    *,
    human: str = "human",
    baselines: Sequence[str] = (),
    resamples: int = 300,
    seed: int = 0,
) -> Judged:
    """Every source against people's labels; resamples of the test pictures are the same ones for all.

    Args:
        scored: source -> what its classifiers say of the test pictures.
        labels: source -> its labels of the training pictures [N, C]; those of ``human`` are the truth there.
        truth: of the test pictures [M, C].
        baselines: sources of which the best one is where the gap begins.
        resamples: for the intervals; 2 or more. Those in which no class can be told apart are left out.

    Raises:
        UsageError: sources that are not in both, a human or baseline that is no source, shapes that do not fit, or
            a test without any class that has positives and negatives.
    """
    if scored.keys() != labels.keys() or human not in scored or not set(baselines) <= scored.keys() - {human}:
        raise UsageError(
            f"expected the same sources in both, {human!r} and the baselines {list(baselines)} among them; found "
            f"{sorted(scored)} and {sorted(labels)}"
        )
    wrong = [name for name, each in scored.items() if each.scores.shape[1:] != truth.shape]
    if wrong or resamples < 2:
        raise UsageError(
            f"expected scores of {truth.shape} and 2 resamples or more; of another shape: {wrong}; resamples: "
            f"{resamples}"
        )
    whole = truth.astype(np.uint8)
    if not evaluable(whole).any():
        raise UsageError("no class has positives and negatives among the test pictures: test on more of them")
    # Resamples in the outer loop: each is drawn once, and all sources see it.
    chance = np.random.default_rng(seed)
    draws = [chance.integers(len(truth), size=len(truth)) for _ in range(resamples)]
    # Of few pictures some draws hold no class with positives and negatives, and have no figure.
    draws = [draw for draw in draws if evaluable(whole[draw]).any()]
    means = {name: _mean_over_seeds(each.scores, whole) for name, each in scored.items()}
    spread = {
        name: np.array([_mean_over_seeds(each.scores[:, draw], whole[draw]) for draw in draws])
        for name, each in scored.items()
    }
    best = max(baselines, key=means.__getitem__) if baselines else None
    found = {}
    for name, each in scored.items():
        per_seed = [mean_average_precision(scores, whole) for scores in each.scores]
        gap = None
        if best is not None and means[human] > means[best]:
            with np.errstate(divide="ignore", invalid="ignore"):
                shares = (spread[name] - spread[best]) / (spread[human] - spread[best])
            # A resample in which people's labels teach no more than the baseline's has no gap.
            shares = shares[spread[human] > spread[best]]
            gap = _interval((means[name] - means[best]) / (means[human] - means[best]), shares)
        found[name] = Worth(
            precision_recall(labels[name], labels[human].astype(np.uint8)),
            float(labels[name].sum(axis=1).mean()),
            _mean_figures([precision_recall(given, whole) for given in each.given]),
            _interval(means[name], spread[name]),
            float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else 0.0,
            _interval(means[name] / means[human], spread[name] / spread[human]),
            gap,
        )
    return Judged(len(labels[human]), len(truth), int(evaluable(whole).sum()), best, found)


def _mean_over_seeds(scores: Array, truth: npt.NDArray[np.uint8]) -> float:
    """mAP of [S, M, C], a mean over seeds: one sort for all of them."""
    keep = evaluable(truth)
    seeds, pictures, _ = scores.shape
    wide = scores[:, :, keep].transpose(1, 0, 2).reshape(pictures, -1)
    return float(average_precisions(wide, np.tile(truth[:, keep], (1, seeds))).mean())


def _interval(value: float, spread: npt.NDArray[np.float64]) -> Interval:
    if not len(spread):
        return Interval(value, math.nan, math.nan)
    low, middle, high = np.quantile(spread, [0.025, 0.5, 0.975])
    # A picture that a resample holds twice stands twice at its rank, which lifts every average precision a little:
    # the interval is moved back to the figure of the pictures themselves.
    return Interval(value, float(low - middle + value), float(high - middle + value))


def _mean_figures(found: Sequence[PrecisionRecall]) -> PrecisionRecall:
    names = [field.name for field in fields(PrecisionRecall)]
    return PrecisionRecall(**{name: float(np.mean([getattr(one, name) for one in found])) for name in names})


def _figures(found: PrecisionRecall) -> dict[str, float | None]:
    return {
        "OP": _rounded(found.overall_precision),
        "OR": _rounded(found.overall_recall),
        "OF1": _rounded(found.overall_f1),
        "CP": _rounded(found.class_precision),
        "CR": _rounded(found.class_recall),
        "CF1": _rounded(found.class_f1),
    }


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _head(inputs: int, classes: int, hidden: int) -> nn.Module:
    last = nn.Linear(hidden or inputs, classes)
    if not hidden:
        return nn.Sequential(last)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(0.2), last)


def _require(features: Array, labels: Labels, *, least: int) -> None:
    if features.ndim != 2 or labels.ndim != 2 or len(features) != len(labels):
        raise UsageError(
            f"expected features [N, K] and labels [N, C], found {features.shape} and {labels.shape}"
        )
    if len(features) < least:
        raise UsageError(f"{len(features)} pictures teach no classifier: expected {least} or more")
    if not np.isfinite(features).all():
        raise UsageError("features are not finite: the model that made them is damaged")
