"""What reinforcement learning shows of itself: its rollouts, when it must stop, and what it changed."""
