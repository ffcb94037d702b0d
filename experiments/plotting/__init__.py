"""How figures look: words, colours, and the plots that reports and W&B share."""
