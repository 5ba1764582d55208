"""hf_emotion."""
