"""What was published about the data behind UME-R1: rows of each source, and how many of them its authors kept.

From the hub's own tables and the released file (section 2 and appendix D). Upstream rounds most counts of MMEB-train:
`exact` says which are to the row. `released` mixes what the filters dropped with tails cut off whole blocks of 64.
"""

from __future__ import annotations

from dataclasses import dataclass

MMEB_DRAW = 50_000  # pairs UME-R1 takes of an MMEB subset at most
ROUNDED = 0.03  # how far a rounded count may be off

_MMEB = {
    "ImageNet_1K": (100_000, 44_861),
    "N24News": (49_000, 42_007),
    "HatefulMemes": (8_500, 7_619),
    "VOC2007": (7_850, 7_742),
    "SUN397": (19_850, 19_369),
    "OK-VQA": (9_000, 8_192),
    "A-OKVQA": (17_100, 15_750),
    "DocVQA": (39_450, 37_556),
    "InfographicsVQA": (23_950, 21_248),
    "ChartQA": (28_300, 25_844),
    "Visual7W": (70_000, 45_716),
    "VisDial": (123_500, 40_320),
    "CIRR": (26_100, 22_848),
    "VisualNews_t2i": (100_000, 40_959),
    "VisualNews_i2t": (100_000, 42_368),
    "MSCOCO_t2i": (100_000, 44_416),
    "MSCOCO_i2t": (113_500, 45_888),
    "NIGHTS": (15_950, 12_991),
    "WebQA": (17_150, 13_312),
    "MSCOCO": (100_000, 46_272),
}


@dataclass(frozen=True, slots=True)
class Published:
    """rows: in the source; sampled: of these UME-R1 took; released: stand in its released data."""

    source: str
    rows: int
    exact: bool
    sampled: int
    released: int

    @property
    def kept_share(self) -> float:
        return self.released / self.sampled

    def agrees(self, rows: int) -> bool:
        """Whether a count of rows is the published one, as far as that is known."""
        return rows == self.rows if self.exact else abs(rows - self.rows) <= ROUNDED * self.rows


PUBLISHED: dict[str, Published] = {
    published.source: published
    for published in (
        *(Published(f"mmeb/{name}", rows, False, min(rows, MMEB_DRAW), kept) for name, (rows, kept) in _MMEB.items()),
        Published("llava_hound/caption_retrieval", 300_000, False, 300_000, 235_513),
        Published("llava_hound/video_retrieval", 300_000, False, 300_000, 248_634),
        Published("llava_hound/qa", 255_000, False, 255_000, 212_539),
        Published("vidore/colpali_train_set", 118_195, True, 118_195, 99_648),
        Published("visrag", 122_752, True, 122_752, 81_726),
    )
}
MMEB_SUBSETS = tuple(_MMEB)


def published_name(source: str) -> str:
    """The name under which a source's counts were published: VisRAG's six sources have one count together."""
    return "visrag" if source.startswith("visrag/") else source
