"""The study's experiments: each compares variants of a model, and each variant is one run per random seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from vladva_kit.data.hard_batches import TWINS_AND_NEIGHBORS

LONG = "contrastive on long captions"
BASE, SOFT, LORA, BOTH, FULL = "base", "+ soft prompt", "+ LoRA", "+ both", "+ both + next-token"
CLIP, CLIP_TUNED, CLIP_FASTER = "emoji-clip", "emoji-clip, fine-tuned", "emoji-clip, fine-tuned, 5 x learning rate"
Mix = tuple[tuple[str, float], ...]  # proportions of a batch, as `Settings.batches`
RANDOM: Mix = (("random", 1.0),)
TWINS: Mix = (("groups", 0.5), ("random", 0.5))
MINED: Mix = (("mined", 0.75), ("random", 0.25))
DISTILLED = {  # batches with and without distillation; the first two hold no twins
    "random": {"batches": RANDOM, "n_groups": 0},
    "mined": {"batches": MINED, "n_groups": 0},
    "twins": {"batches": TWINS},
}
HARD: Mix = tuple(TWINS_AND_NEIGHBORS.items())
SMALL_BATCHES: Mix = (("groups", 0.25), ("mined", 0.5), ("random", 0.25))  # a group fits into a batch of 16
POOLS = (1_000, 10_000, 30_000)
CONTEXT_WEIGHTS = (0.3, 1.0)  # of the next-token loss in which a caption sees the summary token only
BATCH_SIZES = (16, 64, 256, 1024)
N_EQUALITY_IMAGES = 8  # test images on which the base and the model with its adapter off must agree bit for bit


@dataclass(frozen=True)
class Plan:
    """Training length and evaluation sizes of every run.

    Retrieval, Winoground and SugarCrepe always use all cases of the samples.
    """

    steps: int = 80
    batch_size: int = 64
    learning_rate: float = 1e-3
    soft_prompt_learning_rate: float = 0.05
    next_token_weight: float = 0.3
    clip_learning_rate: float = 1e-4
    bf16: bool = True  # autocast; a CPU without bfloat16 emulates it, slowly
    seeds: tuple[int, ...] = (0, 1, 2)  # of the components and of distillation
    sweep_seeds: tuple[int, ...] = (0,)  # of all other experiments
    n_generation_images: int = 100  # per style, for questions and captions
    n_probe_images: int = 200  # images and captions whose summary tokens are probed
    n_prompt_images: int = 300  # in the prompt study


@dataclass(frozen=True)
class Run:
    """One model and one seed. Experiments that contain an equal run share it."""

    model: str = "emoji-llava"
    seed: int | None = None  # None: not trained
    soft_prompt: bool = False
    lora_rank: int = 0  # 0: no LoRA
    next_token_weight: float = 0.0
    temperature: float = 0.07
    distill_weight: float = 0.0
    learn_temperature: bool = True
    captions: str = "short"  # captions of the contrastive loss: "short" or "long"
    batches: Mix = RANDOM
    swaps: tuple[str, ...] = ()  # train on groups of these swaps only; (): all
    hard_negatives: bool = False  # add captions with two words swapped as negatives
    n_scenes: int = 0  # train on as many drawn scenes instead of emoji_pairs; 0: emoji_pairs
    n_groups: int | None = None  # train on the first n groups of twins; None: all, 0: random pairs only
    steps: int = 0
    batch_size: int = 0
    learning_rate: float = 0.0
    soft_prompt_learning_rate: float = 0.0
    lora_weight: float = 1.0  # interpolation with the base after training
    bf16: bool = False
    n_generation_images: int = 0  # per style; 0: generation is not evaluated
    generate_adapter_off: bool = False  # also evaluate generation with the adapter off
    n_probe_images: int = 0  # 0: representations are not probed


@dataclass(frozen=True)
class Variant:
    """A row of a table: one model, trained with several seeds."""

    name: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Experiment:
    """Variants, and the pairs of them that are compared case by case."""

    name: str
    variants: tuple[Variant, ...]
    comparisons: tuple[tuple[str, str], ...]

    def runs(self) -> list[Run]:
        """All runs without duplicates, in the order of the variants."""
        return list(dict.fromkeys(run for variant in self.variants for run in variant.runs))


def experiment(name: str, plan: Plan = Plan()) -> Experiment:  # noqa: B008  frozen
    """Return an experiment by name: `experiment("components").variants[0].name == "emoji-clip"`.

    Raises ValueError for a name that is not in EXPERIMENTS.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment '{name}': choose one of {', '.join(EXPERIMENTS)}")
    if name in _COMPONENTS:
        variants = _components(plan, _COMPONENTS[name])
        names = {variant.name for variant in variants}
        return Experiment(name, tuple(variants), tuple(pair for pair in _COMPARISONS if names.issuperset(pair)))
    if name == "clip-steps":
        frozen, *tuned = _clip_steps(plan)
        return Experiment(name, (frozen, *tuned), tuple((CLIP, variant.name) for variant in tuned))
    seeds = plan.seeds if name.startswith("distillation") else plan.sweep_seeds
    sweep = [Variant(level, _sweep_runs(plan, changes, seeds)) for level, changes in _sweeps(plan)[name].items()]
    variants = [_base(plan), *sweep] if name in ("soft-prompt-rate", "twins", "swaps") else sweep
    names = [variant.name for variant in variants]
    return Experiment(name, tuple(variants), tuple(pairwise(names)))


