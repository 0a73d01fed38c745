"""A small text-to-image model from nothing, in Stable Diffusion's layout."""
