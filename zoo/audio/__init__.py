"""Sound encoders: samples in, features per time step out."""
