"""`lposekit cache-latents`: encode a dataset once, so that training needs no VAE (39 % of stage 1)."""
