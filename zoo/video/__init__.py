"""Video encoders: frames in, features per time step (and grid) out."""
