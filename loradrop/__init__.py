"""LoRA-drop (arXiv 2402.07721): keep LoRA where its output matters, share it everywhere else."""
