"""Words of a response that the model reads wrong while it still has to write them right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from umer1_core.backbone.collate import IGNORED


def misread(ids: Tensor, labels: Tensor, share: float, kept: Sequence[int]) -> Tensor:
    """Put other words of the batch's responses in the place of some, so that attributes are read from the input.

    ids, labels: [lines, length]; kept: ids that stay, as `<gen_emb>`. Draws from torch's random state on the CPU.
    """
    words = (labels != IGNORED) & ~torch.isin(ids, ids.new_tensor(kept))
    chosen = words & (torch.rand(ids.shape) < share).to(ids.device)
    pool = ids[words]
    drawn = pool[torch.randint(max(1, len(pool)), (int(chosen.sum()),)).to(ids.device)]
    return ids.masked_scatter(chosen, drawn)


def shared_words(responses: Sequence[Sequence[int]], share: float = 0.5) -> tuple[int, ...]:
    """Ids that so many of the responses hold: their common form, which says nothing about any one input.

    Left as they are, a misread response still shows at which place of it the model is.
    """
    counts = Counter(word for response in responses for word in set(response))
    return tuple(sorted(word for word, count in counts.items() if count >= share * len(responses)))
