"""Conversations: prompts, and the answers that are learned."""
