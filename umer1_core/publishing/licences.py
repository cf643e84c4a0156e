"""Where the terms of what a data set is made of are to be found.

Nothing here grants or states a licence: MMEB-train, LLaVA-Hound, ViDoRe and VisRAG collect data of many origins, and
what those allow is said by them. The notes point to the pages that do, so that a card never invents a licence.
"""

from __future__ import annotations

from collections.abc import Iterable

_COLLECTIONS = {
    "mmeb": "the page of `TIGER-Lab/MMEB-train` on the hub, and the original data set it took this subset from",
    "llava_hound": "the page of `ShareGPTVideo/train_video_and_instruction` on the hub, and the videos' origins",
    "vidore": "the page of `vidore/colpali_train_set` on the hub, and the data sets named in its column `source`",
    "visrag": "the page of `openbmb/VisRAG-Ret-Train-In-domain-data` on the hub, and the data set it is named for",
}
_OWN = "see the source's own terms"


def licence_notes(sources: Iterable[str]) -> list[tuple[str, str]]:
    """A line for each source, in order: its name and where to look."""
    return [(source, _COLLECTIONS.get(source.partition("/")[0], _OWN)) for source in sources]
