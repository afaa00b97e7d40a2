"""Conversations: read, checked and split (`read`), in one shape whatever their files look like."""

from loratrack.data.conversations.conversation import Conversation, Message
from loratrack.data.conversations.corpus import Conversations, Settings, read

__all__ = ["Conversation", "Conversations", "Message", "Settings", "read"]