_COMPONENTS = {"components": HARD, "components-random": RANDOM}  # experiment -> its batches
_CLIP_RATES = {"": 1, ", 5 x learning rate": 5}
_COMPARISONS = (
    (CLIP, CLIP_TUNED), (CLIP, CLIP_FASTER), (BASE, SOFT), (SOFT, LORA), (LORA, BOTH), (BOTH, FULL), (BASE, FULL),
    (BOTH, LONG), (BASE, LONG), (CLIP_TUNED, FULL), (CLIP_FASTER, FULL),
)  # fmt: skip


def trained(plan: Plan, seed: int, **changes: object) -> Run:
    """Return a run of the full method on hard batches, with changes: `trained(Plan(), seed=0, lora_rank=4)`."""
    full = Run(
        seed=seed, soft_prompt=True, lora_rank=16, next_token_weight=plan.next_token_weight, batches=HARD,
        steps=plan.steps, batch_size=plan.batch_size, learning_rate=plan.learning_rate,
        soft_prompt_learning_rate=plan.soft_prompt_learning_rate, bf16=plan.bf16,
        n_generation_images=plan.n_generation_images, n_probe_images=plan.n_probe_images,
    )  # fmt: skip
    return replace(full, **changes)


def _base(plan: Plan) -> Variant:
    run = Run(n_generation_images=plan.n_generation_images, n_probe_images=plan.n_probe_images)
    return Variant(BASE, (run,))


def _components(plan: Plan, batches: Mix) -> list[Variant]:
    # twins would meet in random batches by chance
    data = {"batches": batches} if batches == HARD else {"batches": batches, "n_groups": 0}

    def variant(name: str, **changes: object) -> Variant:
        return Variant(name, tuple(trained(plan, seed, **data, **changes) for seed in plan.seeds))

    embedding_only = {"n_generation_images": 0, "n_probe_images": 0}  # a soft prompt takes no part in generation
    clips = [
        Variant(CLIP, (Run(CLIP),)),
        *(
            Variant(name, tuple(_tuned_clip(plan, seed, rate, **data) for seed in plan.seeds))
            for name, rate in ((CLIP_TUNED, 1), (CLIP_FASTER, 5))
        ),
    ]
    parts = [
        variant(SOFT, lora_rank=0, next_token_weight=0.0, **embedding_only),
        variant(LORA, soft_prompt=False, next_token_weight=0.0, soft_prompt_learning_rate=0.0, **embedding_only),
    ]
    both = [variant(BOTH, next_token_weight=0.0), variant(FULL, generate_adapter_off=batches == HARD)]
    if batches == HARD:
        return [*clips, _base(plan), *parts, *both]
    # only pairs outside the groups have long captions
    long = variant(LONG, next_token_weight=0.0, captions="long", **embedding_only)
    return [*clips[:2], _base(plan), *both, long]


def _tuned_clip(plan: Plan, seed: int, rate: float, **changes: object) -> Run:
    """The CLIP, fine-tuned on the LVLM's batches with a multiple of the plan's learning rate."""
    changes = {"steps": plan.steps, "batches": HARD, **changes}
    return Run(CLIP, seed=seed, batch_size=plan.batch_size, learning_rate=rate * plan.clip_learning_rate, **changes)


