"""Report text read by a chat model behind an OpenAI-compatible server."""
