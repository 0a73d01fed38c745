"""Icons in colour with captions: real images for a small text-to-image model."""