def _clip_steps(plan: Plan) -> list[Variant]:
    """The CLIP on hard batches at both learning rates, for as many steps as the LVLM and for ten times as many."""
    levels = {
        f"{n} steps{title}": (n, rate) for n in (plan.steps, 10 * plan.steps) for title, rate in _CLIP_RATES.items()
    }
    tuned = [
        Variant(name, tuple(_tuned_clip(plan, seed, rate, steps=n) for seed in plan.sweep_seeds))
        for name, (n, rate) in levels.items()
    ]
    return [Variant(CLIP, (Run(CLIP),)), *tuned]


def _sweep_runs(plan: Plan, changes: dict[str, object], seeds: tuple[int, ...]) -> tuple[Run, ...]:
    """Runs with these changes to the full method. Without changes, they are the runs of `components`."""
    cheaper = {"n_generation_images": 0, "n_probe_images": 0, **changes} if changes else {"generate_adapter_off": True}
    return tuple(trained(plan, seed, **cheaper) for seed in seeds)


def _sweeps(plan: Plan) -> dict[str, dict[str, dict[str, object]]]:
    """Return the levels of each sweep, as changes to the full method; {} is the full method itself."""
    generation = {"n_generation_images": plan.n_generation_images}
    sizes = {**generation, "n_probe_images": plan.n_probe_images}
    soft_prompt = {"lora_rank": 0, "next_token_weight": 0.0, **sizes}
    random = {"batches": RANDOM, "n_groups": 0}  # of random pairs only: twins would meet by chance
    longer = {"next_token_weight": 0.0, "steps": 5 * plan.steps // 2, **random}
    seen = plan.steps * plan.batch_size
    return {
        "twins": {  # the share of twins in random batches; with share 0 they meet by chance
            "no twins in the data": random,
            **{
                f"{share:g} twins": {"batches": (("groups", share), ("random", 1 - share))}
                for share in (0.0, 0.125, 0.25, 0.5, 1.0)
            },
        },
        "swaps": {  # trained on one kind of twins, tested on all
            f"{swap} only": {"batches": (("groups", 0.5), ("random", 0.5)), "swaps": (swap,)}
            for swap in ("positions", "noun", "color", "size")
        },
        "pool": {  # no twins: nearest neighbors among more and more random scenes
            f"{n:,} scenes": {"n_scenes": n, "batches": (("mined", 0.75), ("random", 0.25))} for n in POOLS
        },
        "interpolation": {
            f"LoRA x {weight:g}": {"lora_weight": weight, **generation} if weight < 1 else {}
            for weight in (1.0, 0.8, 0.6, 0.4)
        },
        "next-token-weight": {
            f"weight {weight:g}": {} if weight == plan.next_token_weight else {"next_token_weight": weight, **sizes}
            for weight in (0.0, 0.3, 1.0, 3.0)
        },
        "batch-size": {  # at equal pairs seen, so larger batches take fewer steps
            f"batch {n}": {"batch_size": n, "steps": max(1, seen // n), "batches": SMALL_BATCHES}
            for n in sorted({*BATCH_SIZES, plan.batch_size})
        },
        "data-size": {f"{n} groups" if n else "all groups": {"n_groups": n} if n else {} for n in (40, 150, None)},
        "rank": {f"rank {rank}": {} if rank == 16 else {"lora_rank": rank} for rank in (1, 4, 16, 64)},
        "temperature": {
            **{f"fixed {value}": {"temperature": value, "learn_temperature": False} for value in (0.02, 0.05, 0.07)},
            "learned from 0.07": {},
        },
        "negatives": {
            "random batches": random,
            "+ swapped captions": {**random, "hard_negatives": True},
        },
        **{
            f"distillation-{name}": {
                f"{name}{title}": {**batches, "distill_weight": weight}
                for title, weight in (("", 0.0), (" + distillation", 1.0))
            }
            for name, batches in DISTILLED.items()
        },
        "soft-prompt-rate": {  # without LoRA
            f"learning rate {rate:g}": {**soft_prompt, "soft_prompt_learning_rate": rate}
            for rate in (0.1 * plan.learning_rate, plan.learning_rate, plan.soft_prompt_learning_rate)
        },
        "collapse": {"short captions": longer, "long captions": {**longer, "captions": "long"}},
    }


EXPERIMENTS = (*_COMPONENTS, "clip-steps", *_sweeps(Plan()))
