"""Torchmetrics shared by the tasks."""
