"""Training: the agent (parts, optimisers, explicit state), the trainer, checkpoints and logs."""
