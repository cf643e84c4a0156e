"""Pairs of the world in words: what each side says, and what a perfect annotator would think and answer about it.

Guarantee: a side's `attributes` are exactly the attribute words of its perfect summary, in order, and every picture,
text and negative of a pair belongs to the split that was asked for.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from umer1_core.miniature import instructions as say
from umer1_core.miniature.world import (
    ATTRIBUTE_WORDS,
    Cell,
    Clip,
    Page,
    Picture,
    Scene,
    Split,
    Thing,
    change_scene,
    draw_clip,
    draw_page,
    draw_scene,
    things_of,
)

Kind = Literal["image", "question", "change", "text", "clip", "clip question", "page", "page question"]
KINDS: tuple[Kind, ...] = ("image", "question", "change", "text", "clip", "clip question", "page", "page question")


@dataclass(frozen=True, slots=True)
class SideSample:
    """A side as the annotator meets it (`text` without image tokens, `picture`) and its perfect annotation."""

    kind: Kind
    text: str
    picture: Picture | None
    thought: str
    summary: str

    @property
    def attributes(self) -> tuple[str, ...]:
        return named_attributes(self.summary)


@dataclass(frozen=True, slots=True)
class PairSample:
    """`content`: the upstream text that carries the meaning (caption, question, change), without its instruction."""

    source: str
    query: SideSample
    target: SideSample
    content: str = ""
    negative_text: str = ""


_WORDS = re.compile(r"\b(" + "|".join(sorted(ATTRIBUTE_WORDS, key=len, reverse=True)) + r")\b")


def named_attributes(text: str) -> tuple[str, ...]:
    """The attribute words in a text, in order; `top left` and `upper half` count as one."""
    return tuple(_WORDS.findall(text.lower()))


def draw_pair(rng: random.Random, split: Split, source: str) -> PairSample:
    """A fresh pair of a source, one of `PAIR_MAKERS`."""
    return PAIR_MAKERS[source](rng, split)


# -- phrases ---------------------------------------------------------------------------------------------------------


def thing_phrase(thing: Thing) -> str:
    return f"{thing.size} {thing.colour} {thing.shape} at the {thing.place}"


def scene_phrase(scene: Scene) -> str:
    return " and ".join(thing_phrase(t) for t in scene.things)


def clip_phrase(clip: Clip) -> str:
    return f"{clip.size} {clip.colour} {clip.shape} moving {clip.direction} in the {clip.lane}"


def cell_phrase(cell: Cell) -> str:
    return f"{cell.colour} {cell.shape} {cell.value}"


def page_phrase(page: Page) -> str:
    return f"{page.topic} page with " + " and ".join(cell_phrase(c) for c in page.cells)


def scene_caption(rng: random.Random, scene: Scene) -> str:
    listed = " and ".join(f"a {thing_phrase(t)}" for t in scene.things)
    opening = rng.choice(("There is {}.", "The picture shows {}.", "{}."))
    text = opening.format(listed)
    return text[0].upper() + text[1:]


def clip_caption(rng: random.Random, clip: Clip) -> str:
    name = f"{clip.size} {clip.colour} {clip.shape}"
    forms = (
        f"A {name} moves {clip.direction} in the {clip.lane} of the video.",
        f"The video shows a {name} moving {clip.direction} in the {clip.lane}.",
    )
    return rng.choice(forms)


# -- sides -----------------------------------------------------------------------------------------------------------


def image_side(instruction: str, scene: Scene, summary: str = "") -> SideSample:
    phrase = scene_phrase(scene)
    return SideSample("image", instruction, scene, f"The image shows {phrase}.", summary or phrase)


def clip_side(instruction: str, clip: Clip) -> SideSample:
    phrase = clip_phrase(clip)
    return SideSample("clip", instruction, clip, f"The video shows {phrase}.", phrase)


def page_side(instruction: str, page: Page) -> SideSample:
    phrase = page_phrase(page)
    return SideSample("page", instruction, page, f"The page shows {phrase}.", phrase)


def text_side(text: str, summary: str) -> SideSample:
    return SideSample("text", text, None, f"The text says {summary}.", summary)


# -- pairs -----------------------------------------------------------------------------------------------------------


def _i2t(rng: random.Random, split: Split) -> PairSample:
    scene = draw_scene(rng, split)
    caption = scene_caption(rng, scene)
    return PairSample("mmeb/MSCOCO_i2t", image_side(say.I2T, scene), text_side(caption, scene_phrase(scene)), caption)


def _t2i(rng: random.Random, split: Split) -> PairSample:
    scene = draw_scene(rng, split)
    caption = scene_caption(rng, scene)
    query = text_side(say.T2I + caption, scene_phrase(scene))
    return PairSample("mmeb/MSCOCO_t2i", query, image_side(say.IMAGE_TARGET, scene), caption)


def _classes(rng: random.Random, split: Split) -> PairSample:
    thing = rng.choice(things_of(split))
    name = f"{thing.size} {thing.colour} {thing.shape}"
    return PairSample("mmeb/ImageNet_1K", image_side(say.CLASSIFY, Scene((thing,)), name), text_side(name, name), name)


def _cirr(rng: random.Random, split: Split) -> PairSample:
    while True:
        scene = draw_scene(rng, split, most=2)
        changed = change_scene(rng, split, scene)
        if changed is not None:
            break
    before, after, new = changed
    change, phrase = _change_text(before, after), scene_phrase(new)
    becomes = f"The {before.colour} {before.shape} becomes {thing_phrase(after)}."
    thought = f"The image shows {scene_phrase(scene)}. {becomes}"
    query = SideSample("change", say.CHANGE + change, scene, thought, phrase)
    return PairSample("mmeb/CIRR", query, image_side(say.IMAGE_TARGET, new), change)


def _change_text(before: Thing, after: Thing) -> str:
    name = f"the {before.colour} {before.shape}"
    if before.colour != after.colour:
        return f"paint {name} {after.colour}"
    if before.shape != after.shape:
        return f"turn {name} into a {after.shape}"
    if before.size != after.size:
        return f"make {name} {after.size}"
    return f"move {name} to the {after.place}"


def _ok_vqa(rng: random.Random, split: Split) -> PairSample:
    scene = draw_scene(rng, split)
    thing = rng.choice(scene.things)
    name = f"{thing.size} {thing.colour} {thing.shape}"
    place = (f"What is at the {thing.place}?", f"At the {thing.place} is a {name}.", name)
    colours = " and ".join(t.colour for t in scene.things)
    shapes = " and ".join(f"{t.colour} {t.shape}" for t in scene.things)
    forms = [place, place, ("Which shapes can be seen?", f"The image shows {shapes}.", shapes)]
    if len(scene.things) > 1:
        forms.append(("Which colours can be seen?", f"The image shows {colours}.", colours))
    question, thought, answer = rng.choice(forms)
    other = _other_thing(rng, split, scene)
    wrong = f"{other.size} {other.colour} {other.shape}"
    return _question_pair("mmeb/OK-VQA", scene, question, thought, answer, wrong)


def _a_okvqa(rng: random.Random, split: Split) -> PairSample:
    scene = draw_scene(rng, split)
    thing = rng.choice(scene.things)
    answer = thing_phrase(thing)
    forms = (f"Where is the {thing.colour} {thing.shape}?", f"What is the {thing.colour} object?")
    wrong = thing_phrase(_other_thing(rng, split, scene))
    thought = f"The {thing.colour} object is a {answer}."
    return _question_pair("mmeb/A-OKVQA", scene, rng.choice(forms), thought, answer, wrong)


def _other_thing(rng: random.Random, split: Split, scene: Scene) -> Thing:
    """A thing of the split in a colour that the scene has not."""
    present = {t.colour for t in scene.things}
    return rng.choice([t for t in things_of(split) if t.colour not in present])


def _question_pair(source: str, scene: Scene, question: str, thought: str, answer: str, wrong: str) -> PairSample:
    query = SideSample("question", say.QUESTION + question, scene, thought, answer)
    return PairSample(source, query, text_side(answer, answer), question, wrong)


def _video_caption(rng: random.Random, split: Split) -> PairSample:
    clip = draw_clip(rng, split)
    prompt, caption = rng.choice(say.VIDEO_PROMPTS), clip_caption(rng, clip)
    return PairSample(
        "llava_hound/caption_retrieval", clip_side(prompt, clip), text_side(caption, clip_phrase(clip)), caption
    )


def video_retrieval(pair: PairSample) -> PairSample:
    """The other direction of a caption record: caption to clip."""
    query = text_side(say.VIDEO_QUERY + pair.content, pair.target.summary)
    clip = pair.query.picture
    assert isinstance(clip, Clip)
    return PairSample("llava_hound/video_retrieval", query, clip_side(say.VIDEO_TARGET, clip), pair.content)


def _video_retrieval(rng: random.Random, split: Split) -> PairSample:
    return video_retrieval(_video_caption(rng, split))


def _video_qa(rng: random.Random, split: Split) -> PairSample:
    clip = draw_clip(rng, split)
    name = f"{clip.size} {clip.colour} {clip.shape}"
    moving = (f"The {name} moves {clip.direction}.", f"{name} moving {clip.direction}")
    forms = (
        (f"Which way does the {clip.shape} move?", *moving),
        ("What is moving in the video?", f"It is a {name} in the {clip.lane}.", f"{name} in the {clip.lane}"),
        (f"What does the {clip.colour} object do?", *moving),
    )
    question, answer, summary = rng.choice(forms)
    query = SideSample("clip question", say.VIDEO_QUESTION + question, clip, f"The video shows {summary}.", summary)
    return PairSample("llava_hound/qa", query, text_side(answer, summary), question)


def _vidore(rng: random.Random, split: Split) -> PairSample:
    page = draw_page(rng, split)
    cell = rng.choice(page.cells)
    name, summary = f"{cell.colour} {cell.shape}", f"{page.topic} page with {cell_phrase(cell)}"
    question = f"What value does the {name} have?"
    if rng.random() < 0.3 and sum(c.value == cell.value for c in page.cells) == 1:
        question = f"Which entry has the value {cell.value}?"
    answer = f"On the {page.topic} page the {name} has the value {cell.value}."
    query = SideSample("page question", say.QUESTION + question, page, f"The page shows {page_phrase(page)}.", summary)
    return PairSample("vidore/colpali_train_set", query, text_side(answer, summary), question)


def _visrag(rng: random.Random, split: Split) -> PairSample:
    page, name = draw_page(rng, split), rng.choice(sorted(say.VISRAG_QUERY))
    cells = " and ".join(f"the {c.colour} {c.shape} with the value {c.value}" for c in page.cells)
    question = f"Which {page.topic} page lists {cells}?"
    query = text_side(say.VISRAG_QUERY[name] + question, page_phrase(page))
    return PairSample(f"visrag/{name}", query, page_side(say.VISRAG_TARGET[name], page), question)


PAIR_MAKERS: dict[str, Callable[[random.Random, Split], PairSample]] = {
    "mmeb/MSCOCO_i2t": _i2t,
    "mmeb/MSCOCO_t2i": _t2i,
    "mmeb/OK-VQA": _ok_vqa,
    "mmeb/A-OKVQA": _a_okvqa,
    "mmeb/CIRR": _cirr,
    "mmeb/ImageNet_1K": _classes,
    "llava_hound/caption_retrieval": _video_caption,
    "llava_hound/video_retrieval": _video_retrieval,
    "llava_hound/qa": _video_qa,
    "vidore/colpali_train_set": _vidore,
    "visrag": _visrag,
}
