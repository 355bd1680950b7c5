"""Trains on an NVIDIA GPU without waiting for the device in every step."""
