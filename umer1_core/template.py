"""Every prompt, tag and special token, rendered and parsed in this one place.

Annotation prompt: UME-R1 appendix D, one template for queries and targets, so equal sides coincide.
Training prompt: UME-R1 section 3.2. Response form: `<think>…</think><answer>summary<gen_emb>`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ANNOTATION_PROMPT_VERSION = "appendix-d/1"
TRAINING_PROMPT_VERSION = "section-3.2/1"
CLEAN_VERSION = "clean/1"

DISC_EMB = "<disc_emb>"
GEN_EMB = "<gen_emb>"
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
BOX_OPEN, BOX_CLOSE = "<|begin_of_box|>", "<|end_of_box|>"

# Added to tokenizers as ordinary tokens: special ones vanish from decoded text, and with them the format check.
TEACHER_TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE, BOX_OPEN, BOX_CLOSE)
STUDENT_TAGS = (GEN_EMB, DISC_EMB)

ANNOTATION_PROMPT = (
    "The above input is a query/candidate for retrieval. Carefully examine and analyze the above input (which may "
    "include text, images, videos, or any combination). Identify and describe the key elements present in the input, "
    "such as the main topic, important entities, relationships, context, and any notable features or details that "
    "contribute to the overall meaning. Finally, synthesize your analysis and reflection into a single word or a "
    "concise sentence that best captures the essence of the input for retrieval purposes. If the input is a phrase or "
    "word, the summary is that word itself."
)
GENERATION_PROMPT = (
    "Represent the above input text, images, videos, or any combination of the three as embeddings. First output the "
    "thinking process in <think> </think> tags and then summarize the entire input in a word or sentence. Finally, "
    "use the <gen_emb> tag to represent the entire input."
)


@dataclass(frozen=True, slots=True)
class Response:
    """A completion taken apart. `problem` is empty when it has the form `<think>…</think><answer>…`."""

    reasoning: str
    answer: str
    summary: str
    problem: str = ""


def annotation_text(side_text: str) -> str:
    """The text part of the annotation request for a side; media parts stand before it."""
    text = side_text.strip()
    return f"{text}\n\n{ANNOTATION_PROMPT}" if text else ANNOTATION_PROMPT


def training_prompt(side_text: str) -> str:
    """The text part of the user turn in training and inference; media parts stand before it."""
    return f"{side_text.strip()}\n{DISC_EMB}\n{GENERATION_PROMPT}"


def training_response(reasoning: str, summary: str) -> str:
    """The assistant turn the student learns. `</answer>` is dropped, as in the released data."""
    return f"{THINK_OPEN}{reasoning.strip()}{THINK_CLOSE}{ANSWER_OPEN}{summary.strip()}\n{GEN_EMB}"


_FORM = re.compile(rf"\s*{THINK_OPEN}(.*?){THINK_CLOSE}\s*{ANSWER_OPEN}(.*?)(?:{ANSWER_CLOSE}\s*)?", re.DOTALL)
_TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)
_BOX = re.compile(rf"{re.escape(BOX_OPEN)}(.*?)(?:{re.escape(BOX_CLOSE)}|$)", re.DOTALL)


def parse_annotation(raw: str, truncated: bool = False) -> Response:
    """Take an annotator's completion apart, strictly: the whole text must have the form, each tag once.

    `truncated`: the server stopped at the token limit; an answer that is not closed is then incomplete.
    """
    match = _FORM.fullmatch(raw)
    if match is None:
        return Response("", "", "", _form_problem(raw))
    reasoning, answer = match.group(1).strip(), match.group(2)
    if any(tag in reasoning or tag in answer for tag in _TAGS):
        only_closed_early = not any(tag in reasoning + answer for tag in _TAGS[:3])
        return Response(reasoning, answer, "", "text_outside_tags" if only_closed_early else "nested_tags")
    if truncated and ANSWER_CLOSE not in raw:
        return Response(reasoning, answer, "", "truncated")
    summary = clean_summary(answer)
    problem = "empty_reasoning" if not reasoning else "empty_summary" if not summary else ""
    return Response(clean_reasoning(reasoning), answer.strip(), summary, problem)


def parse_rollout(raw: str) -> Response:
    """Take a student's completion apart: the annotation form followed by exactly one closing `<gen_emb>`."""
    body, marker, rest = raw.partition(GEN_EMB)
    if not marker:
        return Response("", "", "", "no_gen_emb")
    if rest.strip():
        return Response("", "", "", "text_after_gen_emb")
    return parse_annotation(body)


def clean_reasoning(reasoning: str) -> str:
    """Drop box tokens; everything else stays as written."""
    return reasoning.replace(BOX_OPEN, "").replace(BOX_CLOSE, "").strip()


def clean_summary(answer: str) -> str:
    """The boxed text when there is a box, otherwise the first line that is not empty."""
    box = _BOX.search(answer)
    text = box.group(1) if box else answer
    lines = (line.strip() for line in text.replace(BOX_CLOSE, "").splitlines())
    return next((line for line in lines if line), "")


def _form_problem(raw: str) -> str:
    stripped = raw.lstrip()
    if not stripped:
        return "empty_completion"
    if not stripped.startswith(THINK_OPEN):
        return "no_think"
    if THINK_CLOSE not in raw:
        return "unclosed_think"
    if ANSWER_OPEN not in raw:
        return "no_answer"
    return "text_outside_tags"
