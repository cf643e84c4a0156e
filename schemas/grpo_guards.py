"""When reinforcement learning stops by itself: limits on what its steps show."""

from __future__ import annotations

from pydantic import Field

from schemas.sources import Section


class GrpoGuards(Section):
    """Limits on means over the last `window` steps, against the mean of the first `window`: the baseline.

    Shares are of the baseline. A limit that is relative to the baseline is passed only where the difference is also
    more than `sigmas` standard errors: steps are of unlike sources, and a baseline of few steps is no exact number.
    """

    enabled: bool = Field(default=True, description="False: nothing stops a training but its end")
    window: int = Field(default=10, ge=2, description="Steps of the baseline and of the window that moves")
    warm_up: int = Field(default=10, ge=0, description="Steps until the first verdict, at least `window`")
    sigmas: float = Field(default=3.0, ge=0, description="Standard errors that a difference must be above; 0: any")
    format_fall: float = Field(default=0.15, gt=0, description="Largest fall of the format reward, as a share")
    ranking_fall: float = Field(default=0.25, gt=0, description="Largest fall of the ranking, as a share")
    gap_fall: float = Field(default=0.25, gt=0, description="Largest fall of the similarity gap, as a share")
    max_kl: float = Field(default=1.0, gt=0, description="Largest KL to the reference, nats a token")
    shortest: float = Field(default=0.4, ge=0, lt=1, description="Least completion length, times the baseline")
    longest: float = Field(default=2.5, gt=1, description="Largest completion length, times the baseline")
    least_entropy: float = Field(default=0.05, ge=0, lt=1, description="Least entropy, times the baseline")
    most_entropy: float = Field(default=4.0, gt=1, description="Largest entropy, times the baseline")
    bad_steps: int = Field(default=1, ge=1, description="Steps in a row with a loss or gradient that is no number")
