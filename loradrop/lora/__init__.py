"""Where LoRA sits: the layer, finding places for it, putting it in, and PEFT's layers seen the same
way.
"""
