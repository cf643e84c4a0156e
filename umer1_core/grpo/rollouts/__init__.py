"""Where rollouts come from: transformers in this process, or vLLM with the policy's weights."""
