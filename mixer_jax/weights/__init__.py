"""Weights in and out: the original's .npz, timm's .safetensors and .pth, model folders of our own."""
