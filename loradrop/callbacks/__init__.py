"""LoRA-drop's steps inside somebody else's training loop."""
