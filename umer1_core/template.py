"""Every prompt, tag and special token, rendered and parsed in this one place.

Annotation prompt: UME-R1 appendix D, one template for queries and targets, so equal sides coincide.
Training prompt: UME-R1 section 3.2. Response form: `<think>…</think><answer>summary<gen_emb>`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ANNOTATION_PROMPT_VERSION = "appendix-d/1"
TRAINING_PROMPT_VERSION = "section-3.2/1"
CLEAN_VERSION = "clean/2"

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


# Everything that `parse_annotation` can find wrong.
PROBLEMS = (
    "empty_completion",
    "no_think",
    "unclosed_think",
    "no_answer",
    "text_outside_tags",
    "nested_tags",
    "student_tags",
    "truncated",
    "empty_reasoning",
    "empty_summary",
)


@dataclass(frozen=True, slots=True)
class Response:
    """A completion taken apart. `problem` is empty when it has the form `<think>…</think><answer>…`.

    commentary: what stood in the answer beside the summary.
    """

    reasoning: str
    answer: str
    summary: str
    problem: str = ""
    commentary: str = ""


def annotation_text(side_text: str) -> str:
    """The text part of the annotation request for a side; media parts stand before it."""
    text = side_text.strip()
    return f"{text}\n\n{ANNOTATION_PROMPT}" if text else ANNOTATION_PROMPT


def training_prompt(side_text: str) -> str:
    """The text part of the user turn in training and inference; media parts stand before it."""
    return f"{side_text.strip()}\n{DISC_EMB}\n{GENERATION_PROMPT}"


def side_text_of_prompt(prompt: str) -> str:
    """The side's text in a user turn: the inverse of `training_prompt`, also in the other spellings that occur.

    Upstream writes one prompt in three ways (SFT; RL with a space before the line break; the demo with line breaks
    inside), and `<disc_emb>` alone for discriminative use. A turn that ends in none of them is its text as a whole.
    """
    text, marker, rest = prompt.rpartition(DISC_EMB)
    ends = marker and rest.split() in ([], GENERATION_PROMPT.split())
    return (text if ends else prompt).strip()


def training_response(reasoning: str, summary: str) -> str:
    """The assistant turn the student learns. `</answer>` is dropped, as in the released data."""
    return f"{THINK_OPEN}{reasoning.strip()}{THINK_CLOSE}{ANSWER_OPEN}{summary.strip()}\n{GEN_EMB}"


_ANSWER = re.compile(rf"\s*{ANSWER_OPEN}")
_TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)


def parse_annotation(raw: str, truncated: bool = False) -> Response:
    """Take an annotator's completion apart, strictly: the whole text must have the form, each tag once.

    `truncated`: the server stopped at the token limit; an answer that is not closed is then incomplete. Never raises;
    `problem` is one of PROBLEMS, the first that holds. Linear in the text's length, whatever it holds.
    """
    text = raw.strip()
    thought_end, answer_start = _turn(text) if text.startswith(THINK_OPEN) else (-1, -1)
    if thought_end < 0:
        return Response("", "", "", _form_problem(text))
    reasoning, answer = text[len(THINK_OPEN) : thought_end].strip(), text[answer_start:]
    closed = answer.endswith(ANSWER_CLOSE)
    answer = answer.removesuffix(ANSWER_CLOSE).strip()
    problem = _tag_problem(reasoning, answer)
    if problem or (truncated and not closed):
        return Response(reasoning, answer, "", problem or "truncated")
    summary, commentary = split_answer(answer)
    reasoning = clean_reasoning(reasoning)
    problem = "empty_reasoning" if not reasoning else "empty_summary" if not summary else ""
    return Response(reasoning, answer, summary, problem, commentary)


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


# Annotators explain their own summary: "(Condensed to …)", "This summary captures …" (UME-R1 appendices D and H).
_ABOUT_ITSELF = (
    r"(?:summar|essence|synthe|syncret|condens|interpret|retriev|captur|encapsulat|concise|key elements|alternativ"
    r"|simplif|shorten|rephras|paraphras|note\b|explanation)"
)
_ASIDE = re.compile(_ABOUT_ITSELF, re.IGNORECASE)
_SENTENCE = re.compile(
    r"[.!?][\"'”’)*]*\s+[\"'“‘(*]*(?=(?:(?:this|the|it|these|here|i|my|in)\s+(?:\w+\s+){0,2}?"
    rf"{_ABOUT_ITSELF}|(?:note|explanation|reasoning|rationale|alternatively|summary)\b))",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"[*_#>\s]*(?:(?:final|concise|one-sentence)\s+)?(?:summary|essence)\s*[*_]*:[*_\s]*", re.IGNORECASE
)
_EMPHASIS = re.compile(r"(\*\*|__)([^*_]+)\1")


def split_answer(answer: str) -> tuple[str, str]:
    """The summary, on one line, and the commentary: what else the answer says.

    The summary is the boxed text where there is a box, and of that the first line that is not empty, without a label
    ("Summary:"), emphasis around it, and what follows only to explain the summary: an aside in brackets at its end,
    sentences after it. Box tokens are in neither.
    """
    before, boxed, after = _box(answer)
    lines = [line.strip() for line in boxed.splitlines()]
    lines = [line for line in lines if line[_label_end(line) :]]
    if not lines:
        return "", ""
    line = lines[0][_label_end(lines[0]) :]
    end = _summary_end(line)
    summary = _plain(line[:end])
    rest = [before, line[end:], *lines[1:], after]
    said = (" ".join(part.split()) for part in rest)
    # The same words once more, in a box or beside it, explain nothing.
    return summary, "\n".join(part for part in said if part and _plain(part).rstrip(".") != summary.rstrip("."))


def _box(answer: str) -> tuple[str, str, str]:
    """What stands before, in and after the first box that is not empty; without one, all of it is the middle."""
    opened = answer.find(BOX_OPEN)
    while opened >= 0:
        start = opened + len(BOX_OPEN)
        end = answer.find(BOX_CLOSE, start)
        inside = _boxless(answer[start : len(answer) if end < 0 else end])
        if inside.strip():
            return _boxless(answer[:opened]), inside, "" if end < 0 else _boxless(answer[end:])
        opened = answer.find(BOX_OPEN, start) if end >= 0 else -1
    return "", _boxless(answer), ""


def _boxless(text: str) -> str:
    return text.replace(BOX_OPEN, "").replace(BOX_CLOSE, "")


def _label_end(line: str) -> int:
    label = _LABEL.match(line) if ":" in line else None
    return label.end() if label else 0


def _summary_end(line: str) -> int:
    """Where the part of a line ends that is no commentary on the rest."""
    sentence = _SENTENCE.search(line)
    end = len(line[: sentence.start() + 1 if sentence else len(line)].rstrip())
    opened = _last_bracket(line[:end].rstrip(".* "))
    aside = opened > 0 and _ASIDE.search(line, opened, end)
    return len(line[:opened].rstrip()) if aside else end


def _last_bracket(line: str) -> int:
    """Where the bracket opens that closes at the very end; -1 where none does."""
    if not line.endswith(")"):
        return -1
    depth = 0
    for place in range(len(line) - 1, -1, -1):
        depth += (line[place] == ")") - (line[place] == "(")
        if depth == 0:
            return place
    return -1


def _plain(line: str) -> str:
    """Without emphasis around the whole of it."""
    emphasis = _EMPHASIS.fullmatch(line.strip())
    return (emphasis.group(2) if emphasis else line).strip()


def _turn(text: str) -> tuple[int, int]:
    """Where the thought ends that an answer follows, and where the answer starts; -1 where there is none."""
    closed = text.find(THINK_CLOSE)
    while closed >= 0:
        after = closed + len(THINK_CLOSE)
        if answer := _ANSWER.match(text, after):
            return closed, answer.end()
        closed = text.find(THINK_CLOSE, after)
    return -1, -1


def _tag_problem(reasoning: str, answer: str) -> str:
    if any(tag in reasoning or tag in answer for tag in _TAGS):
        only_closed_early = not any(tag in reasoning or tag in answer for tag in _TAGS[:3])
        return "text_outside_tags" if only_closed_early else "nested_tags"
    if any(tag in reasoning or tag in answer for tag in STUDENT_TAGS):
        return "student_tags"
    return ""


def _form_problem(text: str) -> str:
    """What keeps a stripped text from having the form, where it does not even have its two parts."""
    if not text:
        return "empty_completion"
    if not text.startswith(THINK_OPEN):
        return "no_think"
    if THINK_CLOSE not in text:
        return "unclosed_think"
    if ANSWER_OPEN not in text:
        return "no_answer"
    return "text_outside_tags"
